"""What the folding engine asks of a layer, and what a layer may answer.

The engine knows nothing of convolutions. Of each layer it asks up to three questions about an affine map
`y = scale * x + shift` that stands beside it:

    1. absorb_after    can you take in a map that comes AFTER you, into your own weights?
    2. absorb_before   can you take in a map that comes BEFORE you?
    3. pass_through    can a map PASS through you, and what is it on the other side?

A rule answers for one family of layers with `Absorbed`, with an `Affine`, or with a `Refusal` that gives its reason. An
answer looks at the configuration, the shapes and the map, never at the weights: the algebra in `Absorbed` is run once,
when the whole plan stands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..affine import Affine

Weights = Mapping[str, NDArray[Any]]
Shape = tuple[int | None, ...]


class Direction(Enum):
    """Which way a map travels when it leaves its place."""

    TOWARD_INPUT = "backward"
    TOWARD_OUTPUT = "forward"


@dataclass(frozen=True)
class LayerSpec:
    """One call of a layer, as plain data: what a rule may look at.

    Attributes:
        type: the layer's class.
        name: the layer's name in the flat graph.
        config: what `layer.get_config()` returned, with the changes of earlier answers.
        weights: the shape of each weight by its name.
        input_shape: the shape of the only input, batch axis included, None where dynamic; () for several inputs.
        output_shape: likewise for the only output.
    """

    type: type
    name: str
    config: Mapping[str, Any]
    weights: Mapping[str, tuple[int, ...]]
    input_shape: Shape
    output_shape: Shape

    def changed(self, answer: Absorbed) -> LayerSpec:
        """The layer as it is once `answer` has been carried out."""
        return replace(self, config={**self.config, **answer.config})


@dataclass(frozen=True)
class Absorbed:
    """The layer takes the map in.

    Attributes:
        algebra: from the layer's weights to its new weights, by name, all float64; pure.
        config: the configuration entries that change with it, such as use_bias.
    """

    algebra: Callable[[Weights], Weights]
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """The layer cannot, for this reason: a clause that starts with the layer's name and ends without a full stop."""

    reason: str


class Rule:
    """The answers of one family of layers. What a subclass does not override is refused."""

    types: ClassVar[tuple[type, ...]] = ()
    is_affine: ClassVar[bool] = False  # whether the layers are affine maps themselves, which the engine tries to fold

    def affine(self, layer: LayerSpec, weights: Weights) -> Affine:
        """The map that the layer itself is at inference; asked only where `is_affine`."""
        raise TypeError(f"{layer.type.__name__} is not an affine map")

    def absorb_after(self, layer: LayerSpec, affine: Affine) -> Absorbed | Refusal:
        """Question 1, for a map on the layer's output."""
        return Refusal(f"{layer.name} ({layer.type.__name__}) has no weights that could take the map in")

    def absorb_before(self, layer: LayerSpec, affine: Affine) -> Absorbed | Refusal:
        """Question 2, for a map on the layer's input."""
        return Refusal(f"{layer.name} ({layer.type.__name__}) has no weights that could take the map in")

    def pass_through(self, layer: LayerSpec, affine: Affine, direction: Direction) -> Affine | Refusal:
        """Question 3: the map on the layer's input for a map on its output (toward the input), or the reverse."""
        return Refusal(f"a map cannot pass {layer.name} ({layer.type.__name__}) unchanged")

    def portable(self, layer: LayerSpec) -> LayerSpec:
        """The layer of Keras' own that computes the same at inference with the same weights."""
        return layer


def channel_axis(layer: LayerSpec, shape: Shape) -> int:
    """The channel axis of a tensor of this shape under the layer's data_format."""
    return 1 if layer.config["data_format"] == "channels_first" else len(shape) - 1


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
        f"{layer.name} computes with more than its kernel ({', '.join(sorted(surplus)) or 'no kernel of its own'}): "
        "merge LoRA weights, or export before quantising"
    )


def refuse_axis(layer: LayerSpec, affine: Affine, axis: int, side: str) -> Refusal | None:
    """A refusal where the map does not run along the channel axis of the layer's input or output (`side`)."""
    if affine.axis == axis:
        return None
    return Refusal(f"the map runs along axis {affine.axis}, but the {side} channels of {layer.name} lie on axis {axis}")


def bias_of(weights: Weights, channels: int) -> NDArray[np.float64]:
    """The bias of shape (channels,), zeros where the layer has none."""
    bias = weights.get("bias")
    return np.zeros(channels) if bias is None else bias
