"""What was measured on one layer, or one tensor, inside a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .verdict import Errors


@dataclass(frozen=True)
class LayerCheck:
    """What was measured on one layer.

    Attributes:
        layer, type: the layer's name and class; the node's and its operator's, where the original is an ONNX file.
        tensor: the tensor of the file that was compared.
        errors: the original's and the file's largest error against float64.
    """

    layer: str
    type: str
    tensor: str
    errors: Errors

    @property
    def passed(self) -> bool:
        return self.errors.use <= 1

    def to_dict(self) -> dict[str, Any]:
        return {
            "layer": self.layer,
            "type": self.type,
            "tensor": self.tensor,
            "passed": self.passed,
            **self.errors.to_dict(),
        }
