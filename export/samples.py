"""The inputs on which a file is compared with its model: seeded ones, and the user's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from .errors import UsageError
from .model_ports import input_ports
from .named_arrays import arrays_of
from .rules.rule import Shape

Array = NDArray[Any]

# Sizes that stand in for dynamic axes, in their order, by the rank of the input: small, unequal, and divisible by what
# encoders halve.
_SIZES = {2: (16, 24), 3: (16, 24), 4: (64, 96), 5: (16, 24, 32)}


@dataclass(frozen=True)
class Sample:
    """One set of inputs: a word that says where it comes from, and an array per model input."""

    origin: str
    arrays: tuple[Array, ...]

    @property
    def kind(self) -> str:
        """Which samples are judged together: "data", "seeded" or "large range"."""
        return self.origin if self.origin in ("data", "large range") else "seeded"


def seeded_samples(model: keras.Model, seed: int, shapes: Sequence[Shape] | None = None) -> Iterator[Sample]:
    """Random inputs of batch 1 and 3, a second size where an axis is dynamic, zeros, negative integers, and a large range.

    shapes: of the inputs, in the model's layout, where they are not the model's own.
    """
    random = np.random.default_rng(seed)
    shapes = shapes or own_shapes(model)
    dynamic = any(None in shape[1:] for shape in shapes)
    signed = any(tensor.dtype.startswith("int") for tensor in model.inputs) and not _embeddings(model)
    cases = [("random", 3, 0), ("random", 1, 0), *([("second size", 1, 1)] if dynamic else []), ("zeros", 1, 0)]
    cases += [("negative", 3, 0)] if signed else []
    for origin, batch, size in [*cases, ("large range", 2, 0)]:
        arrays = []
        for tensor, declared in zip(model.inputs, shapes, strict=True):
            shape = _concrete(declared, batch, size)
            if "float" not in tensor.dtype:
                limit = 1 if origin == "zeros" else _integer_limit(model, tensor.dtype)
                low = -limit if origin == "negative" and tensor.dtype.startswith("int") else 0
                arrays.append(random.integers(low, limit, shape).astype(tensor.dtype))
            elif origin == "zeros":
                arrays.append(np.zeros(shape, np.float32))
            elif origin == "large range":
                arrays.append(random.uniform(-255, 255, shape).astype(np.float32))
            else:
                arrays.append(random.normal(size=shape).astype(np.float32))
        yield Sample(origin, tuple(arrays))


def own_shapes(model: keras.Model) -> list[Shape]:
    """The shapes of the model's inputs."""
    return [tuple(tensor.shape) for tensor in model.inputs]


def _concrete(shape: Sequence[int | None], batch: int, size: int) -> tuple[int, ...]:
    """The shape with its dynamic axes filled in; `size` 0 or 1 begins with the first or the second of the sizes."""
    sizes = _SIZES.get(len(shape), (16, 24))
    filled, dynamic = [shape[0] or batch], size
    for axis in shape[1:]:
        filled.append(sizes[dynamic % len(sizes)] if axis is None else axis)
        dynamic += axis is None
    return tuple(filled)


def _embeddings(model: keras.Model) -> list[Any]:
    return [layer for layer in model._flatten_layers() if isinstance(layer, layers.Embedding)]


def _integer_limit(model: keras.Model, dtype: str) -> int:
    """One above the largest integer to draw: every Embedding of the model has a row for it, and the dtype room."""
    if dtype == "bool":
        return 2
    rows = [layer.input_dim for layer in _embeddings(model)]
    known = bool(rows) or np.iinfo(dtype).bits == 8
    return int(min([*rows, np.iinfo(dtype).max + 1])) if known else 10


def user_samples(
    model: keras.Model, data: Any, shapes: Sequence[Shape] | None = None, batch_size: int = 32
) -> Iterator[Sample]:
    """The user's data in batches.

    Args:
        model: tells the names, shapes and dtypes of the inputs.
        data: one array, a sequence with an array per input, or a mapping from input names to arrays; the first axis of
            each counts the examples. A mapping may also name them x, or x0, x1, ..., as npz files do.
        shapes: of the inputs, in the model's layout, where they are not the model's own.
        batch_size: how many examples go into one batch where the model leaves the batch axis open.

    Raises:
        UsageError: an array is missing, or its shape or dtype does not fit its input.
    """
    shapes = shapes or own_shapes(model)
    names = [port.name for port in input_ports(model, None)]
    arrays = arrays_of(data, names, "the model")
    dtypes = [tensor.dtype for tensor in model.inputs]
    checked = tuple(_fitting(*each) for each in zip(arrays, shapes, dtypes, names, strict=True))
    counts = {len(array) for array in checked}
    if len(counts) != 1 or 0 in counts:
        found = ", ".join(f"{name}: {len(array)}" for name, array in zip(names, checked, strict=True))
        raise UsageError(
            f"The data must hold the same number of examples, at least one, for each input; found {found}."
        )
    fixed = next((shape[0] for shape in shapes if shape[0] is not None), None)
    count, step = counts.pop(), fixed or batch_size
    if fixed and count % fixed:
        raise UsageError(
            f"The inputs take batches of exactly {fixed}; the data holds {count} examples, not a multiple."
        )
    for start in range(0, count, step):
        yield Sample("data", tuple(array[start : start + step] for array in checked))


def _fitting(array: Array, expected: Shape, dtype: str, name: str) -> Array:
    """The array in the dtype of the input, of which no number is changed but for the rounding to float32."""
    shown = "(" + ", ".join("any" if axis is None else str(axis) for axis in expected) + ")"
    fits = array.ndim == len(expected) and all(
        axis is None or axis == size for axis, size in zip(expected[1:], array.shape[1:], strict=True)
    )
    if not fits:
        raise UsageError(
            f"The data for input {name!r} has shape {array.shape}, but the model's input takes {shown}, the first axis "
            "counting examples; data is laid out as the Keras model takes it, whatever the file's layout."
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
