"""The rules: one small file per family of layers, and the table of them all."""

from __future__ import annotations

from .batch_normalization import BatchNormalizationRule
from .convolution import ConvolutionRule
from .dense import DenseRule
from .depthwise import DepthwiseRule
from .einsum_dense import EinsumDenseRule
from .passing import (
    AveragePoolingRule,
    FlattenRule,
    GlobalPoolingRule,
    HomogeneousRule,
    IdentityRule,
    MaxPoolingRule,
)
from .rule import Absorbed, Direction, LayerSpec, Refusal, Rule
from .separable import SeparableRule
from .transposed_convolution import TransposedConvolutionRule

RULES: tuple[Rule, ...] = (
    BatchNormalizationRule(),
    ConvolutionRule(),
    DepthwiseRule(),
    SeparableRule(),
    TransposedConvolutionRule(),
    DenseRule(),
    EinsumDenseRule(),
    IdentityRule(),
    AveragePoolingRule(),
    MaxPoolingRule(),
    GlobalPoolingRule(),
    HomogeneousRule(),
    FlattenRule(),
)

# By exact class: a subclass may compute something else.
_BY_TYPE = {layer_type: rule for rule in RULES for layer_type in rule.types}
_UNKNOWN = Rule()


def rule_for(layer_type: type) -> Rule:
    """The rule of exactly this class; for any other class one that refuses everything."""
    return _BY_TYPE.get(layer_type, _UNKNOWN)


__all__ = ["RULES", "Absorbed", "Direction", "LayerSpec", "Refusal", "Rule", "rule_for"]
