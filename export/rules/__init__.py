"""The rules: one small file per family of layers, and the table of them all.

A rule for a layer of your own: subclass `Rule` (`KernelRule` for a layer with a kernel and a bias, `OneInput` for one that maps
pass), list the class in `types`, answer, and call `register` before you fold. `examples/own_layer_rule.py` is one.
"""

from __future__ import annotations

from typing import Any

from .activations import ActivationRule
from .attention import AttentionRule
from .batch_normalization import BatchNormalizationRule
from .constant_maps import (
    AddOperation,
    DivideOperation,
    MultiplyOperation,
    NegativeOperation,
    NormalizationRule,
    RescalingRule,
    SubtractOperation,
)
from .convolution import ConvolutionRule
from .dense import DenseRule
from .depthwise import DepthwiseRule
from .einsum_dense import EinsumDenseRule
from .embedding import EmbeddingRule
from .joining import AddRule, AverageRule, ConcatenateRule, ExtremeRule, MultiplyRule, SubtractRule
from .kernel_rule import KernelRule
from .normalizing import LayerNormalizationRule, RMSNormalizationRule
from .operations import DepthToSpaceOperation, MeanOperation, RearrangingOperation, ReluOperation
from .passing import GlobalPoolingRule, IdentityRule, MaxPoolingRule, WindowRule, ZeroPaddingRule
from .rearranging import RearrangingRule
from .recurrent import BidirectionalRule, RecurrentRule
from .rule import Absorbed, LayerSpec, OneInput, Passed, Refusal, Rule, fit
from .separable import SeparableRule
from .time_distributed import TimeDistributedRule
from .transposed_convolution import TransposedConvolutionRule

_UNKNOWN = Rule()
# By exact class: a subclass may compute something else. The first rule of a class wins.
_BY_TYPE: dict[Any, Rule] = {}


def register(rule: Rule) -> None:
    """Adds a rule for the classes in its `types`, in place of the one that was there."""
    for layer_type in rule.types:
        _BY_TYPE[layer_type] = rule


def rule_for(layer_type: Any) -> Rule:
    """The rule of exactly this class; for any other class one that refuses everything."""
    return _BY_TYPE.get(layer_type, _UNKNOWN)


RULES: tuple[Rule, ...] = (
    BatchNormalizationRule(),
    RescalingRule(),
    NormalizationRule(),
    ConvolutionRule(),
    DepthwiseRule(),
    SeparableRule(),
    TransposedConvolutionRule(),
    DenseRule(),
    EinsumDenseRule(),
    EmbeddingRule(),
    LayerNormalizationRule(),
    RMSNormalizationRule(),
    RecurrentRule(),
    BidirectionalRule(),
    AttentionRule(),
    TimeDistributedRule(rule_for),
    IdentityRule(),
    ActivationRule(),
    WindowRule(),
    MaxPoolingRule(),
    GlobalPoolingRule(),
    ZeroPaddingRule(),
    RearrangingRule(),
    ConcatenateRule(),
    AverageRule(),
    ExtremeRule(),
    AddRule(),
    SubtractRule(),
    MultiplyRule(),
    # Operations of keras.ops; those that join two tensors or one and a constant come in place of the rules above.
    AddOperation(),
    SubtractOperation(),
    MultiplyOperation(),
    DivideOperation(),
    NegativeOperation(),
    ReluOperation(),
    MeanOperation(),
    RearrangingOperation(),
    DepthToSpaceOperation(),
)
for _rule in RULES:
    register(_rule)


__all__ = [
    "RULES",
    "Absorbed",
    "KernelRule",
    "LayerSpec",
    "OneInput",
    "Passed",
    "Refusal",
    "Rule",
    "fit",
    "register",
    "rule_for",
]
