"""EinsumDense: `einsum(equation, x, K) + b`, with a bias on the output axes that bias_axes names.

    after:   K' = K s    s on the axis of K that has the map's letter
             b' = s b + t, and bias_axes gains the letter where it lacks it

The map's letter is that of the output axis which holds its channels. Where the kernel lacks this letter (a batch axis
of the equation) the layer has no weight to scale. Keras shapes the bias to broadcast against the output from the right.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from keras import layers

from ..affine import Affine
from .rule import Absorbed, LayerSpec, Refusal, Rule, Weights, refuse_activation, refuse_weights


def scale_output(weights: Weights, affine: Affine, kernel_axis: int, output_rank: int, bias_rank: int) -> Weights:
    """The weights that give `affine` of what the layer gives now.

    Args:
        weights: `kernel` and, unless the layer has none, `bias` of at most `output_rank` axes.
        affine: the map on the output.
        kernel_axis: the axis of the kernel that makes the map's channels.
        output_rank: how many axes the layer's output has.
        bias_rank: how many axes the new bias keeps, counted from the right.
    """
    kernel_shape, output_shape = [1] * weights["kernel"].ndim, [1] * output_rank
    kernel_shape[kernel_axis] = output_shape[affine.axis] = affine.channels
    bias = weights.get("bias", np.zeros(()))
    bias = bias.reshape([1] * (output_rank - bias.ndim) + list(bias.shape))
    bias = bias * affine.scale.reshape(output_shape) + affine.shift.reshape(output_shape)
    return {
        "kernel": weights["kernel"] * affine.scale.reshape(kernel_shape),
        "bias": bias.reshape(bias.shape[output_rank - bias_rank :]),
    }


def _absorb(layer: LayerSpec, affine: Affine) -> Absorbed | Refusal:
    operands, output = layer.config["equation"].split("->")
    source, kernel = operands.split(",")
    elided = len(layer.input_shape) - len(source.replace("...", ""))
    before = elided if output.startswith("...") else 0  # output axes that the leading ellipsis stands for
    letters = dict(enumerate(output.replace("...", ""), start=before))
    letter = letters.get(affine.axis)
    if letter is None or letter not in kernel:
        return Refusal(
            f"{layer.name} has no weight along axis {affine.axis} of its output (equation {layer.config['equation']})"
        )
    named = set(layer.config["bias_axes"] or "") | {letter}
    bias_axes = "".join(name for name in letters.values() if name in named)
    first = min(axis for axis, name in letters.items() if name in named)
    rank = len(layer.output_shape)
    algebra = partial(
        scale_output,
        affine=affine,
        kernel_axis=kernel.index(letter),
        output_rank=rank,
        bias_rank=rank - first,
    )
    return Absorbed(algebra, {"bias_axes": bias_axes})


class EinsumDenseRule(Rule):
    types = (layers.EinsumDense,)

    def absorb_after(self, layer: LayerSpec, affine: Affine) -> Absorbed | Refusal:
        return refuse_weights(layer, "kernel") or refuse_activation(layer) or _absorb(layer, affine)
