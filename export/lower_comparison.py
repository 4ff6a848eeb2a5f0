"""A lowered ONNX file against the float32 one it was made from, in onnxruntime, on data.

Outputs are taken from both of onnxruntime's ways to run the lowered file, as it is written and optimised, and the way with
more noise is reported: optimised, int8 is computed in integers, which can saturate. Layers are compared as the file is
written, with their tensors as further outputs. That is where overflow shows: where a CPU has no float16 kernel, onnxruntime
computes a chain of such nodes in float32 and rounds to float16 what is an output. One batch is held at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from .errors import BrokenModelError, CheckFailedError, UsageError
from .lower_report import LayerNoise, LowerReport, OutputNoise, signal_to_noise
from .sessions import session
from .wording import quote, reason

Array = NDArray[Any]

_DEQUANTISED = "_DequantizeLinear_Output"  # what onnxruntime's quantiser appends to the name of a tensor


def compare_lowered(
    float32: onnx.ModelProto,
    lowered: onnx.ModelProto,
    batches: Sequence[Mapping[str, Array]],
    kind: str,
    path: str | PathLike[str],
    float32_bytes: int | None = None,
) -> LowerReport:
    """Runs both files on the batches.

    Args:
        float32, lowered: models with the same names of inputs and outputs.
        batches: per batch an array for each input by name.
        kind: "float16" or "int8".
        path: where the lowered file goes, for the report.
        float32_bytes: the size of the float32 file, for the report; None for that of the model alone.

    Returns:
        The departure of each output and of each layer, over all batches.

    Raises:
        UsageError: there are no batches.
        CheckFailedError: the lowered file gives NaN or infinity where the float32 file is finite, in an output or inside.
        BrokenModelError: onnxruntime cannot run one of the files.
    """
    if not len(batches):
        raise UsageError("Without data the lowered file cannot be compared with the float32 one: give some inputs.")
    outputs = [value.name for value in float32.graph.output]
    traced = _traced(float32, lowered)
    inside = [name for _, name, _ in traced]
    reference = _Way(kind, _with_outputs(float32, inside), [*outputs, *inside], optimised=False)
    inside = [name for _, _, name in traced]
    ways = (
        _Way(kind, _with_outputs(lowered, inside), [*outputs, *inside], optimised=False),
        _Way(kind, lowered, outputs, optimised=True),
    )
    noises = [[_Noise() for _ in way.names] for way in ways]
    for batch in batches:
        expected = reference.run(batch)
        for way, measured in zip(ways, noises, strict=True):
            for noise, y, z in zip(measured, expected[: len(way.names)], way.run(batch), strict=True):
                noise.add(y, z)
    (written, inner), optimised = (noises[0][: len(outputs)], noises[0][len(outputs) :]), noises[1]
    first = next((layer for (layer, _, _), noise in zip(traced, inner, strict=True) if noise.lost), None)
    of_output = {name: noise for (_, name, _), noise in zip(traced, inner, strict=True)}
    by_output = {
        name: [*both, *([of_output[name]] if name in of_output else [])]
        for name, *both in zip(outputs, written, optimised, strict=True)
    }
    lost = [name for name, found in by_output.items() if any(noise.lost for noise in found)]
    if lost or first is not None:
        raise CheckFailedError(_overflow(kind, lost, first))
    return LowerReport(
        kind=kind,
        path=Path(path),
        bytes_before=float32.ByteSize() if float32_bytes is None else float32_bytes,
        bytes_after=lowered.ByteSize(),
        outputs=[max(found, key=lambda noise: noise.noise).output(name) for name, found in by_output.items()],
        layers=list(
            {
                layer: LayerNoise(layer, name, signal_to_noise(noise.signal, noise.noise))
                for (layer, name, _), noise in zip(traced, inner, strict=True)
                if noise.count
            }.values()
        ),
    )


class _Way:
    """A model in onnxruntime, which gives these tensors."""

    def __init__(self, kind: str, proto: onnx.ModelProto, names: Sequence[str], optimised: bool) -> None:
        self.names = names
        self._kind = kind
        with self._told():
            self._session = session(proto.SerializeToString(), optimised=optimised)

    def run(self, batch: Mapping[str, Array]) -> list[Any]:
        with self._told():
            return list(self._session.run(self.names, dict(batch)))

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # onnxruntime's have no common base
            raise BrokenModelError(
                f"onnxruntime cannot run the {self._kind} file beside the float32 one: {reason(error)}. Give data as the "
                "model takes it, or keep float32."
            ) from error


@dataclass
class _Noise:
    """Sums over batches, in float64; values that are not finite in the float32 file are left out."""

    signal: float = 0.0
    noise: float = 0.0
    absolute: float = 0.0
    largest: float = 0.0
    max_error: float = 0.0
    count: int = 0
    rows: int = 0
    agreeing: int = 0
    lost: bool = False  # a value is finite in the float32 file alone

    def add(self, expected: Any, found: Any) -> None:
        if not isinstance(expected, np.ndarray) or expected.dtype.kind not in "fiub":
            return  # a sequence, or text
        y, z = expected.astype(np.float64), found.astype(np.float64)
        if y.ndim == 2 and y.shape[1] > 1:
            self.rows += len(y)
            self.agreeing += int((y.argmax(1) == z.argmax(1)).sum())
        finite = np.isfinite(y)
        y, z = y[finite], z[finite]
        if not np.isfinite(z).all():
            self.lost = True
            return
        error = np.abs(y - z)
        self.signal += float(np.square(y).sum())
        self.noise += float(np.square(error).sum())
        self.absolute += float(error.sum())
        self.largest = max(self.largest, float(np.abs(y).max(initial=0.0)))
        self.max_error = max(self.max_error, float(error.max(initial=0.0)))
        self.count += y.size

    def output(self, name: str) -> OutputNoise:
        over = self.largest or 1.0
        return OutputNoise(
            output=name,
            largest=self.largest,
            max_error=self.max_error / over,
            mean_error=self.absolute / max(1, self.count) / over,
            snr=signal_to_noise(self.signal, self.noise),
            top1=self.agreeing / self.rows if self.rows else None,
        )


def _traced(float32: onnx.ModelProto, lowered: onnx.ModelProto) -> list[tuple[str, str, str]]:
    """(layer, tensor of the float32 file, tensor of the lowered file), in the order of the float32 graph."""
    there = {name for node in lowered.graph.node for name in node.output}
    known = {name for node in float32.graph.node for name in node.output}
    # A CPU skips the Cast to float16 and back before a float32 output: what is rounded, or overflows, is the Cast's input.
    fresh = there - known
    casts = {
        node.output[0]: node.input[0]
        for node in lowered.graph.node
        if node.op_type == "Cast" and node.output[0] in known and node.input[0] in fresh
    }
    found = []
    for node in float32.graph.node:
        layer = node.name.rpartition("/")[0] or node.name or node.output[0]
        for name in filter(None, node.output):
            # Beside a quantised tensor stands what its readers get of it.
            same = next((other for other in (name + _DEQUANTISED, casts.get(name, name)) if other in there), None)
            if same is not None:
                found.append((layer, name, same))
    return found


def _with_outputs(proto: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy of which these tensors, too, are outputs; onnxruntime infers their types."""
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    present = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    return model


def _overflow(kind: str, lost: Sequence[str], first: str | None) -> str:
    where = f"output{'s' * (len(lost) > 1)} {', '.join(map(quote, lost))}" if lost else "a layer's values"
    message = f"The {kind} file gives NaN or infinity in {where}, where the float32 file is finite"
    if first is not None:
        message += f"; it happens first in layer {quote(first)}"
    if kind == "float16":
        message += ". Values past 65504 overflow in float16: scale the inputs or that layer down"
    return f"{message}. No {kind} file was written; keep float32{' or try int8' * (kind == 'float16')}."
