"""Embedding: the rows of its table, shape (vocabulary, features), take in a map on the features.

after:   E' = E s + t        s, t on the last axis
"""

from __future__ import annotations

from functools import partial

from keras import layers

from ..affine import Affine
from .rule import Absorbed, LayerSpec, Refusal, Rule, Weights, fit, refuse_weights


def scale_output(weights: Weights, affine: Affine) -> Weights:
    """The table whose rows are `affine` of the rows it has now."""
    return {"embeddings": weights["embeddings"] * affine.scale + affine.shift}


class EmbeddingRule(Rule):
    types = (layers.Embedding,)

    def macs(self, layer: LayerSpec) -> int | None:
        return 0

    def absorb_after(self, layer: LayerSpec, affine: Affine) -> Absorbed | Refusal:
        if refusal := refuse_weights(layer, "embeddings"):
            return refusal
        fitted = fit(layer, affine, len(layer.output_shape) - 1, "output")
        return fitted if isinstance(fitted, Refusal) else Absorbed(partial(scale_output, affine=fitted))
