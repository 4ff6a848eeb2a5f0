"""How large an error may be: the bound of the check, and the numbers it is made from.

The truth is a run of the ORIGINAL model, before any folding, in float64. Two errors are measured against it, both as the
largest absolute difference over a tensor:

    E_model   of the model itself, as Keras computes it in float32
    E_file    of the file, as onnxruntime computes it

The file passes where, with m the largest |truth|,

    E_file <= max(4 * E_model, ATOL + RTOL * m)

Both compute the same function in float32 with other rounding, so that their errors are of one size: the factor 4 allows
for the luck of either. One batch of zeros is a single draw, on which either may be lucky; so all three numbers are taken over
all batches of one kind together: the user's data, the seeded inputs of an ordinary range, those of a large range. The floor,
some 80 units in the last place of the largest output, is for a model whose every error happens to be near zero. A model that
is itself far from its float64 run proves nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FACTOR = 4.0
ATOL = 1e-8
RTOL = 1e-5
# The model's own float32 error, over the largest output, above which its float64 run is no truth to compare with.
CHAOTIC = 0.05


@dataclass(frozen=True)
class Errors:
    """What the inputs of one kind showed on one tensor.

    Attributes:
        inputs: their kind: "data", "seeded" or "large range".
        magnitude: the largest |truth|.
        model_error: E_model, the error of the float32 Keras model.
        file_error: E_file, the error of the file.
    """

    inputs: str
    magnitude: float
    model_error: float
    file_error: float

    @property
    def allowed(self) -> float:
        """The bound on E_file."""
        return max(FACTOR * self.model_error, ATOL + RTOL * self.magnitude)

    @property
    def use(self) -> float:
        """How much of the bound the error uses up; the file passes up to 1."""
        return self.file_error / self.allowed

    @property
    def proves_nothing(self) -> bool:
        """Whether the model's own float32 output is too far from its float64 run."""
        return self.model_error > CHAOTIC * self.magnitude + ATOL

    @property
    def passed(self) -> bool:
        return self.use <= 1 and not self.proves_nothing

    def with_batch(self, other: Errors) -> Errors:
        """These inputs and another batch of their kind together."""
        return Errors(
            self.inputs,
            max(self.magnitude, other.magnitude),
            max(self.model_error, other.model_error),
            max(self.file_error, other.file_error),
        )

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "allowed": self.allowed}


def largest(values: NDArray[Any]) -> float:
    """The largest absolute value; 0 for none."""
    return float(np.abs(values.astype(np.float64)).max(initial=0.0))


def difference(values: NDArray[Any], truth: NDArray[Any]) -> float:
    """The largest absolute difference, taken in float64."""
    return largest(values.astype(np.float64) - truth.astype(np.float64))
