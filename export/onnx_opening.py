"""Opening an ONNX file that came from anywhere: every command reads it through here, before onnx or onnxruntime does.

    file ──a message of at most 2 GiB──> model ──each tensor: where, how large──> functions, unfolded ──> ModelProto

onnx and onnxruntime trust a file further than a stranger's should be: they follow where it says that weights lie
(external_data.py), allocate what a tensor is declared to have, and unfold functions that call others, which ten lines can make
2^40 nodes. What the operators compute is not looked at: a node can still ask for a large tensor when the model runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from os import PathLike
from pathlib import Path

import onnx
from google.protobuf.message import Message
from onnx import TensorProto
from onnx.external_data_helper import load_external_data_for_tensor

from .errors import BrokenModelError, UnsafeModelError, UsageError
from .external_data import check_external
from .wording import quote, reason

_ADVICE = "Write the file anew with its exporter; onnxruntime must be able to load it."

_LARGEST = 2**31 - 1  # bytes of a protobuf message
_MOST_NODES = 200_000  # that functions may unfold to, where the file itself has less than a tenth
_DENSE_ALLOWANCE, _LARGEST_RATIO = 2**24, 1000  # numbers of a sparse tensor: in all, and for each that is stored

_BITS: dict[int, int] = {
    **dict.fromkeys((TensorProto.UINT2, TensorProto.INT2), 2),
    **dict.fromkeys((TensorProto.UINT4, TensorProto.INT4, TensorProto.FLOAT4E2M1), 4),
    **dict.fromkeys((TensorProto.UINT8, TensorProto.INT8, TensorProto.BOOL, TensorProto.FLOAT8E8M0), 8),
    **dict.fromkeys((TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E4M3FNUZ), 8),
    **dict.fromkeys((TensorProto.FLOAT8E5M2, TensorProto.FLOAT8E5M2FNUZ), 8),
    **dict.fromkeys((TensorProto.UINT16, TensorProto.INT16, TensorProto.FLOAT16, TensorProto.BFLOAT16), 16),
    **dict.fromkeys((TensorProto.FLOAT, TensorProto.INT32, TensorProto.UINT32), 32),
    **dict.fromkeys((TensorProto.DOUBLE, TensorProto.INT64, TensorProto.UINT64, TensorProto.COMPLEX64), 64),
    TensorProto.COMPLEX128: 128,
}
_COMPLEX = (TensorProto.COMPLEX64, TensorProto.COMPLEX128)
_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")

_Nodes = Iterator[onnx.NodeProto]


def open_onnx(path: str | PathLike[str], *, weights: bool = True) -> onnx.ModelProto:
    """The model in a file.

    Args:
        path: the file, whatever its suffix; a symbolic link to it is followed, as the user named it.
        weights: whether to read what lies in other files, too; these are checked in any case.

    Raises:
        UsageError: there is no such file.
        BrokenModelError: it holds no model, a file of weights is missing, or a tensor has not the values it declares.
        UnsafeModelError: weights lie outside the model's folder, or functions unfold without measure.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"There is no ONNX file {quote(str(path))}; check the path.")
    try:
        if (size := path.stat().st_size) > _LARGEST:
            raise BrokenModelError(f"{path}: this is no ONNX model: it has {size} bytes, more than 2 GiB. {_ADVICE}")
        # Not by its suffix, which could make it text or JSON.
        model = onnx.ModelProto.FromString(path.read_bytes())
    except BrokenModelError:
        raise
    except Exception as error:  # protobuf's, the file system's
        raise BrokenModelError(f"{path}: this is no ONNX model: {reason(error)}. {_ADVICE}") from error
    if not model.HasField("graph"):
        raise BrokenModelError(f"{path}: this is no ONNX model: it has no graph. {_ADVICE}")
    _check_texts(path, model)
    _check_versions(path, model)
    _check_functions(path, model)
    for tensor in _tensors(path, model):
        _check_tensor(path, tensor)
        if weights and tensor.data_location == TensorProto.EXTERNAL:
            try:
                load_external_data_for_tensor(tensor, str(path.absolute().parent))
            except Exception as error:  # onnx' own look at the place, the file system's
                raise BrokenModelError(
                    f"{path}: the weights of {quote(tensor.name)} beside it cannot be read: {reason(error)}. {_ADVICE}"
                ) from error
    return model


def _tensors(path: Path, model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor, of branches, loops, functions, training and sparse ones too."""
    graphs = [model.graph]
    for training in model.training_info:
        graphs += [training.initialization, training.algorithm]
    attributes = [each for function in model.functions for each in function.attribute_proto]
    nodes = [node for function in model.functions for node in function.node]
    for graph in graphs:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from _parts(path, sparse)
        nodes.extend(graph.node)
    attributes.extend(each for node in _every_node(nodes) for each in node.attribute)
    for attribute in attributes:  # by its fields, not by its type, which a reader may not look at
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for sparse in (
            *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else ()),
            *attribute.sparse_tensors,
        ):
            yield from _parts(path, sparse)
        for graph in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from _parts(path, sparse)


def _parts(path: Path, sparse: onnx.SparseTensorProto) -> Iterator[TensorProto]:
    stored = max(0, math.prod(sparse.values.dims))
    if math.prod(sparse.dims) > _DENSE_ALLOWANCE + _LARGEST_RATIO * stored:
        raise BrokenModelError(
            f"{path}: the sparse tensor {quote(sparse.values.name)} of shape {quote(tuple(sparse.dims))} stores {stored} "
            f"numbers; made dense, it would fill the memory. {_ADVICE}"
        )
    yield sparse.values
    yield sparse.indices


def _every_node(nodes: list[onnx.NodeProto]) -> _Nodes:
    """These and those of the subgraphs below them. No recursion: depth is the file's choice."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        yield node
        for attribute in node.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                waiting.extend(graph.node)


def _check_tensor(path: Path, tensor: TensorProto) -> None:
    bits = _BITS.get(tensor.data_type)
    if min(tensor.dims, default=0) < 0:
        raise BrokenModelError(f"{_where(path, tensor)} has a negative size. {_ADVICE}")
    if bits is None and tensor.data_type != TensorProto.STRING:
        raise BrokenModelError(
            f"{_where(path, tensor)} is of type {tensor.data_type}, which is none of ONNX'. {_ADVICE}"
        )
    count = math.prod(tensor.dims)
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        if bits is None:
            raise BrokenModelError(f"{_where(path, tensor)} is of text, which cannot lie in another file. {_ADVICE}")
        check_external(path, tensor, -(-count * bits // 8))
        if tensor.data_location == TensorProto.EXTERNAL:
            return
    if bits is None:
        declared, present, unit = count, len(tensor.string_data), "texts"
    elif tensor.HasField("raw_data"):
        declared, present, unit = -(-count * bits // 8), len(tensor.raw_data), "bytes"
    else:
        # Complex numbers take two entries; of less than a byte, as many share one as fit into it.
        declared = 2 * count if tensor.data_type in _COMPLEX else -(-count * min(bits, 8) // 8)
        present, unit = sum(len(getattr(tensor, field)) for field in _FIELDS), "values"
    if declared != present:
        raise BrokenModelError(
            f"{_where(path, tensor)} should hold {declared} {unit}, but {present} are there. {_ADVICE}"
        )


def _where(path: Path, tensor: TensorProto) -> str:
    return f"{path}: tensor {quote(tensor.name)} of shape {quote(tuple(tensor.dims))}"


def _check_texts(path: Path, model: onnx.ModelProto) -> None:
    """Refuse bytes that are no UTF-8 where text belongs: protobuf lets them pass, as bytes, and whoever reads them fails."""
    waiting: list[Message] = [model]
    while waiting:
        message = waiting.pop()
        for field, value in message.ListFields():
            if field.type == field.TYPE_MESSAGE:
                waiting.extend(value if field.is_repeated else [value])
            elif field.type == field.TYPE_STRING:
                for text in value if field.is_repeated else [value]:
                    if not isinstance(text, str):
                        raise BrokenModelError(
                            f"{path}: this is no ONNX model: it has {quote(text)} as a {field.name}, which is no text in "
                            f"UTF-8. {_ADVICE}"
                        )


def _check_versions(path: Path, model: onnx.ModelProto) -> None:
    for opset in (*model.opset_import, *(each for function in model.functions for each in function.opset_import)):
        if not 0 <= opset.version < 2**31:  # more than onnx counts to
            raise BrokenModelError(
                f"{path}: this is no ONNX model: it is of version {opset.version} of the operators {quote(opset.domain)}. "
                f"{_ADVICE}"
            )


def _check_functions(path: Path, model: onnx.ModelProto) -> None:
    """Refuse functions that call themselves, or unfold to more nodes than a model has."""
    bodies: dict[tuple[str, str], list[onnx.NodeProto]] = {}
    for function in model.functions:
        key = (function.domain, function.name)
        # Overloads of a function are taken together: which one is called does not matter here.
        bodies[key] = [*bodies.get(key, []), *_every_node(list(function.node))]
    own = list(_every_node(list(model.graph.node)))
    allowed = max(_MOST_NODES, 10 * (len(own) + sum(map(len, bodies.values()))))
    sizes: dict[tuple[str, str], int] = {}
    for start in bodies:
        path_down = [start]
        while path_down:
            key = path_down[-1]
            calls = [(node.domain, node.op_type) for node in bodies[key]]
            waiting = [call for call in calls if call in bodies and call not in sizes]
            if not waiting:
                sizes[path_down.pop()] = sum(sizes.get(call, 1) for call in calls)
                continue
            if waiting[0] in path_down:
                raise BrokenModelError(f"{path}: function {quote(waiting[0][1])} calls itself. {_ADVICE}")
            path_down.append(waiting[0])
    unfolded = sum(sizes.get((node.domain, node.op_type), 1) for node in own)
    if max([unfolded, *sizes.values()]) > allowed:
        raise UnsafeModelError(
            f"{path} has {len(own)} nodes, which unfold to {max([unfolded, *sizes.values()]):.3g} by functions that call "
            f"others: it would fill the memory. Do not open this file unless you know who made it."
        )
