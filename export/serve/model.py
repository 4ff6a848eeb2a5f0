"""One ONNX file, loaded: its session, its inputs and outputs, and a run that tells whose fault a failure is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ..errors import BrokenModelError, UnsupportedError
from ..sessions import session
from ..wording import quote, reason
from .ports import Port, ports_of
from .refusal import RefusedError
from .verifying import VerifiedFile, check_unchanged, verify

Array = NDArray[Any]

_LARGE = 16 * 1024 * 1024

# Idle threads that spin burn a core at 20 requests per second; they sleep instead.
_ENTRIES = {"session.intra_op.allow_spinning": "0"}


@dataclass(frozen=True)
class Model:
    """A file that onnxruntime has loaded; runs are safe from several threads."""

    file: VerifiedFile
    session: Any
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    @property
    def path(self) -> Path:
        return self.file.path

    def run(self, feeds: Mapping[str, Array], names: Sequence[str] | None = None, options: Any = None) -> list[Array]:
        """The outputs of these names, or all in their order.

        Raises:
            RefusedError: the model cannot compute these values, as an index outside a table (400), or memory is short (503).
        """
        try:
            aligned = {name: np.require(array, requirements=["C", "A"]) for name, array in feeds.items()}
            return [np.asarray(array) for array in self.session.run(names, aligned, options)]
        except UnicodeDecodeError:
            raise RefusedError(400, "The model's answer holds a string that is not UTF-8.") from None
        except Exception as error:  # onnxruntime's classes share no base but Exception
            message = reason(error)
            if isinstance(error, MemoryError) or "allocat" in message.lower():
                raise RefusedError(503, "There is not enough memory for a request of this size.") from None
            raise RefusedError(400, f"The model cannot compute this input: {message}.") from None


def run_options(size: int) -> Any:
    """Options of one run; setting their `terminate` ends it early. After one with inputs of `size` bytes that are many, what
    onnxruntime took for it is given back: it would keep it for ever."""
    options = onnxruntime.RunOptions()
    if size > _LARGE:
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def load(path: Path, threads: int) -> Model:
    """Verifies a file and opens it.

    Raises:
        UsageError, UnsafeModelError: as `verify` raises them.
        BrokenModelError: it holds no model, or none that onnxruntime can load.
        UnsupportedError: its inputs or outputs are no tensors that the protocol has.
    """
    file = verify(path)
    try:
        # Memory plans are kept for each shape ever seen, and strangers choose the shapes.
        opened = session(path, threads=threads, entries=_ENTRIES, memory_pattern=False)
    except Exception as error:
        raise BrokenModelError(
            f"{path}: onnxruntime cannot load it: {reason(error)}. ONNX checker: {file.checker}."
        ) from None
    check_unchanged(file)
    values = opened.get_inputs()
    inputs, outputs = ports_of(values, path), ports_of(opened.get_outputs(), path)
    if unknown := [value.name for value in values if not value.shape and value.name not in file.scalars]:
        # onnxruntime shows the shape [] for a scalar, too
        raise UnsupportedError(f"{path}: input {quote(unknown[0])} declares no shape. Export the model with shapes.")
    return Model(file, opened, inputs, outputs)
