"""The inputs of a bench: one array for each input of the first file, drawn or given, that every file takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bench_runner import Runner
from .errors import UsageError
from .file_inputs import Port, compatible, converted, shown
from .image_folder import ImageFolder
from .named_arrays import arrays_of
from .wording import quote

Array = NDArray[Any]

_DRAWN_BELOW = 10


def inputs_of(runners: Sequence[Runner], batch: int, size: int, random: np.random.Generator, data: Any) -> list[Array]:
    """An array for each input of the first file."""
    first = runners[0]
    for runner in runners[1:]:
        runner.inputs.check_kinds(first.inputs)
    for runner in runners:
        _check_batch(runner, batch)
    shapes = _shapes(runners, batch, size)
    if isinstance(data, ImageFolder):
        images = data.pictures(first.ports, str(first.path))[:batch]
        return [converted(images[np.arange(batch) % len(images)], first.ports[0], first.path)]
    if data is not None:
        given = arrays_of(data, [port.name for port in first.ports], str(first.path))
        return [_fitted(*each, first, batch) for each in zip(given, first.ports, shapes, strict=True)]
    arrays = []
    for port, shape in zip(first.ports, shapes, strict=True):
        limit = 2 if port.dtype.kind == "b" else _DRAWN_BELOW
        drawn: Array = random.normal(size=shape) if port.dtype.kind == "f" else random.integers(0, limit, shape)
        arrays.append(np.asarray(drawn).astype(port.dtype))
    return arrays


def _check_batch(runner: Runner, batch: int) -> None:
    """Refuses a file whose batch is fixed: no input has a free first axis, and the first that has one has another size."""
    sizes = [port.shape[0] for port in runner.ports if port.shape]
    if sizes and all(isinstance(fixed, int) for fixed in sizes) and sizes[0] != batch:
        raise UsageError(
            f"{runner.path} takes batches of exactly {sizes[0]}, where {batch} was asked for. Bench with batch {sizes[0]}, or "
            "export the file with a free batch."
        )


def _shapes(runners: Sequence[Runner], batch: int, size: int) -> list[tuple[int, ...]]:
    """A size for each axis of the first file's inputs.

    1. One that any file fixes is that. 2. The first axis, one called `batch`, and one called like a first axis, is the batch
    size. 3. One called like an axis of case 1 is as long. 4. Any other is `size`.
    """
    first = runners[0]
    fixed = [[{value} if isinstance(value, int) else set() for value in port.shape] for port in first.ports]
    for runner in runners[1:]:
        for index, port in enumerate(runner.ports):
            for axis, value in zip(runner.inputs.axes_from(first.inputs, index), port.shape, strict=True):
                fixed[index][axis] |= {value} if isinstance(value, int) else set()
    named: dict[int | str | None, int] = {}
    for port, sizes in zip(first.ports, fixed, strict=True):
        for value, found in zip(port.shape, sizes, strict=True):
            if len(found) > 1:
                raise UsageError(
                    f"The files fix an axis of input {quote(port.name)} at different sizes, {sorted(found)}. Files must take "
                    "the same inputs to be compared."
                )
            if found and isinstance(value, str):
                named.setdefault(value, *found)
    named |= {port.shape[0]: batch for port in first.ports if port.shape and isinstance(port.shape[0], str)}
    named |= {"batch": batch}
    return [
        tuple(
            next(iter(found), named.get(value) or (size if axis else batch))
            for axis, (value, found) in enumerate(zip(port.shape, sizes, strict=True))
        )
        for port, sizes in zip(first.ports, fixed, strict=True)
    ]


def _fitted(array: Array, port: Port, shape: tuple[int, ...], first: Runner, batch: int) -> Array:
    """The array with as many examples as the batch, from the model's layout to the file's where that is another."""
    orders = [tuple(range(array.ndim))]
    if array.ndim == 4:
        orders.insert(0, first.from_model)
    for order in orders:
        moved = array.transpose(order)
        # The first axis counts examples, where the file does not use it for something else.
        counts = bool(port.shape) and shape[0] == batch and moved.ndim > 0
        wanted: list[Any] = [shape[axis] if isinstance(value, int) else None for axis, value in enumerate(port.shape)]
        sizes: list[Any] = list(moved.shape)
        if counts:
            wanted[0] = sizes[0] = None
        if len(sizes) == len(wanted) and all(map(compatible, wanted, sizes)) and 0 not in moved.shape:
            taken = moved[np.arange(batch) % len(moved)] if counts else moved
            return converted(taken, port, first.path)
    raise UsageError(
        f"The data for input {quote(port.name)} has shape {array.shape}, but {first.path} takes {shown(port.shape)}, the "
        "first axis counting examples, at least one."
    )
