"""One ONNX file of a bench: a session of its own, and how its inputs lie beside the first file's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import BrokenModelError, UsageError
from .layouts import FROM_MODEL, LAYOUT_KEY
from .sessions import session
from .wording import quote, reason

Array = NDArray[Any]

_AS_IT_IS = (0, 1, 2, 3)


@dataclass(frozen=True)
class Port:
    """One input of a file: dimensions are numbers where fixed, names where named, else None."""

    name: str
    shape: tuple[int | str | None, ...]
    dtype: np.dtype[Any]


class Runner:
    """One file in a session of its own."""

    def __init__(self, path: Path, threads: int) -> None:
        self.path = path
        with self._told("Write it anew, and any file of weights beside it"):
            # The threads of the file that ran last would spin on the cores of the one that runs now, for up to a second.
            self._session = session(path, threads=threads, entries={"session.force_spinning_stop": "1"})
        self.ports = [Port(each.name, tuple(each.shape), self._dtype(each)) for each in self._session.get_inputs()]
        self.output_names = [value.name for value in self._session.get_outputs()]
        layout = self._session.get_modelmeta().custom_metadata_map.get(LAYOUT_KEY, "")
        self.from_model = FROM_MODEL.get(layout, _AS_IT_IS)
        self._feeds: dict[str, Array] = {}

    def axes_from(self, first: Runner, index: int) -> tuple[int, ...]:
        """The order in which this file's input has the axes of the first file's.

        1. For images, the layouts that the metadata tell, then both files' axes as they are: the first of these in which
        the same axes are fixed, at the same sizes. 2. Images that would match so in the other layout, of which no metadata
        tell: refused, rather than guessed. 3. The first order of case 1 that is not contradicted.

        Raises:
            UsageError: none fits.
        """
        ours, theirs = self.ports[index].shape, first.ports[index].shape
        orders, untold = [tuple(range(len(theirs)))], False
        if len(theirs) == len(ours) == 4:
            orders.insert(0, tuple(first.from_model.index(axis) for axis in self.from_model))
            untold = any(_fits(_same, order, theirs, ours) for order in FROM_MODEL.values())
        for match in [_same] if untold else [_same, compatible]:
            for order in orders:
                if _fits(match, order, theirs, ours):
                    return order
        hint = ""
        if untold:
            hint = (
                f" Images that lie NHWC in one file and NCHW in the other are matched where the metadata have {LAYOUT_KEY}, "
                "which `kbn export --input-layout` writes."
            )
        raise UsageError(
            f"Input {index} of {self.path} takes {shown(ours)}, where {first.path} takes {shown(theirs)}. Files must take "
            f"the same inputs to be benched together.{hint}"
        )

    def feed(self, first: Runner, arrays: Sequence[Array]) -> None:
        """Keeps the first file's inputs as this file takes them, so that a run converts nothing."""
        self._feeds = {}
        for index, (port, array) in enumerate(zip(self.ports, arrays, strict=True)):
            moved = array.transpose(self.axes_from(first, index))
            self._feeds[port.name] = converted(moved, port, self.path)

    def run(self) -> list[Any]:
        """The outputs.

        Raises:
            BrokenModelError: the file fails.
        """
        with self._told(
            "If random inputs are not for it (numbers normal, integers 0 to 9), give it others with --data"
        ):
            return list(self._session.run(None, self._feeds))

    def nanoseconds(self) -> int:
        """The time of a run; the outputs are freed after it."""
        run, feeds = self._session.run, self._feeds
        start = perf_counter_ns()
        outputs = run(None, feeds)
        spent = perf_counter_ns() - start
        del outputs
        return spent

    def _dtype(self, value: Any) -> np.dtype[Any]:
        """onnxruntime calls an input tensor(float), tensor(int64), tensor(string), seq(...)."""
        held = re.fullmatch(r"tensor\((\w+)\)", value.type)
        word = held[1] if held else ""
        try:
            dtype = np.dtype({"float": "float32", "double": "float64"}.get(word, word or "?"))
        except TypeError:
            dtype = np.dtype(object)
        if not held or dtype.kind not in "fiub":
            raise UsageError(
                f"Input {quote(value.name)} of {self.path} takes {value.type}, of which kbn draws none. Bench a file whose "
                "inputs are numbers that numpy has."
            )
        return dtype

    @contextmanager
    def _told(self, advice: str) -> Iterator[None]:
        """Turns what onnxruntime raises, whose classes share no base but Exception, into one error."""
        try:
            yield
        except Exception as error:
            raise BrokenModelError(
                f"onnxruntime cannot run {quote(str(self.path))}: {reason(error)}. {advice}."
            ) from error


def converted(array: Array, port: Port, path: Path) -> Array:
    """The array in the input's dtype, of which no number is changed but for the rounding of floats."""
    if array.dtype.kind not in "fiub":
        raise UsageError(f"The data for input {quote(port.name)} holds {array.dtype}, but {path} takes {port.dtype}.")
    with np.errstate(over="ignore", invalid="ignore"):  # what float16 cannot hold is infinite there, and shows as such
        converted = np.ascontiguousarray(array, port.dtype).reshape(array.shape)  # which makes a vector of a scalar
    if port.dtype.kind != "f" and not np.array_equal(converted, array):
        raise UsageError(
            f"The data for input {quote(port.name)} holds numbers that {port.dtype}, which {path} takes, has not."
        )
    return converted


def _fits(match: Callable[[Any, Any], bool], order: Sequence[int], theirs: Sequence[Any], ours: Sequence[Any]) -> bool:
    """Whether each axis of their shape, in this order, matches ours."""
    return len(theirs) == len(ours) and all(match(theirs[axis], size) for axis, size in zip(order, ours, strict=True))


def _same(ours: Any, theirs: Any) -> bool:
    """Whether two dimensions are both free, or fixed at the same size."""
    return ours == theirs if isinstance(ours, int) else not isinstance(theirs, int)


def compatible(ours: Any, theirs: Any) -> bool:
    """Whether two dimensions are not fixed at different sizes."""
    return not (isinstance(ours, int) and isinstance(theirs, int)) or ours == theirs


def shown(shape: Sequence[Any]) -> str:
    return "(" + ", ".join(str(value) if isinstance(value, int) else "any" for value in shape) + ")"
