"""Operations of keras.ops that a map passes: relu, leaky_relu, mean over space, reshape, transpose, depth_to_space."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from keras.src.ops import nn
from keras.src.ops import numpy as operations

from ..affine import Affine
from .passing import off_channels
from .rearranging import rearranged
from .rule import LayerSpec, OneInput, Passed, Refusal, channel_axis


class ReluOperation(OneInput):
    types = (nn.Relu, nn.LeakyRelu)

    def through(self, layer: LayerSpec, affine: Affine, forward: bool) -> Affine | Passed | Refusal:
        if affine.is_linear and affine.is_positive:
            return affine
        return Refusal(f"the activation {layer.name} stands between, which only a positive scale without shift passes")

    def constant_through(self, layer: LayerSpec, value: float) -> float | None:
        return value if value > 0 else None


class MeanOperation(OneInput):
    types = (operations.Mean,)

    def through(self, layer: LayerSpec, affine: Affine, forward: bool) -> Affine | Passed | Refusal:
        rank, axis = len(layer.input_shape), layer.config.get("axis")
        listed = range(rank) if axis is None else axis if isinstance(axis, list | tuple) else [axis]
        gone = {each % rank for each in listed}
        stays = [each for each in range(rank) if each not in gone or layer.config.get("keepdims")]
        own = affine.axis if forward else stays[affine.axis]
        if own in gone:
            return off_channels(layer)
        return affine.along(stays.index(own) if forward else own)


class RearrangingOperation(OneInput):
    types = (operations.Reshape, operations.Transpose)

    def through(self, layer: LayerSpec, affine: Affine, forward: bool) -> Affine | Passed | Refusal:
        if affine.axis == 0:
            return off_channels(layer)
        order = _order(layer.config, len(layer.input_shape))
        if order is not None:
            found = affine.along(order.index(affine.axis) if forward else order[affine.axis])
            return found if found.axis > 0 else off_channels(layer)
        shapes = (layer.input_shape, layer.output_shape)
        source, target = shapes if forward else shapes[::-1]
        if affine.axis == len(source) - 1 and target[-1:] == (affine.channels,) and len(target) > 1:
            return affine.along(len(target) - 1)  # whatever the axes before it become
        sizes = [tuple(size or 0 for size in shape) for shape in (source, target)]
        if 0 in sizes[0][1:] or math.prod(sizes[0][1:]) != math.prod(sizes[1][1:]):
            return Refusal(f"{layer.name} rearranges a dynamic shape {layer.input_shape}, or the batch")
        moved = rearranged(affine, sizes[0], lambda array: array.reshape(sizes[1][1:]))
        return moved or Refusal(f"the map does not run along one axis on the other side of {layer.name}")


class DepthToSpaceOperation(OneInput):
    """Blocks of b x b channels become pixels, and back: output channel c comes from the channels k C + c, k < b b, of the input
    (ONNX' mode CRD: c b b + k). A map passes where all of these have the same."""

    types = (nn.DepthToSpace, nn.SpaceToDepth)

    def through(self, layer: LayerSpec, affine: Affine, forward: bool) -> Affine | Passed | Refusal:
        axis = channel_axis(layer, layer.input_shape)
        if affine.axis != axis:
            return off_channels(layer)
        count = layer.config["block_size"] ** 2
        apart = layer.config.get("mode") == "CRD"
        if forward == (layer.type in (nn.SpaceToDepth, "SpaceToDepth")):  # toward the side of more channels
            return affine.repeat(count, axis) if apart else affine.tile(count, axis)
        shape = (-1, count) if apart else (count, -1)
        blocks = [vector.reshape(shape).T if apart else vector.reshape(shape) for vector in affine.vectors]
        if any((block != block[:1]).any() for block in blocks):
            return Refusal(f"the channels that {layer.name} turns into one have different scales or shifts")
        return Affine(blocks[0][0].copy(), blocks[1][0].copy(), axis)

    def constant_through(self, layer: LayerSpec, value: float) -> float | None:
        return None  # one more channel would move all others


def _order(config: Mapping[str, Any], rank: int) -> list[int] | None:
    """The axes of a Transpose; None for a Reshape."""
    if "axes" not in config:
        return None
    return [axis % rank for axis in config["axes"]] if config["axes"] is not None else list(range(rank))[::-1]
