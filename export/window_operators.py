"""Conv, MaxPool and AveragePool for the reference evaluator of onnx, offset by offset.

Its own Conv copies each window, 9 times the input for a kernel of 3 x 3, and its pools take a Python step for each window.
With k an offset inside the window, s the stride, d the dilation, and W[k] a matrix (output channels, input channels) for each
group:

    conv:     y[i] = sum over k of W[k] x[s i + d k]
    max:      y[i] = max over k of x[s i + d k]
    average:  y[i] = (sum over k of x[s i + d k]) / (sum over k of 1, where s i + d k lies in x)

padding being -infinity for the maximum, else 0 (with `count_include_pad` the count of the average takes it in).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_max_pool import MaxPool as LibraryMaxPool

Array = NDArray[Any]


@dataclass(frozen=True)
class _Windows:
    """The windows over the spatial axes: kernel, strides, dilations, padding before and after, number of windows."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    counts: tuple[int, ...]

    @classmethod
    def over(
        cls,
        sizes: Sequence[int],
        kernel: Sequence[int],
        strides: Sequence[int] | None,
        dilations: Sequence[int] | None,
        pads: Sequence[int] | None,
        auto_pad: str | None,
        ceil_mode: int | None,
    ) -> _Windows:
        rank = len(sizes)
        strides, dilations = strides or [1] * rank, dilations or [1] * rank
        extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        pads = list(pads or [0] * 2 * rank)
        before, after = pads[:rank], pads[rank:]
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            counts = [-(-n // s) for n, s in zip(sizes, strides, strict=True)]
            whole = [max(0, (c - 1) * s + e - n) for c, s, e, n in zip(counts, strides, extents, sizes, strict=True)]
            less, more = [p // 2 for p in whole], [p - p // 2 for p in whole]
            before, after = (less, more) if auto_pad == "SAME_UPPER" else (more, less)
        else:
            counts = []
            for n, e, s, first, last in zip(sizes, extents, strides, before, after, strict=True):
                room = n + first + last - e
                count = (-(-room // s) if ceil_mode else room // s) + 1
                # A window that would begin in the padding at the end is left out.
                counts.append(count - (bool(ceil_mode) and (count - 1) * s >= n + first))
        return cls(tuple(kernel), tuple(strides), tuple(dilations), tuple(before), tuple(after), tuple(counts))

    def padded(self, x: Array, value: float) -> Array:
        """The array with its padding."""
        widths = [(0, 0), (0, 0), *zip(self.before, self.after, strict=True)]
        return np.pad(x, widths, constant_values=value)

    def reduced(self, padded: Array, combine: Callable[[Array, Array], Array], beyond: float) -> Array:
        """All offsets of the windows combined; `beyond`: what a window finds past the padding (ceil_mode)."""
        needed = [
            (c - 1) * s + (k - 1) * d + 1
            for c, s, k, d in zip(self.counts, self.strides, self.kernel, self.dilations, strict=True)
        ]
        missing = [(0, max(0, n - size)) for n, size in zip(needed, padded.shape[2:], strict=True)]
        padded = np.pad(padded, [(0, 0), (0, 0), *missing], constant_values=beyond)
        parts = self.offsets(padded)
        found = next(parts).copy()
        for part in parts:
            found = combine(found, part)
        return found

    def offsets(self, padded: Array) -> Iterator[Array]:
        for offset in product(*map(range, self.kernel)):
            spans = [
                slice(k * d, k * d + (c - 1) * s + 1, s)
                for k, d, c, s in zip(offset, self.dilations, self.counts, self.strides, strict=True)
            ]
            yield padded[(slice(None), slice(None), *spans)]


def _windows(x: Array, attributes: Mapping[str, Any]) -> _Windows:
    names = ("kernel_shape", "strides", "dilations", "pads", "auto_pad", "ceil_mode")
    return _Windows.over(x.shape[2:], *(attributes.get(name) for name in names))  # type: ignore[arg-type]


class Conv(OpRun):
    """A convolution of any rank, in groups."""

    op_domain = ""

    def _run(
        self, x: Array, w: Array, b: Array | None = None, group: int | None = None, **attributes: Any
    ) -> tuple[Array]:
        group = group or 1
        windows = _windows(x, {**attributes, "kernel_shape": w.shape[2:]})
        matrices = np.moveaxis(w.reshape(group, -1, *w.shape[1:]), (1, 2), (-2, -1)).reshape(
            group, -1, w.shape[0] // group, w.shape[1]
        )
        y: Any = 0.0
        for index, part in enumerate(windows.offsets(windows.padded(x, 0.0))):
            columns = part.reshape(len(x), group, w.shape[1], -1)
            matrix = matrices[:, index]
            # Depthwise, a product of numbers is quicker than one of 1 x 1 matrices.
            y = y + (matrix * columns if w.shape[1] == 1 else matrix @ columns)
        y = y.reshape(len(x), w.shape[0], *windows.counts)
        return (y if b is None else y + b.reshape(-1, *[1] * len(windows.counts)),)


class MaxPool(LibraryMaxPool):
    """The library's, but for the usual case: one output, of floats."""

    op_domain = ""

    def _run(self, x: Array, **attributes: Any) -> tuple[Array, ...]:  # type: ignore[override]
        if len(self.output) > 1 or x.dtype.kind != "f":
            return tuple(super()._run(x, **attributes))
        windows = _windows(x, attributes)
        return (windows.reduced(windows.padded(x, -np.inf), np.maximum, -np.inf),)


class AveragePool(OpRun):
    """The average over the part of each window that lies in the input, or in the input and its padding."""

    op_domain = ""

    def _run(self, x: Array, count_include_pad: int | None = None, **attributes: Any) -> tuple[Array, ...]:
        windows = _windows(x, attributes)
        ones = windows.padded(np.ones((1, 1, *x.shape[2:]), x.dtype), 1.0 if count_include_pad else 0.0)
        sums = windows.reduced(windows.padded(x, 0.0), np.add, 0.0)
        return (sums / windows.reduced(ones, np.add, 0.0),)
