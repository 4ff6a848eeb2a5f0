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
    Ports,
    Refusal,
    Rule,
    Weights,
    channel_axis,
    fit,
    refuse_activation,
    refuse_weights,
)

WITH_BIAS: Mapping[str, Any] = {"use_bias": True}


class KernelRule(Rule):
    """A subclass names its kernels and gives the algebra of both sides; it may refuse maps on the input."""

    kernels: ClassVar[tuple[str, ...]] = ("kernel",)

    @abstractmethod
    def scale_output(self, layer: LayerSpec) -> Callable[..., Weights]:
        """From (weights, affine) to the weights that give the affine of what the layer gives now."""

    @abstractmethod
    def scale_input(self, layer: LayerSpec) -> Callable[..., Weights]:
        """From (weights, affine) to the weights that give for x what the layer gives now for the affine of x."""

    def refuse_input(self, layer: LayerSpec, affine: Affine) -> Refusal | None:
        """A refusal of this map on the input, though it runs along the channels."""
        return refuse_padding(layer, affine)

    def absorb_after(self, layer: LayerSpec, affine: Affine) -> Absorbed | Refusal:
        if refusal := refuse_weights(layer, *self.kernels) or refuse_activation(layer):
            return refusal
        fitted = fit(layer, affine, channel_axis(layer, layer.output_shape), "output")
        if isinstance(fitted, Refusal):
            return fitted
        return Absorbed(partial(self.scale_output(layer), affine=fitted), WITH_BIAS)

    def absorb_before(self, layer: LayerSpec, affine: Affine, ports: Ports) -> Absorbed | Refusal:
        if refusal := refuse_weights(layer, *self.kernels):
            return refusal
        fitted = fit(layer, affine, channel_axis(layer, layer.input_shape), "input")
        if isinstance(fitted, Refusal):
            return fitted
        return self.refuse_input(layer, fitted) or Absorbed(partial(self.scale_input(layer), affine=fitted), WITH_BIAS)


def is_padded(layer: LayerSpec) -> bool:
    """Whether zeros are put around the layer's input."""
    padding = layer.config.get("padding", "valid")
    if not isinstance(padding, str):
        return any(map(any, padding))
    return padding != "valid" and any(size > 1 for size in layer.config["kernel_size"])


def refuse_padding(layer: LayerSpec, affine: Affine) -> Refusal | None:
    """A refusal where zeros are put around the layer's input and the map does not keep zero."""
    if affine.is_linear or not is_padded(layer):
        return None
    return Refusal(
        f"{layer.name} pads its input with zeros (padding={layer.config['padding']!r}), which the shift of the map would "
        "have to reach",
        "padding='valid' folds",
    )
