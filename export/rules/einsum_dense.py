"""EinsumDense: `einsum(equation, x, K) + b`, with a bias on the output axes that bias_axes names.

    after:   K' = K s    s on the axis of K that has the map's letter
             b' = s b + t, and bias_axes gains the letter where it lacks it
    before:  K' = K s
             b' = b + einsum(t, K) over the letters that the product sums; bias_axes gains the kernel's letters that stay

The map's letter is that of the axis which holds its channels. Where the kernel lacks this letter (a batch axis of the
equation) the layer has no weight to scale. Keras shapes the bias to broadcast against the output from the right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from keras import layers
from numpy.typing import NDArray

from ..affine import Affine
from .rule import Absorbed, LayerSpec, Ports, Refusal, Rule, Weights, refuse_activation, refuse_weights


@dataclass(frozen=True)
class Equation:
    """The letters of an equation against the shapes of one call; the letter of an axis that an ellipsis stands for is "".

    Attributes:
        source, output: the letter of each axis of the input and of the output.
        kernel: the letters of the kernel.
    """

    source: tuple[str, ...]
    kernel: str
    output: tuple[str, ...]

    @classmethod
    def of(cls, layer: LayerSpec) -> Equation:
        operands, output = layer.config["equation"].split("->")
        source, kernel = operands.split(",")
        elided = len(layer.input_shape) - len(source.replace("...", ""))
        return cls(_letters(source, elided), kernel, _letters(output, elided))

    def bias_axes(self, named: set[str]) -> str:
        """These letters in the order of the output."""
        return "".join(letter for letter in self.output if letter and letter in named)

    def bias_rank(self, named: set[str]) -> int:
        """How many axes of the output a bias on these letters has, counted from the right."""
        return len(self.output) - min(axis for axis, letter in enumerate(self.output) if letter and letter in named)


def _letters(term: str, elided: int) -> tuple[str, ...]:
    before, dots, behind = term.partition("...")
    return (*before, *([""] * elided if dots else []), *behind)


def scale_output(weights: Weights, affine: Affine, kernel_axis: int, output_rank: int, bias_rank: int) -> Weights:
    """The weights that give `affine` of what the layer gives now.

    Args:
        weights: `kernel` and, unless the layer has none, `bias` of at most `output_rank` axes.
        affine: the map on the output.
        kernel_axis: the axis of the kernel that makes the map's channels.
        output_rank: how many axes the layer's output has.
        bias_rank: how many axes the new bias keeps, counted from the right.
    """
    scale, shift = (vector.reshape(_shape(output_rank, affine.axis, affine.channels)) for vector in affine.vectors)
    bias = _padded(weights.get("bias"), output_rank) * scale + shift
    return {
        "kernel": weights["kernel"] * affine.scale.reshape(_shape(weights["kernel"].ndim, kernel_axis, -1)),
        "bias": bias.reshape(bias.shape[output_rank - bias_rank :]),
    }


def scale_input(
    weights: Weights, affine: Affine, kernel_axis: int, kernel: str, output: Sequence[str], bias_rank: int
) -> Weights:
    """The weights that give for x what the layer gives now for `affine` of x.

    Args:
        weights: `kernel` and, unless the layer has none, `bias`.
        affine: the map on the input.
        kernel_axis: the axis of the kernel that sees the map's channels.
        kernel: the letters of the kernel.
        output: the letter of each axis of the output.
        bias_rank: how many axes the new bias keeps, counted from the right.
    """
    shape = _shape(weights["kernel"].ndim, kernel_axis, -1)
    stays = [letter for letter in output if letter and letter in kernel]
    spilled = np.einsum(f"{kernel}->{''.join(stays)}", weights["kernel"] * affine.shift.reshape(shape))
    sizes = dict(zip(stays, spilled.shape, strict=True))
    spilled = spilled.reshape([sizes.get(letter, 1) for letter in output])
    bias = _padded(weights.get("bias"), len(output)) + spilled
    return {
        "kernel": weights["kernel"] * affine.scale.reshape(shape),
        "bias": bias.reshape(bias.shape[len(output) - bias_rank :]),
    }


def _shape(rank: int, axis: int, size: int) -> list[int]:
    shape = [1] * rank
    shape[axis] = size
    return shape


def _padded(bias: NDArray[np.float64] | None, rank: int) -> NDArray[np.float64]:
    bias = np.zeros(()) if bias is None else bias
    return bias.reshape([1] * (rank - bias.ndim) + list(bias.shape))


class EinsumDenseRule(Rule):
    types = (layers.EinsumDense,)

    def absorb_after(self, layer: LayerSpec, affine: Affine) -> Absorbed | Refusal:
        if refusal := refuse_weights(layer, "kernel") or refuse_activation(layer):
            return refusal
        equation = Equation.of(layer)
        letter = equation.output[affine.axis]
        if not letter or letter not in equation.kernel:
            return _no_weight(layer, affine, "output")
        named = set(layer.config["bias_axes"] or "") | {letter}
        algebra = partial(
            scale_output,
            affine=affine,
            kernel_axis=equation.kernel.index(letter),
            output_rank=len(equation.output),
            bias_rank=equation.bias_rank(named),
        )
        return Absorbed(algebra, {"bias_axes": equation.bias_axes(named)})

    def absorb_before(self, layer: LayerSpec, affine: Affine, ports: Ports) -> Absorbed | Refusal:
        if refusal := refuse_weights(layer, "kernel"):
            return refusal
        equation = Equation.of(layer)
        letter = equation.source[affine.axis]
        if not letter or letter not in equation.kernel:
            return _no_weight(layer, affine, "input")
        summed = [each for each in equation.source if each and each not in equation.output]
        if not affine.is_linear and not set(summed) <= set(equation.kernel):
            return Refusal(f"{layer.name} sums its input over axes that its kernel lacks", "a map without shift folds")
        named = set(layer.config["bias_axes"] or "") | set(equation.kernel) & set(equation.output)
        if not named:
            return Refusal(f"{layer.name} has no output axis that a bias could lie on")
        algebra = partial(
            scale_input,
            affine=affine,
            kernel_axis=equation.kernel.index(letter),
            kernel=equation.kernel,
            output=equation.output,
            bias_rank=equation.bias_rank(named),
        )
        return Absorbed(algebra, {"bias_axes": equation.bias_axes(named)})


def _no_weight(layer: LayerSpec, affine: Affine, side: str) -> Refusal:
    return Refusal(
        f"{layer.name} has no weight along axis {affine.axis} of its {side} (equation {layer.config['equation']})",
        "an equation whose kernel has that letter folds",
    )
