"""An ONNX graph in float64: every tensor, constant, type and conversion of a narrower float as double.

    f: float32 -> float32      becomes      f: float64 -> float64,      the constants being those of the file

Every float32 is a float64, so no constant changes its value; only what is computed is no longer rounded to 24 bits. Float
attributes (an epsilon, an alpha) are float32 in every ONNX file and are read as such by every runtime: they stay. Integers and
booleans stay as well. float16 and bfloat16 are widened alike: the truth of such a file is what it would compute unrounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, helper, numpy_helper

_NARROW = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})

# Attributes that name the type of a result, or the type in which an operator computes.
_TYPE_ATTRIBUTES = frozenset({"to", "dtype", "stash_type", "output_dtype", "output_datatype", "softmax_precision"})

# Their evaluators compute in the type of the input, and take no other stash_type than float32's.
_IN_TYPE_OF_INPUT = frozenset({"LayerNormalization", "RMSNormalization"})


def in_double(model: ModelProto) -> ModelProto:
    """A copy of the model in float64; weights that lie beside the file must have been loaded."""
    copy = ModelProto()
    copy.CopyFrom(model)
    _widen_graph(copy.graph, {each.domain: each.version for each in model.opset_import})
    for function in copy.functions:
        _widen_nodes(function.node, {each.domain: each.version for each in function.opset_import})
        for value in function.value_info:
            _widen_type(value.type)
    return copy


def _widen_graph(graph: GraphProto, opsets: Mapping[str, int]) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info):
        _widen_type(value.type)
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for sparse in graph.sparse_initializer:
        _widen_tensor(sparse.values)
    _widen_nodes(graph.node, opsets)


def _widen_nodes(nodes: Iterable[NodeProto], opsets: Mapping[str, int]) -> None:
    for node in nodes:
        for attribute in node.attribute:
            _widen_attribute(node, attribute, opsets)
        node.attribute.extend(_defaults(node, opsets))


def _defaults(node: NodeProto, opsets: Mapping[str, int]) -> list[AttributeProto]:
    """The attributes that the node leaves out and that then mean float32."""
    given = {attribute.name for attribute in node.attribute}
    if node.op_type == "ConstantOfShape" and not given:
        return [helper.make_attribute("value", numpy_helper.from_array(np.zeros(1)))]
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 1), node.domain)
    except onnx.defs.SchemaError:  # a function of the model's own
        return []
    return [
        helper.make_attribute(name, TensorProto.DOUBLE)
        for name, attribute in schema.attributes.items()
        if name not in given and _names_narrow(node, name, attribute.default_value.i)
    ]


def _names_narrow(node: NodeProto, attribute: str, value: int) -> bool:
    """Whether the attribute makes the operator compute in, or give, a narrower float than its inputs."""
    return attribute in _TYPE_ATTRIBUTES and value in _NARROW and node.op_type not in _IN_TYPE_OF_INPUT


def _widen_attribute(node: NodeProto, attribute: AttributeProto, opsets: Mapping[str, int]) -> None:
    if attribute.type == AttributeProto.TENSOR:
        _widen_tensor(attribute.t)
    elif attribute.type == AttributeProto.SPARSE_TENSOR:
        _widen_tensor(attribute.sparse_tensor.values)
    elif attribute.type == AttributeProto.GRAPH:
        _widen_graph(attribute.g, opsets)
    elif attribute.type == AttributeProto.GRAPHS:
        for graph in attribute.graphs:
            _widen_graph(graph, opsets)
    elif attribute.type == AttributeProto.TYPE_PROTO:
        _widen_type(attribute.tp)
    elif _names_narrow(node, attribute.name, attribute.i):
        attribute.i = TensorProto.DOUBLE
    elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
        given = attribute.f if attribute.name == "value_float" else list(attribute.floats)
        attribute.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(np.asarray(given, np.float64))))


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type in _NARROW:
        wide = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))


def _widen_type(value: TypeProto) -> None:
    kind = value.WhichOneof("value")
    if kind in ("tensor_type", "sparse_tensor_type"):
        inner = getattr(value, kind)
        if inner.elem_type in _NARROW:
            inner.elem_type = TensorProto.DOUBLE
    elif kind in ("sequence_type", "optional_type"):
        _widen_type(getattr(value, kind).elem_type)
    elif kind == "map_type":
        _widen_type(value.map_type.value_type)
