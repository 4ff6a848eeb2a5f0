"""An ONNX file in onnxruntime, with its graph optimisations off and on, fed with the arrays that its Keras model takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from .errors import BrokenModelError, UnsupportedError, UsageError
from .file_inputs import FileInputs
from .layouts import FROM_MODEL, LAYOUT_KEY
from .onnx_opening import open_onnx
from .sessions import session
from .wording import quote, reason

Array = NDArray[Any]

KINDS = ("float16", "int8")  # of lower precision
PRECISION_KEY = "kbn.precision"  # the metadata entry of a file that `kbn export` has lowered

_NUMPY = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(bool)": np.bool_,
}


class Runtime:
    """Runs the file twice for each input: as it is written, and as onnxruntime optimises it by default.

    Args:
        path: the file.
        content: what to run in its place, as bytes; None for the file itself.
        as_written_only: leave the optimised run out.

    Attributes:
        precision: "float16" or "int8" for a file that kbn has lowered, else "".

    Raises:
        UsageError: there is no such file.
        BrokenModelError, UnsafeModelError: `open_onnx` refuses it, or onnxruntime cannot load it.
    """

    def __init__(self, path: Path, content: bytes | None = None, as_written_only: bool = False) -> None:
        if not path.is_file():
            raise UsageError(f"There is no ONNX file {str(path)!r}. Write one with `kbn export MODEL {path.name}`.")
        self.path = path
        if content is None:  # else it is that of a file which was opened before
            open_onnx(path, weights=False)
        with self._told():
            self._sessions = [
                session(
                    content or path, optimised=optimised, weights_folder=path.absolute().parent if content else None
                )
                for optimised in ([False] if as_written_only else [False, True])
            ]
        metadata = self._sessions[0].get_modelmeta().custom_metadata_map
        self._axes = FROM_MODEL.get(metadata.get(LAYOUT_KEY, ""))
        self.precision = kind if (kind := metadata.get(PRECISION_KEY, "")) in KINDS else ""
        self._inputs = self._sessions[0].get_inputs()
        self.input_names = [value.name for value in self._inputs]
        self.input_shapes = [self._as_model_has_it(value.shape) for value in self._inputs]
        self.outputs = self._sessions[0].get_outputs()
        self.output_names = [value.name for value in self.outputs]

    def run(self, arrays: Sequence[Array]) -> list[list[Array]]:
        """The outputs for these inputs in the file's order, a list per optimisation level.

        Raises:
            UsageError: an array has a type that the file does not take.
            BrokenModelError: the file fails while it runs.
        """
        return self._run(self.feeds(arrays))

    def run_as_declared(self, arrays: Sequence[Array]) -> list[list[Array]]:
        """The same for arrays that are as the file takes them, in layout and type."""
        return self._run({value.name: array for value, array in zip(self._inputs, arrays, strict=True)})

    @cached_property
    def inputs(self) -> FileInputs:
        """What the file takes, as it is declared; raises UsageError for an input that holds no numbers."""
        return FileInputs.of(self._sessions[0], self.path)

    def check_outputs(self) -> None:
        """Raises UnsupportedError for an output that is no tensor of numbers."""
        for value in self.outputs:
            if not value.type.startswith("tensor(") or value.type == "tensor(string)":
                raise UnsupportedError(
                    f"Output {quote(value.name)} of {self.path} holds {value.type}; only tensors of numbers are compared."
                )

    def _run(self, feeds: dict[str, Array]) -> list[list[Array]]:
        with self._told():
            return [each.run(None, feeds) for each in self._sessions]

    def feeds(self, arrays: Sequence[Array]) -> dict[str, Array]:
        """The arrays, which are as the Keras model takes them, as the file does: by name, in its layout and type.

        Raises:
            UsageError: an array has a type that the file does not take.
        """
        return {value.name: self._as_declared(array, value) for value, array in zip(self._inputs, arrays, strict=True)}

    def _as_model_has_it(self, shape: list[Any]) -> list[Any]:
        if self._axes is None or len(shape) != 4:
            return shape
        return [shape[self._axes.index(axis)] for axis in range(4)]

    def _as_declared(self, array: Array, declared: Any) -> Array:
        if declared.type not in _NUMPY:
            raise UsageError(
                f"Input {declared.name!r} of {self.path.name} holds {declared.type}, which no array here has."
            )
        if self._axes is not None and array.ndim == 4:
            array = array.transpose(self._axes)
        return np.ascontiguousarray(array, _NUMPY[declared.type])

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turns what onnxruntime raises, whose classes share no base but Exception, into one error."""
        try:
            yield
        except Exception as error:
            raise BrokenModelError(f"onnxruntime cannot run {str(self.path)!r}: {reason(error)}.") from error


def inside(path: Path, tensors: Sequence[str]) -> Runtime:
    """The file as it is written, with these tensors for outputs: a copy in memory."""
    proto = open_onnx(path, weights=False)
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    return Runtime(path, proto.SerializeToString(), as_written_only=True)
