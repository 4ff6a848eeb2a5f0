"""Reshapes that change nothing, or only what comes between them, go.

    Transpose(x) = Reshape(x)                                                 where only axes of size 1 move
    Reshape(x) = x                                                            where the shape stays
    Reshape(MatMul(Reshape(x, (-1, K)), W), (..., N)) = MatMul(x, W)          where x is (..., K) and W (K, N)
    Reshape(Reduce(x, axes, keepdims=0), (N, C, 1, 1)) = Reduce(x, axes, keepdims=1)

Squeeze-and-excitation leaves the first and the last, Keras' Dense on more than two axes the second.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import rewrite
from onnxscript.rewriter.rules.common import reshape_reshape_rule

REDUCTIONS = frozenset({"ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceProd", "ReduceL2"})


def tidy_reshapes(model: ir.Model) -> None:
    """Takes them out, in place; needs inferred shapes."""
    for node in [node for node in model.graph if node.op_type == "Transpose" and node.domain == ""]:
        _reshape_in_place_of(model, node)
    fix_shapes(model)
    rewrite(model, pattern_rewrite_rules=[reshape_reshape_rule])
    for node in _reshapes(model):
        _join_matmul(model, node)
    for node in _reshapes(model):
        _keep_dimensions(model, node)
    for node in _reshapes(model):
        if _same_shape(node.inputs[0], node.outputs[0].shape):
            _bypass(model, node, node.inputs[0])


def fix_shapes(model: ir.Model) -> None:
    """A Reshape whose output has one free size at most gets a constant shape, and what computed the shape goes."""
    for node in _reshapes(model):
        shape, target = node.outputs[0].shape, node.inputs[1]
        if shape is None or target is None or target.const_value is not None:
            continue
        sizes = [size if isinstance(size, int) else -1 for size in shape]
        # 0 would mean "as in the input".
        if sizes.count(-1) > 1 or 0 in sizes:
            continue
        set_integers(model, node, 1, sizes)


def _reshape_in_place_of(model: ir.Model, transpose: ir.Node) -> None:
    x, output = transpose.inputs[0], transpose.outputs[0]
    if x is None or x.shape is None or output.shape is None:
        return
    order = transpose.attributes.get_ints("perm", tuple(reversed(range(len(x.shape)))))
    moved = [axis for axis in order if x.shape[axis] != 1]
    sizes = [size if isinstance(size, int) else -1 for size in output.shape]
    if moved != sorted(moved) or sizes.count(-1) > 1 or 0 in sizes:
        return
    reshape = ir.node("Reshape", [x, x], name=transpose.name)
    reshape.outputs[0].type, reshape.outputs[0].shape = output.type, output.shape
    ir.convenience.replace_nodes_and_values(model.graph, transpose, [transpose], [reshape], [output], reshape.outputs)
    set_integers(model, reshape, 1, sizes)


def _join_matmul(model: ir.Model, last: ir.Node) -> None:
    matmul = last.inputs[0].producer() if last.inputs[0] is not None else None
    if matmul is None or matmul.op_type != "MatMul" or not _read_once(matmul.outputs[0]):
        return
    rows, weight = matmul.inputs
    first = rows.producer() if rows is not None else None
    if first is None or first.op_type != "Reshape" or rows is None or weight is None or weight.shape is None:
        return
    x, flat, found = first.inputs[0], rows.shape, last.outputs[0].shape
    if x is None or x.shape is None or flat is None or found is None or len(weight.shape) != 2 or len(flat) != 2:
        return
    features, units = weight.shape
    if not (
        flat[1] == x.shape[-1] == features and _same_shape(x, ir.Shape([*found[:-1], features])) and found[-1] == units
    ):
        return
    matmul.replace_input_with(0, x)
    matmul.outputs[0].shape = found
    _bypass(model, last, matmul.outputs[0])
    if not rows.uses() and not rows.is_graph_output():
        model.graph.remove(first, safe=True)


def _keep_dimensions(model: ir.Model, last: ir.Node) -> None:
    reduction = last.inputs[0].producer() if last.inputs[0] is not None else None
    if reduction is None or reduction.op_type not in REDUCTIONS or reduction.attributes.get_int("keepdims", True):
        return
    x, shape, axes = reduction.inputs[0], last.outputs[0].shape, reduced_axes(reduction)
    if x is None or x.shape is None or shape is None or not axes or not _read_once(reduction.outputs[0]):
        return
    # The reduction's shape with its axes at size 1: as many elements as before.
    kept = ir.Shape([1 if axis in axes else size for axis, size in enumerate(x.shape)])
    if len(kept) != len(shape) or any(shape[axis] != 1 for axis in axes):
        return
    if not _same_sizes(kept, shape):
        return
    reduction.attributes["keepdims"] = ir.AttrInt64("keepdims", 1)
    reduction.outputs[0].shape = shape
    _bypass(model, last, reduction.outputs[0])


def reduced_axes(node: ir.Node) -> list[int]:
    """The axes of a reduction as numbers from 0: an attribute or, by operator and opset, an input; empty where unknown."""
    data = node.inputs[0]
    if "axes" in node.attributes:
        axes = list(node.attributes.get_ints("axes"))
    elif len(node.inputs) > 1 and node.inputs[1] is not None and node.inputs[1].const_value is not None:
        axes = [int(axis) for axis in node.inputs[1].const_value.numpy().ravel()]
    else:
        return []
    shape = data.shape if data is not None else None
    return [axis % len(shape) for axis in axes] if shape is not None else []


def set_integers(model: ir.Model, node: ir.Node, index: int, values: Sequence[int]) -> None:
    """Makes an input of the node a constant vector of int64."""
    tensor = ir.tensor(np.array(values, np.int64))
    constant = ir.node("Constant", [], {"value": tensor})
    constant.outputs[0].const_value = tensor
    model.graph.insert_before(node, constant)
    node.replace_input_with(index, constant.outputs[0])


def _reshapes(model: ir.Model) -> Iterator[ir.Node]:
    return (node for node in list(model.graph) if node.op_type == "Reshape" and node.domain == "")


def _read_once(value: ir.Value) -> bool:
    return len(value.uses()) == 1 and not value.is_graph_output()


def _same_shape(value: ir.Value | None, shape: ir.Shape | None) -> bool:
    """Whether a tensor of as many elements must have this shape: all sizes are equal, but for one that may be unknown."""
    return value is not None and value.shape is not None and shape is not None and _same_sizes(value.shape, shape)


def _same_sizes(found: ir.Shape, shape: ir.Shape) -> bool:
    if len(found) != len(shape):
        return False
    others = [(a, b) for a, b in zip(found, shape, strict=True) if not (isinstance(a, int) and a == b)]
    unknown = [(a, b) for a, b in others if isinstance(a, int) or isinstance(b, int) or a.value is None or a != b]
    return not unknown or (len(others) == 1 and not all(isinstance(size, int) for size in others[0]))


def _bypass(model: ir.Model, node: ir.Node, value: ir.Value | None) -> None:
    """What reads the node reads `value` instead. A graph's input that is an output keeps the node between."""
    if value is None or (node.outputs[0].is_graph_output() and (value.is_graph_input() or value.is_graph_output())):
        return
    ir.convenience.replace_all_uses_with(node.outputs[0], value, replace_graph_outputs=True)
    model.graph.remove(node, safe=True)
