"""Layers and operations that join several tensors.

With n inputs x_i of one rank, and a map s y + t on the output y:

    Add            s (sum x_i) + t = (s x_1 + t) + sum s x_i       the scale on all, the shift on one
    Subtract       s (x_1 - x_2) + t = (s x_1 + t) - s x_2         likewise; on x_2 the shift changes its sign
    Average        s mean(x_i) + t = mean(s x_i + t)               both on all
    Maximum, Minimum                                               both on all, for s > 0
    Multiply       s (x g) = (s x) g                               the scale on one, and no shift
    Concatenate    each input its own slice; along another axis than the map's, the whole map on all

and toward the output, from a map on one input: a shift passes Add, Subtract and Average, a scale passes Multiply, and any
map passes Concatenate. An input that is broadcast along the map's axis keeps maps from reaching it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from keras import layers
from keras.src.ops import numpy as operations

from ..affine import Affine
from .rule import LayerSpec, Passed, Ports, Refusal, Rule, Shape


class JoiningRule(Rule):
    """What joins elementwise; a subclass says how."""

    def backward(self, affine: Affine, count: int, full: Sequence[bool]) -> list[Passed]:
        """The ways to have the map on the inputs; `full` says which of them it can reach."""
        return []

    def forward(self, affine: Affine, port: int, count: int) -> Affine | None:
        """The map on the output for this one on one input."""
        return None

    def pass_backward(self, layer: LayerSpec, affine: Affine) -> Sequence[Passed] | Refusal:
        if len(layer.input_shapes) < 2:
            return Refusal(f"{layer.name} ({layer.kind}) joins a tensor and a constant")
        full = [_reaches(layer, affine, shape) for shape in layer.input_shapes]
        ways = self.backward(affine, len(full), full)
        return ways or Refusal(f"{layer.name} ({layer.kind}) joins tensors, and this map does not pass it")

    def pass_forward(self, layer: LayerSpec, affine: Affine, ports: Ports) -> Passed | Refusal:
        count = len(layer.input_shapes)
        if count > 1 and len(ports) == 1 and _reaches(layer, affine, layer.input_shapes[ports[0]]):
            found = self.forward(affine, ports[0], count)
            if found is not None:
                return Passed((found,))
        return Refusal(f"{layer.name} ({layer.kind}) joins tensors, and this map does not pass it")


def _reaches(layer: LayerSpec, affine: Affine, shape: Shape) -> bool:
    """Whether the map lies on an input of this shape as it does on the output: all of its channels, on one axis."""
    sizes = {shape[affine.axis], layer.output_shape[affine.axis]} if len(shape) == len(layer.output_shape) else set()
    return sizes == {affine.channels}


class AddRule(JoiningRule):
    types: ClassVar[tuple[Any, ...]] = (layers.Add, operations.Add)

    def backward(self, affine: Affine, count: int, full: Sequence[bool]) -> list[Passed]:
        if not all(full):
            return []
        rest = affine.scaling()
        return [Passed(tuple(affine if i == port else rest for i in range(count))) for port in range(count)]

    def forward(self, affine: Affine, port: int, count: int) -> Affine | None:
        return affine if (affine.scale == 1).all() else None


class SubtractRule(JoiningRule):
    types: ClassVar[tuple[Any, ...]] = (layers.Subtract, operations.Subtract)

    def backward(self, affine: Affine, count: int, full: Sequence[bool]) -> list[Passed]:
        if not all(full):
            return []
        rest = affine.scaling()
        return [Passed((affine, rest)), Passed((rest, replace(affine, shift=-affine.shift)))]

    def forward(self, affine: Affine, port: int, count: int) -> Affine | None:
        if (affine.scale != 1).any():
            return None
        return affine if port == 0 else replace(affine, shift=-affine.shift)


class AverageRule(JoiningRule):
    types: ClassVar[tuple[Any, ...]] = (layers.Average,)

    def backward(self, affine: Affine, count: int, full: Sequence[bool]) -> list[Passed]:
        return [Passed((affine,) * count)] if all(full) else []

    def forward(self, affine: Affine, port: int, count: int) -> Affine | None:
        return replace(affine, shift=affine.shift / count) if (affine.scale == 1).all() else None


class ExtremeRule(JoiningRule):
    types: ClassVar[tuple[Any, ...]] = (layers.Maximum, layers.Minimum, operations.Maximum, operations.Minimum)

    def backward(self, affine: Affine, count: int, full: Sequence[bool]) -> list[Passed]:
        return [Passed((affine,) * count)] if all(full) and affine.is_positive else []


class MultiplyRule(JoiningRule):
    types: ClassVar[tuple[Any, ...]] = (layers.Multiply, operations.Multiply)

    def backward(self, affine: Affine, count: int, full: Sequence[bool]) -> list[Passed]:
        if not affine.is_linear:
            return []
        return [
            Passed(tuple(affine if i == port else None for i in range(count))) for port in range(count) if full[port]
        ]

    def forward(self, affine: Affine, port: int, count: int) -> Affine | None:
        return affine if affine.is_linear else None


class ConcatenateRule(Rule):
    types: ClassVar[tuple[Any, ...]] = (layers.Concatenate, operations.Concatenate)

    def pass_backward(self, layer: LayerSpec, affine: Affine) -> Sequence[Passed] | Refusal:
        if self.axis(layer) != affine.axis:
            return [Passed((affine,) * len(layer.input_shapes))]
        ends = self._ends(layer)
        if ends is None:
            return Refusal(f"{layer.name} ({layer.kind}) joins tensors of dynamic size along the map's axis")
        maps = tuple(affine.part(start, stop) for start, stop in itertools.pairwise(ends))
        return [Passed(maps, separable=True)]

    def pass_forward(self, layer: LayerSpec, affine: Affine, ports: Ports) -> Passed | Refusal:
        ends = self._ends(layer)
        if self.axis(layer) != affine.axis or ends is None:
            return Refusal(f"{layer.name} ({layer.kind}) joins tensors along another axis than the map's")
        whole = Affine.uniform(1.0, 0.0, ends[-1], affine.axis)
        for port in ports:
            whole.scale[ends[port] : ends[port + 1]] = affine.scale
            whole.shift[ends[port] : ends[port + 1]] = affine.shift
        return Passed((whole,))

    def axis(self, layer: LayerSpec) -> int:
        """The axis along which the tensors are joined, counted from 0."""
        axis: int = layer.config["axis"]
        return axis % len(layer.output_shape)

    def _ends(self, layer: LayerSpec) -> list[int] | None:
        """Where each input's channels begin, and the last's end."""
        sizes: list[Any] = [shape[self.axis(layer)] for shape in layer.input_shapes]
        return None if None in sizes else [0, *np.cumsum(sizes).tolist()]
