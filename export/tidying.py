"""From what tf2onnx returns to a graph without leftovers, on the same numbers.

    bind      weight inputs become initializers, in the memory that TensorFlow holds them in
    fold      what stands on constants alone becomes a constant: the Transpose of each kernel, the Reshape of each bias
    merge     Add(Conv(x, W), b), b one number per channel, becomes Conv(x, W, b); zero Pads go into convolutions, Min and Max
              become Clip, Reshapes that change nothing go (reshapes.py)
    remove    Identity, repeated expressions, repeated constants, nodes and initializers that nothing uses

Every step is exact: it moves values, or computes what the runtime would have computed at each run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.optimizer import FOLDED_FROM_KEY, fold_constants
from onnxscript.rewriter import rewrite
from onnxscript.rewriter.rules import common as common_rules

from .reshapes import REDUCTIONS, reduced_axes, set_integers, tidy_reshapes

Array = npt.NDArray[Any]

# Pad with zeros goes into the convolution behind it, and Min(Max(x)) is a Clip.
_RULES = (
    common_rules.normalize_pad_format_conv_rule,
    common_rules.fuse_pad_into_conv_rule,
    common_rules.min_max_rule,
    common_rules.max_min_rule,
    common_rules.successive_relu_clip_rule,
    common_rules.successive_clip_relu_rule,
    common_rules.successive_clip_rule,
)

# A constant that is grown from small ones (an Expand, a Range) is folded up to this many elements.
GROWN_LIMIT = 262144


def bind(model: ir.Model, weights: Mapping[str, Array]) -> None:
    """Turns the graph inputs that `weights` names into initializers; those that nothing reads are dropped."""
    graph = model.graph
    for value in [value for value in graph.inputs if value.name in weights]:
        graph.inputs.remove(value)
        if value.uses():
            array = weights[str(value.name)]
            value.const_value = ir.tensor(array, name=value.name)
            value.shape = ir.Shape(array.shape)
            graph.register_initializer(value)


def tidy(model: ir.Model) -> None:
    """Folds, merges and removes, in place. An output of the graph may come out under another name."""
    remove_identities(model)
    _fold(model)
    lift_reductions(model)
    tidy_reshapes(model)
    cancel_reversals(model)
    merge_biases(model)
    rewrite(model, pattern_rewrite_rules=_RULES)
    for step in (
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        remove_identities,
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.DeduplicateInitializersPass(),
        common.RemoveUnusedOpsetsPass(),
        common.TopologicalSortPass(),
    ):
        step(model)
    separate_outputs(model)


def remove_identities(model: ir.Model) -> None:
    """Removes every Identity but those that a branch or a loop's body needs: what it gives, it must compute itself."""
    common.IdentityEliminationPass()(model)
    for graph in model.graph.subgraphs():
        for index, value in enumerate(graph.outputs):
            producer = value.producer()
            if producer is not None and producer.graph is not graph:
                graph.outputs[index] = _identity(graph, value)


def _identity(graph: ir.Graph, value: ir.Value) -> ir.Value:
    copy = ir.node("Identity", [value])
    copy.outputs[0].type, copy.outputs[0].shape = value.type, value.shape
    graph.append(copy)
    return copy.outputs[0]


def origins(value: ir.Value) -> frozenset[str]:
    """The names of the values that a folded constant was computed from, its own included."""
    return frozenset({str(value.name), *value.meta.get(FOLDED_FROM_KEY, ())})


def _fold(model: ir.Model) -> None:
    # No limit on what is read: a Transpose of 100 MB of weights is to be done here, not at each start of the runtime.
    fold_constants(
        model,
        onnx_shape_inference=True,
        input_size_limit=2**62,
        output_size_limit=GROWN_LIMIT,
    )


def lift_reductions(model: ir.Model) -> None:
    """Reduce(Transpose(x, perm), axes) = Reduce(x, perm[axes]) where the axes that remain keep their order.

    Global pooling in channels_last, which else costs a Transpose in front of every squeeze-and-excitation.
    """
    for node in [node for node in model.graph if node.op_type in REDUCTIONS and node.domain == ""]:
        transpose = node.inputs[0].producer() if node.inputs[0] is not None else None
        axes = reduced_axes(node)
        if (
            transpose is None
            or transpose.op_type != "Transpose"
            or not axes
            or node.attributes.get_int("keepdims", True)
        ):
            continue
        perm = list(transpose.attributes.get_ints("perm"))
        lifted = sorted(perm[axis] for axis in axes)
        kept = [axis for axis in perm if axis not in lifted]
        if kept != sorted(kept):
            continue
        node.replace_input_with(0, transpose.inputs[0])
        if "axes" in node.attributes:
            node.attributes["axes"] = ir.AttrInt64s("axes", lifted)
        else:
            set_integers(model, node, 1, lifted)


def cancel_reversals(model: ir.Model) -> None:
    """x[::-1][::-1] = x: Bidirectional turns the sequence of its backward layer round, which had been turned round."""
    for node in [node for node in model.graph if _reversed_axes(node)]:
        first = node.inputs[0].producer() if node.inputs[0] is not None else None
        if first is None or _reversed_axes(first) != _reversed_axes(node) or node.outputs[0].is_graph_output():
            continue
        ir.convenience.replace_all_uses_with(node.outputs[0], first.inputs[0])  # type: ignore[arg-type]
        model.graph.remove(node, safe=True)


def _reversed_axes(node: ir.Node) -> list[int]:
    """The axes that a Slice turns round and leaves whole; empty for any other node."""
    if node.op_type != "Slice" or node.domain or len(node.inputs) != 5:
        return []
    bounds = [value.const_value for value in node.inputs[1:] if value is not None]
    if len(bounds) != 4 or any(tensor is None for tensor in bounds):
        return []
    starts, ends, axes, steps = (tensor.numpy() for tensor in bounds if tensor is not None)
    whole = (starts == -1).all() and (ends <= -(2**31)).all() and (steps == -1).all()
    return sorted(axes.tolist()) if whole else []


def merge_biases(model: ir.Model) -> None:
    """Add(Conv(x, W), b) = Conv(x, W, b) where b has one number for each output channel, and nothing else reads Conv."""
    for add in [node for node in model.graph if node.op_type == "Add" and node.domain == ""]:
        for output, bias in (tuple(add.inputs), tuple(reversed(add.inputs))):
            convolution = output.producer() if output is not None else None
            if convolution is None or bias is None or not _takes_bias(convolution):
                continue
            vector = _per_channel(bias, _output_shape(convolution))
            if vector is None:
                continue
            _set_bias(convolution, _initializer(model.graph, f"{bias.name}/vector", vector, origins(bias)))
            ir.convenience.replace_all_uses_with(add.outputs[0], convolution.outputs[0], replace_graph_outputs=True)
            model.graph.remove(add, safe=True)
            break


def _takes_bias(node: ir.Node) -> bool:
    return (
        node.op_type in ("Conv", "ConvTranspose")
        and (len(node.inputs) == 2 or node.inputs[2] is None)
        and node.inputs[1] is not None
        and node.inputs[1].shape is not None
        and len(node.outputs[0].uses()) == 1
        and not node.outputs[0].is_graph_output()
    )


def _output_shape(node: ir.Node) -> tuple[int, ...]:
    """(1, channels, 1, ...) for a convolution: the shape of what broadcasts over its output by channel."""
    kernel = node.inputs[1].shape.numpy()  # type: ignore[union-attr]  # _takes_bias has seen it
    # ONNX: Conv's kernel is (out, in / groups, ...), ConvTranspose's (in, out / groups, ...).
    channels = kernel[0] if node.op_type == "Conv" else kernel[1] * node.attributes.get_int("group", 1)
    return (1, int(channels), *(1 for _ in kernel[2:]))


def _per_channel(value: ir.Value, shape: tuple[int, ...]) -> Array | None:
    """The numbers of a constant that broadcasts as (1, channels, 1, ...), one for each channel; else None."""
    if value.const_value is None:
        return None
    array = value.const_value.numpy()
    padded = (1,) * (len(shape) - array.ndim) + array.shape
    return array.reshape(-1) if padded == shape else None


def _initializer(graph: ir.Graph, name: str, array: Array, folded_from: frozenset[str]) -> ir.Value:
    """The initializer of this name, made where it is not there yet."""
    if name not in graph.initializers:
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape))
        value.meta[FOLDED_FROM_KEY] = set(folded_from)
        graph.register_initializer(value)
    return graph.initializers[name]


def _set_bias(convolution: ir.Node, bias: ir.Value) -> None:
    convolution.resize_inputs(3)
    convolution.replace_input_with(2, bias)


def separate_outputs(model: ir.Model) -> None:
    """Gives a tensor that is an output twice a second name: the one use of Identity that ONNX leaves no way around."""
    seen: set[ir.Value] = set()
    for index, value in enumerate(model.graph.outputs):
        if value in seen:
            model.graph.outputs[index] = _identity(model.graph, value)
        seen.add(value)
