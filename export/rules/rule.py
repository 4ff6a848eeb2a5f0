"""What the folding engine asks of a layer, and what a layer may answer.

The engine knows nothing of convolutions. Of each layer it asks up to three questions about an affine map
`y = scale * x + shift` that stands beside it:

    1. absorb_after     can you take in a map that comes AFTER you, into your own weights?
    2. absorb_before    can you take in a map that comes BEFORE you?
    3. pass_backward,   can a map PASS through you, and what is it on the other side?
       pass_forward

A rule answers for one family of layers with `Absorbed`, with a map on the other side, or with a `Refusal` that gives its
reason. An answer looks at the configuration, the shapes and the map, never at the weights: the algebra in `Absorbed` is
run when the plan stands. Affine maps alone are known by their weights, which are vectors.

Two more questions, both answered by few, serve the shift of a map before zero padding (see `padding.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..affine import Affine

Weights = Mapping[str, NDArray[Any]]
Shape = tuple[int | None, ...]
Ports = tuple[int, ...]


@dataclass(frozen=True)
class LayerSpec:
    """One call of a layer, as plain data: what a rule may look at.

    Attributes:
        type: the layer's class, or the ONNX operator's name.
        name: the layer's name in the flat graph.
        config: what `layer.get_config()` returned (the attributes of an operation or of an ONNX node), with the changes
            of earlier answers.
        weights: the shape of each weight by its name.
        input_shapes, output_shapes: those of the tensors of the call, batch axis included, None where dynamic.
        roles: for each input the argument that it is: "0", "1", ... by position, else its name.
        arguments: the call's positional and named arguments, with other things than tensors among them.
    """

    type: Any
    name: str
    config: Mapping[str, Any]
    weights: Mapping[str, tuple[int, ...]]
    input_shapes: tuple[Shape, ...]
    output_shapes: tuple[Shape, ...]
    roles: tuple[str, ...] = ("0",)
    arguments: tuple[Sequence[Any], Mapping[str, Any]] = ((), field(default_factory=dict))

    @property
    def input_shape(self) -> Shape:
        """That of the first input."""
        return self.input_shapes[0]

    @property
    def output_shape(self) -> Shape:
        """That of the first output."""
        return self.output_shapes[0]

    @property
    def kind(self) -> str:
        """The type in words."""
        return self.type if isinstance(self.type, str) else str(self.type.__name__)


@dataclass(frozen=True)
class Absorbed:
    """The layer takes the map in, or changes so that the map can pass.

    Attributes:
        algebra: from the layer's weights to its new weights, by name, all float64; pure.
        config: the configuration entries that change with it, such as use_bias.
        becomes: the type and the rule of the layer afterwards, where they change.
    """

    algebra: Callable[[Weights], Weights]
    config: Mapping[str, Any] = field(default_factory=dict)
    becomes: tuple[Any, Rule] | None = None


@dataclass(frozen=True)
class Refusal:
    """The layer cannot.

    Attributes:
        reason: a clause that names the layer and ends without a full stop.
        remedy: what would make it foldable, likewise; "" where nothing would.
        by_default: whether it is the answer of every layer that has none of its own, and says nothing of this one.
    """

    reason: str
    remedy: str = ""
    by_default: bool = False

    def __str__(self) -> str:
        return f"{self.reason} ({self.remedy})" if self.remedy else self.reason


@dataclass(frozen=True)
class Passed:
    """A map on one side of the layer, as maps on the other.

    Attributes:
        maps: toward the input, for each input the map that it needs, None where it stays as it is; toward the output,
            the map on the only output.
        change: what changes in the layer itself as the map passes.
        separable: whether each map may be brought to its input on its own, as those of a concatenation.
    """

    maps: tuple[Affine | None, ...]
    change: Absorbed | None = None
    separable: bool = False


class Rule:
    """The answers of one family of layers. What a subclass does not override is refused."""

    types: ClassVar[tuple[Any, ...]] = ()
    is_linear: ClassVar[bool] = False  # whether what stands alone, without its weights, is a linear map
    ignores_training: ClassVar[bool] = False  # whether a `training=True` in the call changes nothing

    def affine(self, layer: LayerSpec, weights: Callable[[], Weights]) -> Affine | None:
        """The map that the layer itself is at inference; None where it is none."""
        return None

    def absorb_after(self, layer: LayerSpec, affine: Affine) -> Absorbed | Refusal:
        """Question 1, for a map on the layer's only output."""
        return Refusal(f"{layer.name} ({layer.kind}) has no weights that could take the map in", by_default=True)

    def absorb_before(self, layer: LayerSpec, affine: Affine, ports: Ports) -> Absorbed | Refusal:
        """Question 2, for a map on the layer's inputs at these ports, which read one tensor."""
        return Refusal(f"{layer.name} ({layer.kind}) has no weights that could take the map in", by_default=True)

    def pass_backward(self, layer: LayerSpec, affine: Affine) -> Sequence[Passed] | Refusal:
        """Question 3, toward the input: the ways to have the map before the layer instead of on its only output."""
        return self._refuse_passage(layer)

    def pass_forward(self, layer: LayerSpec, affine: Affine, ports: Ports) -> Passed | Refusal:
        """Question 3, toward the output: the map on the layer's only output for one on its inputs at these ports."""
        return self._refuse_passage(layer)

    def zero_padding(self, layer: LayerSpec) -> Padding | None:
        """How many zeros the layer puts around each axis of its input between the batch and the channels, alone."""
        return None

    def padded(self, layer: LayerSpec) -> PaddedConvolution | None:
        """What `padding.py` needs to know of a convolution whose input is padded; None for every other layer."""
        return None

    def constant_through(self, layer: LayerSpec, value: float) -> float | None:
        """What a channel becomes that is this constant everywhere; None where that is not known."""
        return None

    def extend_output(self, layer: LayerSpec) -> Absorbed | None:
        """The change that gives the layer one more output channel, the last, which is 1 everywhere."""
        return None

    def macs(self, layer: LayerSpec) -> int | None:
        """How many multiply-adds each element of the output costs; None where that is not known."""
        return None

    def portable(self, layer: LayerSpec) -> tuple[Any, Mapping[str, Any]]:
        """The type and configuration of Keras' own layer that computes the same at inference with the same weights."""
        return layer.type, layer.config

    def _refuse_passage(self, layer: LayerSpec) -> Refusal:
        known = layer.type if isinstance(layer.type, str) else layer.type.__module__.startswith("keras.")
        remedy = "" if known else "register a rule for this class"
        return Refusal(f"a map cannot pass {layer.name} ({layer.kind}) unchanged", remedy)


# For each axis between the batch and the channels the zeros before and behind.
Padding = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class PaddedConvolution:
    """A convolution over an input with zeros around.

    Attributes:
        padding: the zeros around its own input; None where the size is dynamic.
        border: from the layer's weights and the field of the shifts, shape (*spatial, channels) with all zeros around,
            to what the convolution without bias makes of it, shape (*spatial', filters).
        scaled: the answer that takes in the scale of the map alone.
        with_ones: the answer that takes in the map from an input with one more channel, of this constant; None where
            an output channel does not see every input channel.
        macs: the multiply-adds that one more input channel costs for each position of the output.
    """

    padding: Padding | None
    border: Callable[[Weights, NDArray[np.float64]], NDArray[np.float64]]
    scaled: Callable[[Affine], Absorbed]
    with_ones: Callable[[Affine, float], Absorbed] | None = None
    macs: int = 0


class OneInput(Rule):
    """A layer of one input; `through` says what a map on one side is on the other."""

    def through(self, layer: LayerSpec, affine: Affine, forward: bool) -> Affine | Passed | Refusal:
        """The map on the output for one on the input (`forward`), or the reverse."""
        return self._refuse_passage(layer)

    def pass_backward(self, layer: LayerSpec, affine: Affine) -> Sequence[Passed] | Refusal:
        found = self.pass_forward(layer, affine, (0,), forward=False)
        return found if isinstance(found, Refusal) else [found]

    def pass_forward(self, layer: LayerSpec, affine: Affine, ports: Ports, forward: bool = True) -> Passed | Refusal:
        if len(layer.input_shapes) != 1:
            return self._refuse_passage(layer)
        found = self.through(layer, affine, forward)
        return Passed((found,)) if isinstance(found, Affine) else found


def channel_axis(layer: LayerSpec, shape: Shape) -> int:
    """The channel axis of a tensor of this shape under the layer's data_format; the last without one."""
    return 1 if layer.config.get("data_format") == "channels_first" else len(shape) - 1


def refuse_activation(layer: LayerSpec) -> Refusal | None:
    """A refusal where the layer applies an activation between its weights and its output."""
    activation = layer.config.get("activation")
    if activation in (None, "linear"):
        return None
    shown = activation if isinstance(activation, str) else activation.get("class_name", "activation")
    return Refusal(f"{layer.name} applies the activation {shown} after its weights")


def refuse_weights(layer: LayerSpec, *kernels: str) -> Refusal | None:
    """A refusal where the layer holds other weights than these and a bias, as LoRA and int8 layers do."""
    surplus = set(layer.weights) - {"bias", *kernels}
    if not surplus and set(kernels) <= set(layer.weights):
        return None
    return Refusal(
        f"{layer.name} computes with more than its kernel ({', '.join(sorted(surplus)) or 'no kernel of its own'})",
        "merge LoRA weights, or export before quantising",
    )


def fit(layer: LayerSpec, affine: Affine, axis: int, side: str) -> Affine | Refusal:
    """The map along the channel axis of the layer's input or output (`side`), on which it must lie.

    A uniform map, one number for all channels, lies along every axis.
    """
    shape = layer.input_shape if side == "input" else layer.output_shape
    if affine.axis == axis and shape[axis] in (None, affine.channels):
        return affine
    size = shape[axis]
    if affine.is_uniform and size is not None and axis > 0:
        return affine.spread(size, axis)
    return Refusal(f"the map runs along axis {affine.axis}, but the {side} channels of {layer.name} lie on axis {axis}")


def bias_of(weights: Weights, channels: int) -> NDArray[np.float64]:
    """The bias of shape (channels,), zeros where the layer has none."""
    bias = weights.get("bias")
    return np.zeros(channels) if bias is None else bias
