"""What was measured on one layer, or one tensor, inside a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .verdict import Errors

# Units in the last place: half of one, and what float64 itself may have rounded.
ROUNDED_ONCE = 0.501


@dataclass(frozen=True)
class LocalError:
    """What a layer of the file does to its own input.

    Attributes:
        error: the difference from what the layer makes of it in float64, of that element whose error comes nearest to its
            bound, or is furthest beyond.
        bound: what rounding explains of it.
        use: the ratio of the two; above 1 rounding does not explain it.
    """

    error: float
    bound: float
    use: float

    @property
    def passed(self) -> bool:
        return self.use <= 1

    def to_dict(self) -> dict[str, Any]:
        return {"error": self.error, "bound": self.bound, "use": self.use, "passed": self.passed}


@dataclass(frozen=True)
class LayerCheck:
    """What was measured on one layer.

    Attributes:
        layer, type: the layer's name and class; the node's and its operator's, where the original is an ONNX file.
        tensor: the tensor of the file that was compared.
        errors: the original's and the file's largest error against float64, added up over this layer and all before it.
        local: the error that this layer makes of its own input, beside what rounding explains; None where no bound is known.
        weights: how far the stored weights are from the exact ones, in units in the last place; None where that cannot be told.
    """

    layer: str
    type: str
    tensor: str
    errors: Errors
    local: LocalError | None = None
    weights: float | None = None

    @property
    def passed(self) -> bool:
        return self.errors.use <= 1 and self.explained

    @property
    def explained(self) -> bool:
        """Whether rounding explains what the layer does and what its weights are, as far as is known."""
        return (self.local is None or self.local.passed) and (self.weights is None or self.weights <= ROUNDED_ONCE)

    @property
    def verdict(self) -> str:
        """ "passed"; "drifts", where only the accumulated error is too large, which no verdict goes by; or "FAILED"."""
        return "FAILED" if not self.explained else "passed" if self.passed else "drifts"

    def faults(self) -> list[str]:
        """What rounding does not explain, in words."""
        found = []
        if self.local is not None and not self.local.passed:
            found.append(
                f"the file is {self.local.error:.2g} away from what this layer makes of its input in float64, where rounding "
                f"explains {self.local.bound:.2g}"
            )
        if self.weights is not None and self.weights > ROUNDED_ONCE:
            found.append(weight_fault(self.weights))
        return found

    def row(self) -> tuple[str, ...]:
        """The row of the report's table."""
        errors, local = self.errors, self.local
        numbers = [errors.magnitude, errors.model_error, errors.file_error, errors.allowed]
        own = [local.error, local.bound] if local else []
        shown = [f"{number:.3g}" for number in (*numbers, *own)] + [""] * (2 - len(own))
        weights = "" if self.weights is None else f"{self.weights:.3g}"
        return (self.layer, self.type, *shown, weights, self.verdict)

    def to_dict(self) -> dict[str, Any]:
        return {
            "layer": self.layer,
            "type": self.type,
            "tensor": self.tensor,
            "passed": self.passed,
            **self.errors.to_dict(),
            "verdict": self.verdict,
            "local": self.local.to_dict() if self.local else None,
            "weights": self.weights,
        }


def weight_fault(units: float) -> str:
    """What is to be said of weights so many units in the last place away from the folded ones."""
    away = f"a stored weight is {units:.3g} units in the last place away from the folded one"
    return f"{away}, where rounding explains half of one"
