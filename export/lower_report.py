"""The report of a lower-precision file: how far it departs from the float32 file, and which layers lose most.

signal-to-noise ratio = 10 log10(sum y^2 / sum (y - y')^2) dB,   y of the float32 file, y' of the lowered one
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from .report import Headline, Report, Table

_SHOWN = 20  # layers in the table


def signal_to_noise(signal: float, noise: float) -> float | None:
    """The ratio of two sums of squares in dB; None where there is no noise.

    A signal of zeros counts as float64's smallest normal number, so that every ratio is finite.
    """
    if noise == 0:
        return None
    return 10 * (math.log10(max(signal, float(np.finfo(np.float64).tiny))) - math.log10(noise))


@dataclass(frozen=True)
class OutputNoise:
    """One output, over all batches.

    Attributes:
        output: its name.
        largest: the largest |value| of the float32 file.
        max_error, mean_error: the largest and the mean absolute error over `largest`; where that is 0, the error itself.
        snr: the signal-to-noise ratio in dB; None where there is no error.
        top1: the share of rows whose largest column is the same, 0 to 1; None but for rank 2 with two columns or more.
    """

    output: str
    largest: float
    max_error: float
    mean_error: float
    snr: float | None
    top1: float | None


@dataclass(frozen=True)
class LayerNoise:
    """One layer: the path of the Keras layer, the last of its tensors that both files have, its ratio in dB or None."""

    layer: str
    tensor: str
    snr: float | None


@dataclass
class LowerReport(Report):
    """How far a lowered file departs from the float32 file that it was made from.

    Attributes:
        kind: "float16" or "int8".
        path: the lowered file.
        bytes_before, bytes_after: the size of the float32 and of the lowered file.
        outputs: in the order of the file.
        layers: in the order of the graph.
    """

    schema: ClassVar[str] = "kbn.lower/1"
    kind: str
    path: Path
    bytes_before: int
    bytes_after: int
    outputs: list[OutputNoise]
    layers: list[LayerNoise]

    @property
    def worst(self) -> list[LayerNoise]:
        """The layers, that with the smallest signal-to-noise ratio first, those without error last."""
        return sorted(self.layers, key=lambda layer: math.inf if layer.snr is None else layer.snr)

    def headline(self) -> Headline:
        return Headline(f"{self.path.name}, lowered to {self.kind}")

    def tables(self) -> list[Table]:
        return [self._outputs(), self._layers()]

    def _outputs(self) -> Table:
        columns = ("output", "max|y|", "max error", "mean error", "SNR, dB", "top-1")
        rows = [
            (
                row.output,
                f"{row.largest:.3g}",
                f"{row.max_error:.3g}",
                f"{row.mean_error:.3g}",
                _decibel(row.snr),
                "" if row.top1 is None else f"{row.top1:.2%}",
            )
            for row in self.outputs
        ]
        note = (
            "Errors against the float32 file, over max|y|.\n"
            f"file size {self.bytes_before / 1024:,.0f} KiB in float32, {self.bytes_after / 1024:,.0f} KiB in {self.kind}"
        )
        return Table(f"Lowered to {self.kind}", columns, rows, frozenset(columns[1:]), note)

    def _layers(self) -> Table:
        rows = [(row.layer, row.tensor, _decibel(row.snr)) for row in self.worst[:_SHOWN]]
        more = len(self.layers) - len(rows)
        note = f"{more} more layers, all with a higher or equal ratio" if more else ""
        return Table("Layers, the worst first", ("layer", "tensor", "SNR, dB"), rows, frozenset({"SNR, dB"}), note)

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": self.schema,
            "kind": self.kind,
            "path": str(self.path),
            "bytes": {"before": self.bytes_before, "after": self.bytes_after},
            "outputs": [vars(row) for row in self.outputs],
            "layers": [vars(row) for row in self.layers],
        }


def _decibel(ratio: float | None) -> str:
    return "no error" if ratio is None else f"{ratio:.1f}"
