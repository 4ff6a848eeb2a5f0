"""Damaged and forged model files by the thousand, each from its seed: for `mutated_files.py` and its test.

    bytes of a sound file ──flips, runs of zeros, cuts, doubled and removed pieces──> a damaged file
    its structure (JSON, HDF5 attributes, protobuf) ──wrong types, sizes, names──> a forged file, soundly written

The first kind is what copies and disks do; the second is what gets past checksums and parsers to what lies behind them.
"""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CONFIG, WEIGHTS = "config.json", "model.weights.h5"

_NUMBERS = [-(2**63), -1, 0, 1, 2, 3, 7, 255, 2**31, 2**40, 2**62, 2**63 - 1]
_WORDS = ["", "x", "\x1b[31mred", "line\nline", "é" * 40, "a" * 5000, "/etc/passwd", "../up", "keras", "%s%n"]


def mutant(kind: str, whole: bytes, seed: int) -> bytes:
    """A mutant of the bytes of a sound file, which depends on nothing but them and the seed; `kind` is its suffix."""
    draw = random.Random(f"{kind} {seed}")
    if draw.random() < _SHARE_OF_DAMAGE[kind]:
        return damaged(whole, draw)
    return _FORGERIES[kind](whole, draw)


def damaged(whole: bytes, draw: random.Random) -> bytes:
    """The bytes with one to three faults of copying."""
    data = bytearray(whole)
    for _ in range(draw.choice([1, 1, 2, 3])):
        _damage(data, draw)
    return bytes(data)


def _damage(data: bytearray, draw: random.Random) -> None:
    start = draw.randrange(len(data) + 1)
    piece = slice(start, start + draw.choice([1, 4, 16, 64, 200, 4096]))
    match draw.randrange(6):
        case 0:
            for _ in range(draw.choice([1, 2, 8, 32])):
                if data:
                    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        case 1:
            for _ in range(draw.choice([1, 2, 8, 32])):
                if data:
                    data[draw.randrange(len(data))] = draw.randrange(256)
        case 2:
            del data[start:]
        case 3:
            data[piece] = bytes(len(data[piece]))
        case 4:
            del data[piece]
        case _:
            data[start:start] = data[piece]


# --------------------------------------------------------------------------------------------------------------- JSON


def forged_json(value: Any, draw: random.Random) -> Any:
    """The JSON value with one to three of its parts replaced, deleted, renamed or swapped."""
    for _ in range(draw.choice([1, 1, 2, 3])):
        places = list(_places(value))
        holder, key = draw.choice(places)
        match draw.randrange(8):
            case 0 if isinstance(holder, dict):
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[draw.choice(_WORDS)] = holder.pop(key)
            case 2:
                other, there = draw.choice(places)
                holder[key] = json.loads(json.dumps(_get(other, there)))  # a copy: no cycle, which JSON has not
            case 3 if isinstance(holder[key], str):
                names = [_get(*place) for place in places if isinstance(_get(*place), str)]
                holder[key] = draw.choice(names)
            case 4 if isinstance(holder, list):
                holder.insert(key, holder[key])
            case 5 if isinstance(holder, list):
                del holder[key]
            case _:
                holder[key] = _json_value(draw)
    return value


def _places(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield value, key
        yield from _places(child)


def _get(holder: Any, key: Any) -> Any:
    try:
        return holder[key]
    except (KeyError, IndexError):  # an earlier change took it away
        return None


def _json_value(draw: random.Random) -> Any:
    return draw.choice(
        [
            None,
            True,
            [],
            {},
            [[]],
            draw.choice(_NUMBERS),
            10**400,
            0.5,
            -1e308,
            float("nan"),
            float("inf"),
            draw.choice(_WORDS),
            [draw.choice(_NUMBERS)] * draw.choice([1, 2, 9]),
            {"class_name": draw.choice(["Dense", "Lambda", "Functional", "x"]), "config": {}},
            {"class_name": "__keras_tensor__", "config": {"shape": [draw.choice(_NUMBERS)], "dtype": "float32"}},
        ]
    )


def _forged_archive(whole: bytes, draw: random.Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    if draw.random() < 0.25:
        members[WEIGHTS] = _forged_hdf5(members[WEIGHTS], draw)
    else:
        members[CONFIG] = json.dumps(forged_json(json.loads(members[CONFIG]), draw)).encode()
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return made.getvalue()


# --------------------------------------------------------------------------------------------------------------- HDF5


def _forged_hdf5(whole: bytes, draw: random.Random) -> bytes:
    content = io.BytesIO(whole)
    with h5py.File(content, "r+") as file:
        if "model_config" in file.attrs and draw.random() < 0.6:
            file.attrs["model_config"] = json.dumps(forged_json(json.loads(file.attrs["model_config"]), draw))
        else:
            _forge_object(file, draw)
    return content.getvalue()


def _forge_object(file: h5py.File, draw: random.Random) -> None:
    names: list[str] = []
    file.visit(names.append)
    arrays = [name for name in names if isinstance(file[name], h5py.Dataset)]
    owners = [name for name in ["/", *names] if len(file[name].attrs)]
    match draw.randrange(6):
        case 0 if owners:
            attributes = file[draw.choice(owners)].attrs
            attributes[draw.choice(sorted(attributes))] = draw.choice(
                [np.nan, 2**62, "x", np.zeros((3, 3)), np.array(["a", "b"], "S3"), np.array([], "S1"), b"\xff\xfe"]
            )
        case 1 if owners:
            attributes = file[draw.choice(owners)].attrs
            del attributes[draw.choice(sorted(attributes))]
        case 2:
            del file[draw.choice(names)]
        case 3:
            file.move(draw.choice(names), "elsewhere")
        case 4:
            name = draw.choice(arrays)
            values = file[name][()]
            del file[name]
            file[name] = draw.choice(
                [values.T, values.ravel(), values.astype("float64"), values[None], values * np.nan, values[:0], -values]
            )
        case _:
            file.create_group(f"{draw.choice([*arrays, 'new'])}x/y")


# --------------------------------------------------------------------------------------------------------------- ONNX


def _forged_onnx(whole: bytes, draw: random.Random) -> bytes:
    model = onnx.ModelProto.FromString(whole)
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        draw.choice(_ONNX_FORGERIES)(model, draw)
    return bytes(model.SerializeToString())


def _graphs(model: onnx.ModelProto) -> list[onnx.GraphProto]:
    found = [model.graph]
    for graph in found:
        found.extend(each.g for node in graph.node for each in node.attribute if each.HasField("g"))
    return found


def _node(model: onnx.ModelProto, draw: random.Random) -> onnx.NodeProto:
    nodes = [node for graph in _graphs(model) for node in graph.node]
    nodes += [node for function in model.functions for node in function.node]
    return draw.choice(nodes) if nodes else onnx.NodeProto()


def _tensor(model: onnx.ModelProto, draw: random.Random) -> onnx.TensorProto:
    tensors = [tensor for graph in _graphs(model) for tensor in graph.initializer]
    tensors += [
        each.t for graph in _graphs(model) for node in graph.node for each in node.attribute if each.HasField("t")
    ]
    return draw.choice(tensors) if tensors else onnx.TensorProto()


def _forge_sizes(model: onnx.ModelProto, draw: random.Random) -> None:
    dims = _tensor(model, draw).dims
    match draw.randrange(3):
        case 0 if len(dims):
            dims[draw.randrange(len(dims))] = draw.choice(_NUMBERS)
        case 1 if len(dims):
            del dims[draw.randrange(len(dims))]
        case _:
            dims.append(draw.choice(_NUMBERS))


def _forge_tensor_type(model: onnx.ModelProto, draw: random.Random) -> None:
    _tensor(model, draw).data_type = draw.randrange(-1, 30)


def _forge_values(model: onnx.ModelProto, draw: random.Random) -> None:
    tensor = _tensor(model, draw)
    match draw.randrange(4):
        case 0:
            tensor.raw_data = tensor.raw_data[: draw.randrange(len(tensor.raw_data) + 1)]
        case 1:
            tensor.raw_data += bytes(draw.choice([1, 4, 1000]))
        case 2:
            tensor.ClearField("raw_data")
            tensor.float_data.extend([1.0] * draw.choice([0, 1, 9]))
        case _:
            tensor.raw_data = bytes(draw.randrange(256) for _ in tensor.raw_data)


def _forge_name_of_weight(model: onnx.ModelProto, draw: random.Random) -> None:
    _tensor(model, draw).name = draw.choice([*_WORDS, _any_tensor(model, draw)])


def _any_tensor(model: onnx.ModelProto, draw: random.Random) -> str:
    names = [name for graph in _graphs(model) for node in graph.node for name in (*node.input, *node.output)]
    return draw.choice([*names, ""])


def _forge_wires(model: onnx.ModelProto, draw: random.Random) -> None:
    node = _node(model, draw)
    side = node.input if draw.random() < 0.7 else node.output
    match draw.randrange(4):
        case 0 if len(side):
            side[draw.randrange(len(side))] = _any_tensor(model, draw)
        case 1 if len(side):
            del side[draw.randrange(len(side))]
        case 2:
            side.append(_any_tensor(model, draw))
        case _ if len(side):
            side[draw.randrange(len(side))] = draw.choice(_WORDS)
        case _:
            side.append("x")


_OPERATORS = sorted({schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""})


def _forge_operator(model: onnx.ModelProto, draw: random.Random) -> None:
    node = _node(model, draw)
    if draw.random() < 0.85:
        node.op_type = draw.choice(_OPERATORS)
    else:
        node.domain = draw.choice(["com.microsoft", "ai.onnx.ml", "ai.onnx.training", "own", "ai.onnx", *_WORDS])
    for function in model.functions:
        if draw.random() < 0.1:
            node.op_type, node.domain = function.name, function.domain


def _forge_attribute(model: onnx.ModelProto, draw: random.Random) -> None:
    nodes = [node for graph in _graphs(model) for node in graph.node if node.attribute]
    node = draw.choice(nodes) if nodes and draw.random() < 0.8 else _node(model, draw)
    if not node.attribute:
        schema = draw.choice(_schemas(node))
        name = draw.choice([*(schema.attributes if schema else ()), "axis"])
        node.attribute.append(helper.make_attribute(name, draw.choice(_NUMBERS)))
        return
    attribute = draw.choice(node.attribute)
    match draw.randrange(6):
        case 0:
            attribute.type = draw.randrange(15)
        case 1 if attribute.ints:
            attribute.ints[draw.randrange(len(attribute.ints))] = draw.choice(_NUMBERS)
        case 2 if attribute.ints:
            del attribute.ints[draw.randrange(len(attribute.ints))]
        case 3:
            attribute.name = draw.choice([*_WORDS, "axis", "axes", "pads", "value", "group"])
        case 4:
            node.attribute.remove(attribute)
        case _:
            attribute.i, attribute.s = draw.choice(_NUMBERS), draw.choice(_WORDS).encode()
            attribute.f = draw.choice([float("nan"), float("inf"), -1.0, 0.0, 1e38])


def _schemas(node: onnx.NodeProto) -> list[Any]:
    try:
        return [onnx.defs.get_schema(node.op_type, "")]
    except onnx.defs.SchemaError:
        return [None]


def _forge_versions(model: onnx.ModelProto, draw: random.Random) -> None:
    match draw.randrange(3):
        case 0:
            model.ir_version = draw.choice([*_NUMBERS, 4, 6, 9])
        case 1 if model.opset_import:
            model.opset_import[0].version = draw.choice([*_NUMBERS, 5, 6, 9, 10, 11, 12, 13, 21, 24])
        case _:
            model.opset_import.append(
                helper.make_opsetid(draw.choice(["", "own", "com.microsoft"]), draw.choice(_NUMBERS))
            )


def _forge_ports(model: onnx.ModelProto, draw: random.Random) -> None:
    graph = draw.choice(_graphs(model))
    values = [*graph.input, *graph.output, *graph.value_info]
    if not values:
        return
    value = draw.choice(values)
    shape = value.type.tensor_type.shape
    match draw.randrange(5):
        case 0 if shape.dim:
            draw.choice(shape.dim).dim_value = draw.choice(_NUMBERS)
        case 1 if shape.dim:
            draw.choice(shape.dim).dim_param = draw.choice(_WORDS)
        case 2:
            value.type.tensor_type.elem_type = draw.randrange(-1, 30)
        case 3:
            value.ClearField("type")
        case _:
            value.name = draw.choice([*_WORDS, _any_tensor(model, draw)])


def _forge_location(model: onnx.ModelProto, draw: random.Random) -> None:
    tensor = _tensor(model, draw)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    places = [
        "../x",
        "/etc/passwd",
        "none.data",
        "",
        ".",
        "model.onnx",
        "*/_ORT_MEM_ADDR_/*",
        "/dev/zero",
        "a\0b",
        "c:\\x",
    ]
    for key, value in (
        ("location", draw.choice(places)),
        ("offset", str(draw.choice([*_NUMBERS, "x"]))),
        ("length", str(draw.choice([*_NUMBERS, "", 4096]))),
    ):
        if draw.random() < 0.8:
            tensor.external_data.add(key=key, value=value)


def _forge_order(model: onnx.ModelProto, draw: random.Random) -> None:
    nodes = draw.choice(_graphs(model)).node
    if not nodes:
        return
    index = draw.randrange(len(nodes))
    match draw.randrange(3):
        case 0:
            del nodes[index]
        case 1:
            nodes.add().CopyFrom(nodes[index])
        case _:
            kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
            draw.shuffle(kept)
            del nodes[:]
            nodes.extend(kept)


def _forge_function(model: onnx.ModelProto, draw: random.Random) -> None:
    if not model.functions:
        return
    function = draw.choice(model.functions)
    match draw.randrange(4):
        case 0:  # it calls itself
            function.node.add(op_type=function.name, domain=function.domain, input=function.input, output=["again"])
        case 1:
            function.name = draw.choice([*_WORDS, "Relu"])
        case 2:
            function.ClearField("opset_import")
        case _:
            del function.output[:]


def _forge_large(model: onnx.ModelProto, draw: random.Random) -> None:
    """A few bytes that ask for a large tensor while the model runs, or is folded."""
    size = draw.choice([2**20, 2**40, 2**62])  # between them is what a model may ask for
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.array([size], np.int64), "kbn_size"))
    node = helper.make_node("ConstantOfShape", ["kbn_size"], ["kbn_large"])
    graph.node.insert(0, node)
    if draw.random() < 0.5:
        graph.output.append(helper.make_tensor_value_info("kbn_large", TensorProto.FLOAT, None))


_ONNX_FORGERIES: list[Callable[[onnx.ModelProto, random.Random], None]] = [
    _forge_sizes,
    _forge_tensor_type,
    _forge_values,
    _forge_name_of_weight,
    _forge_wires,
    _forge_wires,
    _forge_operator,
    _forge_operator,
    _forge_attribute,
    _forge_attribute,
    _forge_versions,
    _forge_ports,
    _forge_location,
    _forge_order,
    _forge_function,
    _forge_large,
]

_FORGERIES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "keras": _forged_archive,
    "h5": _forged_hdf5,
    "onnx": _forged_onnx,
}
# A checksum finds nearly every damaged archive; HDF5 and protobuf have none.
_SHARE_OF_DAMAGE = {"keras": 0.2, "h5": 0.5, "onnx": 0.3}
