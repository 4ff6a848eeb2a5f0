"""The inputs of an ONNX file beside those of another: which number belongs where, and on which axis.

Inputs are matched by position. Images may lie NHWC in one file and NCHW in the other: the metadata entry that
`kbn export --input-layout` writes tells, and where it does not, nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import UsageError
from .layouts import FROM_MODEL, LAYOUT_KEY
from .wording import quote

Array = NDArray[Any]

_AS_IT_IS = (0, 1, 2, 3)


@dataclass(frozen=True)
class Port:
    """One input of a file: dimensions are numbers where fixed, names where named, else None."""

    name: str
    shape: tuple[int | str | None, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class FileInputs:
    """What one file takes.

    Attributes:
        path: the file.
        ports: its inputs, in their order.
        from_model: the order in which its images have the axes of the Keras model, as its metadata tell.
    """

    path: Path
    ports: tuple[Port, ...]
    from_model: tuple[int, ...]

    @classmethod
    def of(cls, session: Any, path: Path) -> FileInputs:
        """Those of a session of onnxruntime; raises UsageError for an input that holds no numbers."""
        ports = tuple(Port(each.name, tuple(each.shape), _dtype(each, path)) for each in session.get_inputs())
        layout = session.get_modelmeta().custom_metadata_map.get(LAYOUT_KEY, "")
        return cls(path, ports, FROM_MODEL.get(layout, _AS_IT_IS))

    def axes_from(self, first: FileInputs, index: int) -> tuple[int, ...]:
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
            f"the same inputs to be compared.{hint}"
        )

    def check_kinds(self, first: FileInputs) -> None:
        """Raises UsageError where this file takes another number of inputs, or other kinds of numbers."""
        if len(self.ports) != len(first.ports):
            raise UsageError(
                f"{self.path} takes {len(self.ports)} inputs, where {first.path} takes {len(first.ports)}. Files must take the "
                "same inputs to be compared."
            )
        for index, (ours, theirs) in enumerate(zip(self.ports, first.ports, strict=True)):
            # float16 for float32 and int32 for int64 is what is to be compared; an index for a number is another model.
            if {ours.dtype.kind, theirs.dtype.kind} not in ({"f"}, {"b"}, {"i"}, {"u"}, {"i", "u"}):
                raise UsageError(
                    f"Input {index} of {self.path} holds {ours.dtype}, where {first.path} takes {theirs.dtype}. Files must "
                    "take the same inputs to be compared."
                )


def _dtype(value: Any, path: Path) -> np.dtype[Any]:
    """onnxruntime calls an input tensor(float), tensor(int64), tensor(string), seq(...)."""
    held = re.fullmatch(r"tensor\((\w+)\)", value.type)
    word = held[1] if held else ""
    try:
        dtype = np.dtype({"float": "float32", "double": "float64"}.get(word, word or "?"))
    except TypeError:
        dtype = np.dtype(object)
    if not held or dtype.kind not in "fiub":
        raise UsageError(
            f"Input {quote(value.name)} of {path} takes {value.type}, of which kbn draws none. Take a file whose "
            "inputs are numbers that numpy has."
        )
    return dtype


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
