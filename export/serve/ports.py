"""The inputs and outputs of a loaded file, as the protocol names them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UnsupportedError
from ..wording import quote
from .datatypes import NUMPY, OF_ONNXRUNTIME

FREE = -1


@dataclass(frozen=True)
class Port:
    """An input or output.

    Attributes:
        datatype: the protocol's word, such as FP32.
        shape: its sizes, -1 where free.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        return NUMPY[self.datatype]

    @property
    def has_free_batch(self) -> bool:
        return bool(self.shape) and self.shape[0] == FREE

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


def ports_of(values: Sequence[Any], path: Path) -> tuple[Port, ...]:
    """Those of a session's get_inputs() or get_outputs().

    Raises:
        UnsupportedError: one is no tensor, or of a type that the protocol has no name for.
    """
    ports = []
    for value in values:
        if value.type not in OF_ONNXRUNTIME:
            raise UnsupportedError(
                f"{path}: {quote(value.name)} holds {value.type}, for which the Open Inference Protocol has no datatype. "
                f"Export the model with tensors of {', '.join(OF_ONNXRUNTIME.values())} at its inputs and outputs."
            )
        shape = tuple(size if isinstance(size, int) and size >= 0 else FREE for size in value.shape)
        ports.append(Port(value.name, OF_ONNXRUNTIME[value.type], shape))
    return tuple(ports)
