"""What every layer with a kernel has in common: convolutions and Dense.

The layer is linear in its kernel and adds a bias, so it takes in any map on its output channels if nothing nonlinear stands
between, and on its input channels where nothing is padded. A family says how its kernel is laid out, by two pure functions.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

from ..affine import Affine
from .rule import (
    Absorbed,
    LayerSpec,
    Refusal,
    Rule,
    Weights,
    channel_axis,
    refuse_activation,
    refuse_axis,
    refuse_weights,
)


class KernelRule(Rule):
    """A subclass names its kernels and gives the algebra of both sides; it may refuse maps on the input."""

    kernels: ClassVar[tuple[str, ...]] = ("kernel",)
    # From (weights, affine) to the weights that give the affine of what the layer gives now.
    scale_output: ClassVar[Callable[..., Weights]]

    @abstractmethod
    def scale_input(self, layer: LayerSpec) -> Callable[..., Weights]:
        """From (weights, affine) to the weights that give for x what the layer gives now for the affine of x."""

    def refuse_input(self, layer: LayerSpec, affine: Affine) -> Refusal | None:
        """A refusal of this map on the input, though it runs along the channels."""
        return refuse_padding(layer, affine)

    def absorb_after(self, layer: LayerSpec, affine: Affine) -> Absorbed | Refusal:
        return (
            refuse_weights(layer, *self.kernels)
            or refuse_activation(layer)
            or refuse_axis(layer, affine, _channels(layer, layer.output_shape), "output")
            or Absorbed(partial(type(self).scale_output, affine=affine), _WITH_BIAS)
        )

    def absorb_before(self, layer: LayerSpec, affine: Affine) -> Absorbed | Refusal:
        return (
            refuse_weights(layer, *self.kernels)
            or refuse_axis(layer, affine, _channels(layer, layer.input_shape), "input")
            or self.refuse_input(layer, affine)
            or Absorbed(partial(self.scale_input(layer), affine=affine), _WITH_BIAS)
        )


_WITH_BIAS: Mapping[str, Any] = {"use_bias": True}


def _channels(layer: LayerSpec, shape: tuple[int | None, ...]) -> int:
    return channel_axis(layer, shape) if "data_format" in layer.config else len(shape) - 1


def refuse_padding(layer: LayerSpec, affine: Affine) -> Refusal | None:
    """A refusal where zeros are put around the layer's input and the map does not keep zero."""
    padded = layer.config.get("padding", "valid") != "valid" and any(size > 1 for size in layer.config["kernel_size"])
    if not padded or affine.is_linear:
        return None
    return Refusal(
        f"{layer.name} pads its input with zeros (padding={layer.config['padding']!r}), which the shift of the map "
        "would have to reach; padding='valid' folds"
    )
