"""Names that a reader of the file knows from Keras.

    inputs, outputs     as the Keras model names them, or as the caller does
    dimensions          batch; height, width, length, depth where free; image_height where several inputs have a height
    nodes, tensors      layer/Operator        conv1/Conv, block/conv1/Conv (conv1 in the nested model block)
    initializers        layer/weight          conv1/kernel; a constant of tf2onnx's is named after its reader

TensorFlow opens a scope named after the layer twice in each call, for `build` and for `call`, and numbers the repetitions:
the nodes of conv1 stand under `model_1/conv1_1/`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from .naming import unique
from .tidying import origins

Array = npt.NDArray[Any]

_NUMBERED = re.compile(r"(.+)_\d+")
_TF2ONNX_NUMBER = re.compile(r"__\d+")


def layer_path(scope: str, layers: Collection[str], model_name: str = "") -> str:
    """`model_1/block_1/conv1_3/BiasAdd__12` as `block/conv1`; empty where no layer is named."""
    path: list[str] = []
    for part in _TF2ONNX_NUMBER.sub("", scope).split("/"):
        match = _NUMBERED.fullmatch(part)
        name = match[1] if match and match[1] in layers else part
        if not path and name == model_name:
            continue
        if name not in layers:
            break
        path.append(name)
    return "/".join(path)


def name_nodes(model: ir.Model, layers: Collection[str], model_name: str) -> None:
    """Names nodes, and the tensors they make, after their layer. Inputs, outputs and initializers keep their names."""
    graph = model.graph
    kept = {str(value.name) for value in (*graph.inputs, *graph.outputs)} | set(graph.initializers)
    paths = _layer_of_each_node(graph, layers, model_name)
    nodes = list(graph)
    names = unique((f"{paths[node]}/{node.op_type}".lstrip("/") for node in nodes), kept)
    for node, name in zip(nodes, names, strict=True):
        node.name = name
        for index, value in enumerate(node.outputs):
            if value.name and not value.is_graph_output():
                value.name = name if len(node.outputs) == 1 else f"{name}:{index}"


def _layer_of_each_node(graph: ir.Graph, layers: Collection[str], model_name: str) -> dict[ir.Node, str]:
    """A node that tf2onnx made without a scope belongs to the layer of its weights, else of its input, else of its reader."""
    paths = {node: layer_path(node.name or "", layers, model_name) for node in graph}
    for node in graph:
        if not paths[node]:
            weights = (str(v.name) for v in node.inputs if v is not None and v.is_initializer())
            paths[node] = next(filter(None, (layer_path(name, layers, model_name) for name in weights)), "")
    for node in graph:
        if not paths[node]:
            paths[node] = next((paths[p] for v in node.inputs if v is not None and (p := v.producer()) in paths), "")
    for node in reversed(graph):
        if not paths[node]:
            paths[node] = next((paths[u] for v in node.outputs for u in v.consumers() if paths.get(u)), "")
    return paths


def name_initializers(model: ir.Model, paths: Mapping[str, str], vectors: Mapping[str, Array]) -> None:
    """Names initializers after the weight they hold, or were folded from; others after the node that reads them.

    paths: for each placeholder of the skeleton (weight_3) its path (conv1/kernel).
    vectors: the values of the weights that were constants during the conversion, by path.
    """
    graph = model.graph
    by_value: dict[bytes, list[str]] = {}
    for path, vector in vectors.items():
        by_value.setdefault(np.ascontiguousarray(vector).tobytes(), []).append(path)
    values = list(graph.initializers.values())
    wanted = []
    for value in values:
        # tf2onnx names the output of weight_3 weight_3:0, and a copy of it weight_3__12.
        nodes = {re.split(r":|__", origin)[0] for origin in origins(value)} & set(paths)
        own = paths[nodes.pop()] if len(nodes) == 1 else None
        wanted.append(own or _by_value(value, by_value) or _by_reader(value))
    taken = {str(value.name) for value in (*graph.inputs, *graph.outputs)}
    for value in values:
        del graph.initializers[str(value.name)]
    for value, name in zip(values, unique(wanted, taken), strict=True):
        value.name = name
        value.const_value.name = name  # type: ignore[union-attr]  # it is an initializer
        graph.initializers.add(value)


def _by_value(value: ir.Value, vectors: Mapping[bytes, Sequence[str]]) -> str | None:
    """TensorFlow folds the Reshape of a bias, and forgets its name; the numbers still tell it."""
    tensor = value.const_value
    if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size != max(tensor.shape.numpy(), default=1):
        return None
    paths = vectors.get(np.ascontiguousarray(tensor.numpy()).tobytes(), [])
    readers = [str(node.name).rpartition("/")[0] for node in value.consumers()]
    own = [path for path in paths if path.rpartition("/")[0] in readers]
    return next(iter([*own, *paths]), None)


def _by_reader(value: ir.Value) -> str:
    use = next(iter(value.uses()))
    role = "value"
    if not use.node.domain and onnx.defs.has(use.node.op_type):
        formal = onnx.defs.get_schema(use.node.op_type).inputs
        role = formal[min(use.idx, len(formal) - 1)].name.lower()
    return f"{use.node.name}/{role}"
