"""TimeDistributed: the layer inside, applied to each slice of axis 1; its rule answers, with one axis less.

A map along the time axis itself is refused, as the layer inside never sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import keras
from keras import layers

from ..affine import Affine
from .rule import Absorbed, LayerSpec, Ports, Refusal, Rule, Weights


class TimeDistributedRule(Rule):
    """Made with the function that finds the rule of the layer inside."""

    types = (layers.TimeDistributed,)

    def __init__(self, rule_for: Callable[[Any], Rule]) -> None:
        self._rule_for = rule_for

    def affine(self, layer: LayerSpec, weights: Callable[[], Weights]) -> Affine | None:
        inner = _inner(layer)
        found = self._rule_for(inner.type).affine(inner, weights)
        return None if found is None else found.along(found.axis + 1)

    def absorb_after(self, layer: LayerSpec, affine: Affine) -> Absorbed | Refusal:
        inner = _inner(layer)
        if affine.axis < 2:
            return _along_time(layer)
        return _outer(layer, self._rule_for(inner.type).absorb_after(inner, affine.along(affine.axis - 1)))

    def absorb_before(self, layer: LayerSpec, affine: Affine, ports: Ports) -> Absorbed | Refusal:
        inner = _inner(layer)
        if affine.axis < 2 or ports != (0,):
            return _along_time(layer)
        return _outer(layer, self._rule_for(inner.type).absorb_before(inner, affine.along(affine.axis - 1), ports))

    def portable(self, layer: LayerSpec) -> tuple[Any, Mapping[str, Any]]:
        inner = _inner(layer)
        found, config = self._rule_for(inner.type).portable(inner)
        inside = {
            **layer.config["layer"],
            "module": "keras.layers",
            "class_name": found.__name__,
            "registered_name": None,
            "config": dict(config),
        }
        known = bool(self._rule_for(inner.type).types)
        return layer.type, {**layer.config, "layer": inside} if known else layer.config


def _inner(layer: LayerSpec) -> LayerSpec:
    """The layer inside, as it is called on one slice."""
    inside = layer.config["layer"]
    registered = inside.get("registered_name")
    found = keras.saving.get_registered_object(registered) if registered else None
    if found is None and inside.get("module") == "keras.layers":
        found = getattr(layers, inside["class_name"], None)
    return replace(
        layer,
        type=found or inside["class_name"],
        config=inside["config"],
        input_shapes=tuple((shape[0], *shape[2:]) for shape in layer.input_shapes),
        output_shapes=tuple((shape[0], *shape[2:]) for shape in layer.output_shapes),
    )


def _outer(layer: LayerSpec, answer: Absorbed | Refusal) -> Absorbed | Refusal:
    if isinstance(answer, Refusal):
        return answer
    if answer.becomes is not None:
        return Refusal(f"what is inside {layer.name} would become another layer")
    inside = layer.config["layer"]
    return replace(answer, config={"layer": {**inside, "config": {**inside["config"], **answer.config}}})


def _along_time(layer: LayerSpec) -> Refusal:
    return Refusal(f"the map runs along the steps of {layer.name}, or stands on another of its inputs")
