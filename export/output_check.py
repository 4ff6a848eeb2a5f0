"""The check of one output: what was measured on it by kind of inputs, and whether it passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .error_spread import ErrorSpread
from .verdict import ATOL, Errors, difference, largest

Array = NDArray[Any]


@dataclass(frozen=True)
class Sides:
    """What the report calls the two that are compared.

    Attributes:
        kind: of the original: "keras" or "onnx".
        original, exact, file: in sentences: the original, its float64 run, the file.
        original_error, file_error: the heads of the columns.
    """

    kind: str
    original: str
    exact: str
    file: str
    original_error: str
    file_error: str


KERAS_AND_FILE = Sides("keras", "the model", "the float64 model", "the file", "Keras error", "ONNX error")
TWO_FILES = Sides("onnx", "A", "A in float64", "B", "A error", "B error")


@dataclass(frozen=True, eq=False)
class Spreads:
    """How the errors on one output spread, for one kind of inputs.

    Attributes:
        model, file: of the original in float32, and of the file: of each element the larger error of its runs.
        runs: the largest error of each run of the file, as written first, then as onnxruntime optimises it.
    """

    model: ErrorSpread
    file: ErrorSpread
    runs: tuple[float, ...]

    def with_batch(self, other: Spreads) -> Spreads:
        """Both together."""
        runs = tuple(map(max, self.runs, other.runs))
        return Spreads(self.model.with_batch(other.model), self.file.with_batch(other.file), runs)

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.to_dict(),
            "file": self.file.to_dict(),
            "as_written": self.runs[0],
            "optimised": self.runs[-1],
        }


@dataclass
class OutputCheck:
    """What was measured on one output of the model.

    Attributes:
        output: the output's name in the file.
        shape: the shape of one example, as last seen.
        cases: for each kind of input what was measured over all its batches, and what the verdict goes by.
        spreads: for each kind how the errors spread over the elements.
        sides: what the two are called.
    """

    output: str
    shape: tuple[int, ...] = ()
    cases: dict[str, Errors] = field(default_factory=dict)
    spreads: dict[str, Spreads] = field(default_factory=dict)
    sides: Sides = KERAS_AND_FILE
    _faults: list[str] = field(default_factory=list)
    _agreeing: dict[str, list[bool]] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether some kind of input proves the output right, and none proves it wrong."""
        return not self.faults

    @property
    def worst(self) -> Errors | None:
        """The kind of inputs that came nearest to its bound, or went furthest beyond; None where none could be measured."""
        proving = [errors for errors in self.cases.values() if not errors.proves_nothing]
        return max(proving, key=lambda errors: errors.use, default=None)

    @property
    def faults(self) -> list[str]:
        """Each thing that fails, in words."""
        found = list(dict.fromkeys(self._faults))
        for kind, errors in self.cases.items():
            if errors.verdict == "FAILED":
                found.append(
                    f"{self.sides.file} is {errors.file_error:.2g} away from {self.sides.exact}, where "
                    f"{errors.allowed:.2g} is allowed ({kind} inputs){self._runtime_alone(kind)}"
                )
        if not found and self.worst is None:
            found.append(
                "no input proves anything, because what comes out is not finite, or far from what the float64 run of "
                f"{self.sides.original} gives: give data the model was trained for"
            )
        return found

    @property
    def top1(self) -> float | None:
        """The fraction of examples whose largest entry is where the truth has it, among the user's data if there is any;
        None for outputs of other than rank 2."""
        agreeing = self._agreeing.get("data") or list(chain.from_iterable(self._agreeing.values()))
        return sum(agreeing) / len(agreeing) if agreeing else None

    def _runtime_alone(self, kind: str) -> str:
        """A remark, where the file passes as it is written and fails as onnxruntime optimises it."""
        written, allowed = self.spreads[kind].runs[0], self.cases[kind].allowed
        if written > allowed:
            return ""
        return f"; with onnxruntime's optimisations off it is {written:.2g}, so that these err, not the file"

    def add(
        self,
        kind: str,
        truth: Array,
        model: Array,
        files: Sequence[Array],
        own: Array | None = None,
        rounding: float = 0.0,
    ) -> None:
        """Takes in one batch of inputs of this kind.

        Args:
            kind: of the inputs.
            truth, model: this output as the float64 and the float32 model give it.
            files: as the file gives it, in each way of running it.
            own: as the model that came gives it, where that is neither of the two.
            rounding: how far, over the largest truth, `own` may be from the truth.
        """
        self.shape = truth.shape[1:]
        original, name = self.sides.original, self.sides.file
        if any(file.shape != truth.shape for file in files):
            self._faults.append(f"{name} gives shape {files[0].shape} where {original} gives {truth.shape}")
            return
        finite = np.isfinite(truth) & np.isfinite(model)
        infinite = ~(np.isfinite(truth) | np.isfinite(model))
        if not all(np.isfinite(file[finite]).all() for file in files):
            self._faults.append(f"{name} gives NaN or infinity where {original} is finite ({kind} inputs)")
            return
        if any(np.isfinite(file[infinite]).any() for file in files):
            self._faults.append(f"{name} is finite where {original} gives NaN or infinity ({kind} inputs)")
            return
        magnitude = largest(truth[finite])
        departed = False
        if own is not None:
            here = finite & np.isfinite(own)
            departed = difference(own[here], truth[here]) > rounding * magnitude + ATOL
        runs = tuple(difference(file[finite], truth[finite]) for file in files)
        errors = Errors(
            kind,
            magnitude,
            model_error=difference(model[finite], truth[finite]),
            file_error=max(runs),
            compared=int(finite.sum()),
            departed=departed,
        )
        spreads = Spreads(
            ErrorSpread.of([model[finite]], truth[finite]),
            ErrorSpread.of([file[finite] for file in files], truth[finite]),
            runs,
        )
        known = kind in self.cases
        self.cases[kind] = self.cases[kind].with_batch(errors) if known else errors
        self.spreads[kind] = self.spreads[kind].with_batch(spreads) if known else spreads
        if truth.ndim == 2 and truth.shape[1] > 1:
            agree = np.all([file.argmax(-1) == truth.argmax(-1) for file in files], axis=0)
            self._agreeing.setdefault(kind, []).extend(agree.tolist())

    def table_rows(self) -> list[tuple[str, ...]]:
        """A row per kind of input; one row for an output that could not be compared at all."""
        shape = " x ".join(map(str, self.shape)) or "scalar"
        rows = []
        for kind, errors in self.cases.items():
            numbers = (errors.magnitude, errors.model_error, errors.file_error, errors.allowed)
            agreeing = self._agreeing.get(kind)
            top1 = f"{sum(agreeing) / len(agreeing):.2%}" if agreeing else ""
            verdict = "FAILED" if self._faults else errors.verdict
            rows.append((self.output, shape, kind, *(f"{number:.3g}" for number in numbers), top1, verdict))
        return rows or [(self.output, shape, "", "", "", "", "", "", "FAILED")]

    def spread_rows(self) -> list[tuple[str, ...]]:
        """Two rows per kind of input: of the original, and of the file."""
        names = [head.removesuffix(" error") for head in (self.sides.original_error, self.sides.file_error)]
        return [
            (self.output, kind, name, *_numbers(spread))
            for kind, spreads in self.spreads.items()
            for name, spread in zip(names, (spreads.model, spreads.file), strict=True)
        ]

    def to_dict(self) -> dict[str, Any]:
        return {
            "output": self.output,
            "shape": list(self.shape),
            "passed": self.passed,
            "worst": self.worst.to_dict() if self.worst else None,
            "cases": [{**errors.to_dict(), **self.spreads[kind].to_dict()} for kind, errors in self.cases.items()],
            "top1": self.top1,
            "faults": self.faults,
        }


def _numbers(spread: ErrorSpread) -> list[str]:
    absolute, ulps = spread.absolute, spread.ulps
    numbers = (absolute.mean, absolute.percentile(99), absolute.largest, ulps.percentile(99), ulps.largest)
    return [*(f"{number:.3g}" for number in numbers), _cosine(spread.cosine)]


def _cosine(cosine: float | None) -> str:
    """The cosine as a reader can tell it from 1."""
    if cosine is None:
        return ""
    return f"1 - {1 - cosine:.1e}" if 0.99 < cosine < 1 else f"{cosine:.4g}"
