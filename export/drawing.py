"""The inputs of a check, from nothing but what a model declares: seeded ones, and the user's own in batches.

Keras is not needed: samples.py says what a Keras model declares, onnx_parity.py what a file does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import UsageError
from .image_folder import ImageFolder
from .named_arrays import arrays_of

Array = NDArray[Any]

# Sizes that stand in for dynamic axes, in their order, by the rank of the input: small, unequal, and divisible by what
# encoders halve.
_SIZES = {2: (16, 24), 3: (16, 24), 4: (64, 96), 5: (16, 24, 32)}

_DRAWN_BELOW = 10  # integers of which nothing else is known


@dataclass(frozen=True)
class Declared:
    """One input as the model declares it.

    Attributes:
        name: the input's.
        shape: its axes; a free one is None, or a name, and axes of one name are of one size.
        dtype: numpy's name of it.
        limit: one above the largest integer that the model takes there.
        lowest: the smallest.
    """

    name: str
    shape: tuple[int | str | None, ...]
    dtype: str
    limit: int = _DRAWN_BELOW
    lowest: int = 0


@dataclass(frozen=True)
class Sample:
    """One set of inputs: a word that says where it comes from, and an array per model input."""

    origin: str
    arrays: tuple[Array, ...]

    @property
    def kind(self) -> str:
        """Which samples are judged together: "data", "seeded" or "large range"."""
        return self.origin if self.origin in ("data", "large range") else "seeded"

    @property
    def examples(self) -> int:
        """How many examples it holds."""
        return len(self.arrays[0]) if self.arrays and self.arrays[0].ndim else 1


def draw(inputs: Sequence[Declared], seed: int) -> Iterator[Sample]:
    """Random inputs of batch 3 and 1, a second size where an axis is dynamic, zeros, negative integers, and a large range."""
    random = np.random.default_rng(seed)
    dynamic = any(not isinstance(size, int) for each in inputs for size in each.shape[1:])
    cases = [("random", 3, 0), ("random", 1, 0), *([("second size", 1, 1)] if dynamic else []), ("zeros", 1, 0)]
    cases += [("negative", 3, 0)] if any(each.lowest < 0 for each in inputs) else []
    for origin, batch, size in [*cases, ("large range", 2, 0)]:
        arrays: list[Array] = []
        named: dict[str, int] = {}
        for each in inputs:
            shape = _concrete(each.shape, batch, size, named)
            if "float" not in each.dtype:
                low = each.lowest if origin == "negative" else 0
                drawn = random.integers(low, 1 if origin == "zeros" else each.limit, shape)
                arrays.append(np.asarray(drawn).astype(each.dtype))
            elif origin == "zeros":
                arrays.append(np.zeros(shape, np.float32))
            elif origin == "large range":
                arrays.append(np.asarray(random.uniform(-255, 255, shape), np.float32))
            else:
                arrays.append(np.asarray(random.normal(size=shape), np.float32))
        yield Sample(origin, tuple(arrays))


def integer_limit(dtype: str, rows: Iterable[int]) -> int:
    """One above the largest integer to draw: every table with so many rows has one for it, and the dtype room."""
    if "float" in dtype:
        return 0
    if dtype == "bool":
        return 2
    rows = list(rows)
    known = bool(rows) or np.iinfo(dtype).bits == 8
    return int(min([*rows, int(np.iinfo(dtype).max) + 1])) if known else _DRAWN_BELOW


def _concrete(shape: Sequence[int | str | None], batch: int, size: int, named: dict[str, int]) -> tuple[int, ...]:
    """The shape with its free axes filled in; `size` 0 or 1 begins with the first or the second of the sizes.

    named: what axes of these names have got; it is added to.
    """
    sizes = _SIZES.get(len(shape), (16, 24))
    filled, dynamic = [], size
    for position, axis in enumerate(shape):
        if isinstance(axis, int):
            filled.append(axis)
            continue
        chosen = sizes[dynamic % len(sizes)] if position else batch
        filled.append(named.setdefault(axis, chosen) if axis else chosen)
        dynamic += position > 0
    return tuple(filled)


def batches(inputs: Sequence[Declared], data: Any, batch_size: int = 32, owner: str = "the model") -> Iterator[Sample]:
    """The user's data in batches.

    Args:
        inputs: what the model declares.
        data: one array, a sequence with an array per input, or a mapping from input names to arrays; the first axis of
            each counts the examples. A mapping may also name them x, or x0, x1, ..., as npz files do. Or an ImageFolder, whose
            images are read as the batches are taken.
        batch_size: how many examples go into one batch where the model leaves the batch axis open.
        owner: whose inputs they are, for the message.

    Raises:
        UsageError: an array is missing, or its shape or dtype does not fit its input.
        BrokenModelError: an image cannot be read any more.
    """
    names = [each.name for each in inputs]
    checked: tuple[Any, ...]
    if isinstance(data, ImageFolder):
        checked = (data.pictures(inputs, owner),)
    else:
        arrays = arrays_of(data, names, owner)
        checked = tuple(_fitting(*pair) for pair in zip(arrays, inputs, strict=True))
    counts = {len(array) if array.ndim else 1 for array in checked}
    if len(counts) != 1 or 0 in counts:
        found = ", ".join(
            f"{name}: {len(array) if array.ndim else 1}" for name, array in zip(names, checked, strict=True)
        )
        raise UsageError(
            f"The data must hold the same number of examples, at least one, for each input; found {found}."
        )
    fixed = next((each.shape[0] for each in inputs if each.shape and isinstance(each.shape[0], int)), None)
    count, step = counts.pop(), fixed or batch_size
    if fixed and count % fixed:
        raise UsageError(
            f"The inputs take batches of exactly {fixed}; the data holds {count} examples, not a multiple."
        )
    for start in range(0, count, step):
        yield Sample("data", tuple(array[start : start + step] if array.ndim else array for array in checked))


def _fitting(array: Array, declared: Declared) -> Array:
    """The array in the dtype of the input, of which no number is changed but for the rounding to float32."""
    expected, dtype, name = declared.shape, declared.dtype, declared.name
    shown = "(" + ", ".join(str(axis) if isinstance(axis, int) else "any" for axis in expected) + ")"
    fits = array.ndim == len(expected) and all(
        not isinstance(axis, int) or axis == size for axis, size in zip(expected[1:], array.shape[1:], strict=True)
    )
    if not fits:
        raise UsageError(
            f"The data for input {name!r} has shape {array.shape}, but the model's input takes {shown}, the first axis "
            "counting examples; data is laid out as the model takes it, whatever the file's layout."
        )
    if array.dtype.kind not in "fiub":
        raise UsageError(f"The data for input {name!r} holds {array.dtype}, but the input takes {dtype}.")
    if not np.isfinite(array).all():
        raise UsageError(f"The data for input {name!r} holds NaN or infinity, with which nothing can be compared.")
    if "float" in dtype:
        return array.astype(np.float32)
    converted = array.astype(dtype)
    if not np.array_equal(converted, array):
        raise UsageError(f"The data for input {name!r} holds numbers that {dtype}, which the input takes, has not.")
    return converted
