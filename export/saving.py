"""An ONNX model as a file, without a second copy of its weights in memory; past 2 GiB its weights lie in a file beside it.

protobuf's own writer makes the whole file in memory twice before a byte of it is written. A message is its fields, one after
the other in any order, each a tag, a length and that many bytes:

    model = fields, 7: graph           graph = fields, 5: tensor, 5: tensor, ...           tensor = fields, 9: raw bytes

so that what is around the weights is written by protobuf, and the weights as they lie in memory.
(protobuf.dev/programming-guides/encoding; onnx/onnx.proto)
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
import onnx_ir as ir

from .writing import output_file, output_pair

LARGEST_FILE = 2**31 - 2**20  # bytes of weights that fit into one protobuf message, beside the graph
_LARGE = 4096  # bytes above which a weight is kept out of protobuf's hands

_GRAPH, _TENSOR, _RAW_BYTES = 7, 5, 9


def weight_bytes(model: ir.Model) -> int:
    """The bytes of all initializers, those of branches and loops too."""
    weights = [value.const_value for graph in model.graphs() for value in graph.initializers.values()]
    return sum(tensor.nbytes for tensor in weights if tensor is not None)


@contextmanager
def onnx_file(model: ir.Model, path: Path, force: bool = False) -> Iterator[Path]:
    """Yields the written file under a temporary name; it takes the name `path` when the block ends without an exception.

    Weights of more than LARGEST_FILE bytes lie in `path` with ".data" appended; the two take their names together.

    Raises what `writing.output_file` raises, for either file.
    """
    if weight_bytes(model) <= LARGEST_FILE:
        with output_file(path, force) as temporary:
            save(model, temporary)
            yield temporary
        return
    with output_pair(path, beside(path), force) as (temporary, weights):
        ir.save(model, temporary, external_data=weights.name, size_threshold_bytes=_LARGE)
        yield temporary
        _refer_to(temporary, beside(path).name)


def beside(path: Path) -> Path:
    """Where weights go that the file cannot hold."""
    return path.with_name(f"{path.name}.data")


def size_of(path: Path) -> int:
    """The bytes that a file of `onnx_file` takes on disk, weights beside it included."""
    locations = {entry.value for entry in _external(onnx.load(path, load_external_data=False).graph)}
    return path.stat().st_size + sum((path.parent / location).stat().st_size for location in locations)


def save(model: ir.Model, path: Path) -> None:
    """Writes a model of at most LARGEST_FILE bytes of weights as one file."""
    weights = large_weights(model)
    with without(model, weights):
        graph = ir.to_proto(model.graph).SerializeToString()
        shell = ir.to_proto(model)
    shell.ClearField("graph")
    fields = []
    for name, tensor in [(value.name, value.const_value) for value in weights]:
        assert tensor is not None  # large_weights gives no others
        dims = tensor.shape.numpy()
        head = onnx.TensorProto(name=name, data_type=int(tensor.dtype), dims=dims).SerializeToString()
        fields.append((head, tensor, len(head) + _field_size(_RAW_BYTES, tensor.nbytes)))
    with path.open("wb") as file:
        file.write(shell.SerializeToString())
        _begin(file, _GRAPH, len(graph) + sum(_field_size(_TENSOR, size) for *_, size in fields))
        file.write(graph)
        for head, tensor, size in fields:
            _begin(file, _TENSOR, size)
            file.write(head)
            _begin(file, _RAW_BYTES, tensor.nbytes)
            _write(file, tensor)


def add_metadata(path: Path, properties: Mapping[str, str]) -> None:
    """Adds to a file's metadata, at its end: fields of a list may stand anywhere, and what was there is not touched."""
    added = onnx.ModelProto()
    onnx.helper.set_model_props(added, dict(properties))
    with path.open("ab") as file:
        file.write(added.SerializeToString())


def large_weights(model: ir.Model) -> list[ir.Value]:
    """The initializers that are better not copied."""
    initializers = model.graph.initializers.values()
    return [value for value in initializers if value.const_value is not None and value.const_value.nbytes > _LARGE]


@contextmanager
def without(model: ir.Model, weights: list[ir.Value]) -> Iterator[None]:
    """While this is open, the model has not these initializers."""
    for value in weights:
        del model.graph.initializers[str(value.name)]
    try:
        yield
    finally:
        for value in weights:
            model.graph.register_initializer(value)


def _write(file: BinaryIO, tensor: ir.TensorProtocol) -> None:
    array = tensor.numpy()
    if sys.byteorder == "big" or array.nbytes != tensor.nbytes:  # two 4-bit numbers lie in one byte
        file.write(tensor.tobytes())
        return
    file.write(np.ascontiguousarray(array).view(np.uint8).data)


def _begin(file: BinaryIO, number: int, size: int) -> None:
    """The tag and the length of a field of `size` bytes."""
    file.write(_varint(number << 3 | 2) + _varint(size))


def _field_size(number: int, size: int) -> int:
    return len(_varint(number << 3 | 2)) + len(_varint(size)) + size


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth tells that more follow."""
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def _refer_to(path: Path, location: str) -> None:
    """Gives the file of weights, which the model was checked with under another name, the name that it will have."""
    model = onnx.load(path, load_external_data=False)
    for entry in _external(model.graph):
        entry.value = location
    path.write_bytes(model.SerializeToString())


def _external(graph: onnx.GraphProto) -> Iterator[onnx.StringStringEntryProto]:
    """The entries that tell where weights lie, of branches and loops too."""
    for tensor in graph.initializer:
        yield from (entry for entry in tensor.external_data if entry.key == "location")
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _external(attribute.g)
