"""How large an error may be: the bound of the check, and the numbers it is made from.

The truth is a run of the ORIGINAL model, before any folding, in float64. Two errors are measured against it, both as the
largest absolute difference over a tensor:

    E_model   of the model itself, as Keras computes it in float32
    E_file    of the file, as onnxruntime computes it

The file passes where, with m the largest |truth|,

    E_file <= max(4 * E_model, ATOL + RTOL * m)

and for integers, where E_file <= E_model: what float32 does not round must be right.

Derivation. To first order the error of one number is sum_j c_j d_j over the operations j before it, d_j the relative rounding
error of each, |d_j| <= u = 2^-24, and c_j how much the number depends on its result (Higham 2002, section 3.1). Of many
operations the sum is close to a normal distribution of mean 0 and some standard deviation s (Higham and Mary 2019). The model
and its file do the same operations with the same c_j, but for those that folding leaves out and the order of sums: so s is
one size for both, and E_model and E_file are each the largest of N draws of it. The chance that E_file is more than 4 times
E_model by luck:

    N independent numbers           1       3       5        10        30       100
    of one s                       0.16   0.027   0.0062   3.2e-4    1.7e-7   1.2e-12
    the file's s 1.5 times         0.23   0.077   0.033    6.6e-3    1.5e-4   6.5e-7

(the density of the largest of N half-normal draws, integrated over the distribution of the other). With tens of numbers 4
leaves no room for luck. For outputs of few numbers, or numbers whose errors go together, there is the floor: RTOL is 84 units
in the last place of the largest output, ATOL what a runtime's tanh may err by. A fault below it can hide from the outputs,
and is what the layers' own errors are for (local_error.py). So that no batch is a draw of its own, all three numbers are
taken over all batches of one kind together: the user's data, the seeded inputs of an ordinary range, those of a large range.
What the ratio is on right files, benchmarks/error_ratio.py measures.

A kind of input proves nothing where nothing finite comes out, or where the model itself, in the precision that it has, is far
from the float64 run: then that run is no truth; nor where ATOL alone excuses an error that is of the size of the outputs. One
kind that proves something is enough.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FACTOR = 4.0
ATOL = 1e-7
RTOL = 1e-5
# The error of the model in float32, over the largest output, above which its float64 run is no truth to compare with.
CHAOTIC = 0.05


@dataclass(frozen=True)
class Errors:
    """What the inputs of one kind showed on one tensor.

    Attributes:
        kind: of the inputs: "data", "seeded" or "large range".
        magnitude: the largest |truth|.
        model_error: E_model, the error of the model in float32.
        file_error: E_file, the error of the file.
        compared: how many numbers were finite and so could be compared.
        departed: whether the model as it came, in its own precision, is too far from its float64 run.
        exact: whether the numbers are integers, of which the file's must be the model's.
    """

    kind: str
    magnitude: float
    model_error: float
    file_error: float
    compared: int = 1
    departed: bool = False
    exact: bool = False

    @property
    def allowed(self) -> float:
        """The bound on E_file."""
        if self.exact:
            return self.model_error
        return max(FACTOR * self.model_error, ATOL + RTOL * self.magnitude)

    @property
    def use(self) -> float:
        """How much of the bound the error uses up; the file passes up to 1."""
        if not self.allowed:
            return math.inf if self.file_error else 0.0
        return self.file_error / self.allowed

    @property
    def proves_nothing(self) -> bool:
        """Whether there is nothing finite, or the model itself is too far from its float64 run; an infinite error is one."""
        if self.file_error == math.inf:
            return False
        return not self.compared or self.departed or self.model_error > CHAOTIC * self.magnitude or self._excused_alone

    @property
    def _excused_alone(self) -> bool:
        """Whether only ATOL excuses the error, where it is of the size of the outputs: zeros would be excused as well."""
        near = max(FACTOR * self.model_error, RTOL * self.magnitude)
        return near < self.file_error <= self.allowed and self.allowed > CHAOTIC * self.magnitude

    @property
    def verdict(self) -> str:
        """ "passed", "FAILED" or "proves nothing"."""
        if self.proves_nothing:
            return "proves nothing"
        return "passed" if self.use <= 1 else "FAILED"

    def with_batch(self, other: Errors) -> Errors:
        """These inputs and another batch of their kind together."""
        return Errors(
            self.kind,
            max(self.magnitude, other.magnitude),
            max(self.model_error, other.model_error),
            max(self.file_error, other.file_error),
            self.compared + other.compared,
            self.departed or other.departed,
            self.exact or other.exact,
        )

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "allowed": self.allowed, "verdict": self.verdict}


def largest(values: NDArray[Any]) -> float:
    """The largest absolute value; 0 for none."""
    return float(np.abs(values.astype(np.float64)).max(initial=0.0))


def difference(values: NDArray[Any], truth: NDArray[Any]) -> float:
    """The largest absolute difference, taken in float64; of integers past 2^53 that are alike there 1 at least."""
    found = largest(values.astype(np.float64) - truth.astype(np.float64))
    whole = values.dtype.kind in "iub" and truth.dtype.kind in "iub"
    return 1.0 if whole and not found and not np.array_equal(values, truth) else found


def errors_of(kind: str, truth: NDArray[Any], model: NDArray[Any], files: Sequence[NDArray[Any]]) -> Errors:
    """The errors where both the truth and the model are finite; that of a file which is not finite there is infinite.

    Args:
        kind: of the inputs.
        truth, model: a tensor in float64, and as the model gives it in its own precision.
        files: the same as the file gives it, in each way of running it.
    """
    finite = np.isfinite(truth) & np.isfinite(model)
    truth, model, files = truth[finite], model[finite], [file[finite] for file in files]
    found = max((difference(file, truth) if np.isfinite(file).all() else math.inf for file in files), default=0.0)
    exact = truth.dtype.kind in "iub"
    return Errors(kind, largest(truth), difference(model, truth), found, int(finite.sum()), exact=exact)
