"""Model files that would do harm to whoever opens them, one function each; what they would do, they say by name.

Each takes an empty folder `own`, which is as if it had been downloaded, and a file `secret` outside it, and gives the path of
the model. What runs leaves a file called `ran` beside the secret.
"""

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from model_files import WEIGHTS, archive_of, edited, layer_of, members, model_with_lambda, saved, small_model

Hostile = Callable[[Path, Path], Path]

# ------------------------------------------------------------------------------------------------------------- Keras


def a_lambda(suffix: str) -> Hostile:
    return lambda own, secret: saved(model_with_lambda(secret.with_name("ran")), own / f"m.{suffix}")


def an_object(suffix: str, **described: Any) -> Hostile:
    """An object as the activation of a layer, where Keras would look it up and build it."""

    def make(own: Path, secret: Path) -> Path:
        def inject(config: dict[str, Any]) -> None:
            layer_of(config, "dense")["config"]["activation"] = described

        return edited(saved(small_model(), own / f"sound.{suffix}"), own / f"m.{suffix}", inject)

    return make


def a_member(name: str, content: bytes = b"x", mode: int = 0) -> Hostile:
    """One more member of the archive."""

    def make(own: Path, secret: Path) -> Path:
        path = saved(small_model(), own / "m.keras")
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
            member = zipfile.ZipInfo(name.format(secret=secret))
            member.external_attr, member.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            archive.writestr(member, content)
        return path

    return make


def hdf5(suffix: str, change: Callable[[h5py.File, str, Path], None]) -> Hostile:
    """An HDF5 file, or the one in an archive, with the bias of a layer taken out and something else in its place."""

    def make(own: Path, secret: Path) -> Path:
        with h5py.File(secret.with_suffix(".h5"), "w") as file:
            file["0"] = np.ones(2, "float32")
        sound = saved(small_model(), own / f"sound.{suffix}")
        content = io.BytesIO(members(sound)[WEIGHTS] if suffix == "keras" else sound.read_bytes())
        with h5py.File(content, "r+") as file:
            name = "layers/dense/vars/1" if suffix == "keras" else "model_weights/dense/small/dense/bias"
            name = name if name in file else next(each for each in _arrays(file) if each.endswith("bias"))
            del file[name]
            change(file, name, secret)
        path = own / f"m.{suffix}"
        if suffix == "keras":
            return archive_of(path, members(sound) | {WEIGHTS: content.getvalue()})
        path.write_bytes(content.getvalue())
        return path

    return make


def _arrays(file: h5py.File) -> list[str]:
    names: list[str] = []
    file.visit(names.append)
    return [name for name in names if isinstance(file[name], h5py.Dataset)]


def _external_link(file: h5py.File, name: str, secret: Path) -> None:
    file[name] = h5py.ExternalLink(str(secret.with_suffix(".h5")), "0")


def _soft_link(file: h5py.File, name: str, secret: Path) -> None:
    file[name] = h5py.SoftLink("/" + _arrays(file)[0])


def _external_storage(file: h5py.File, name: str, secret: Path) -> None:
    file.create_dataset(name, (2,), "float32", external=[(str(secret), 0, 8)])


def _virtual(file: h5py.File, name: str, secret: Path) -> None:
    layout = h5py.VirtualLayout((2,), "float32")
    layout[:] = h5py.VirtualSource(str(secret.with_suffix(".h5")), "0", (2,))
    file.create_virtual_dataset(name, layout)


def _declared(file: h5py.File, name: str, secret: Path) -> None:
    file.create_dataset(name, (2**40,), "float32", chunks=(1024,), fillvalue=1.0)


KERAS: dict[str, Hostile] = {
    "Lambda": a_lambda("keras"),
    "Lambda in h5": a_lambda("h5"),
    "TFSMLayer": an_object("keras", module="keras.layers", class_name="TFSMLayer", config={"filepath": "/tmp/program"}),
    "TorchModuleWrapper": an_object(
        "keras", module="keras.layers", class_name="TorchModuleWrapper", config={"module": ""}
    ),
    "os.system": an_object("keras", module="os", class_name="function", config="system", registered_name="system"),
    "eval in h5": an_object("h5", module="builtins", class_name="function", config="eval", registered_name="eval"),
    "get_file": an_object("keras", module="keras.utils", class_name="function", config="get_file"),
    "zip bomb": a_member("assets/zeros", bytes(80 * 2**20)),
    "member above": a_member("assets/../../../ran"),
    "member at an absolute path": a_member("{secret}"),
    "member that is a link": a_member("assets/link", b"/etc/passwd", 0o120777),
    "external link": hdf5("keras", _external_link),
    "external link in h5": hdf5("h5", _external_link),
    "soft link in h5": hdf5("h5", _soft_link),
    "external storage in h5": hdf5("h5", _external_storage),
    "virtual dataset in h5": hdf5("h5", _virtual),
    "array that is not there in h5": hdf5("h5", _declared),
}

# -------------------------------------------------------------------------------------------------------------- ONNX


def external(name: str, **entries: object) -> TensorProto:
    """Four numbers that lie elsewhere."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def small_onnx(weight: TensorProto | None = None, *nodes: onnx.NodeProto) -> onnx.ModelProto:
    """y = x + w, for x of shape (batch, 4), and further nodes before it."""
    weight = weight or numpy_helper.from_array(np.arange(4, dtype=np.float32), "w")
    graph = helper.make_graph(
        [*nodes, helper.make_node("Add", ["x", weight.name], ["y"], name="add")],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [weight],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("own", 1)], ir_version=9
    )


def at(location: str, **entries: object) -> Hostile:
    """A weight that lies at a place, of which {secret} and {name} stand for the secret's path and name."""

    def make(own: Path, secret: Path) -> Path:
        place = location.format(secret=secret, name=secret.name)
        onnx.save(small_onnx(external("w", location=place, **entries)), own / "m.onnx")
        return own / "m.onnx"

    return make


def with_file(place: Callable[[Path, Path], None], location: str = "w.data", **entries: object) -> Hostile:
    """A weight beside the model, which something was put in the place of."""

    def make(own: Path, secret: Path) -> Path:
        place(own, secret)
        return at(location, **entries)(own, secret)

    return make


def inside(add: Callable[[onnx.ModelProto, TensorProto], None]) -> Hostile:
    """The secret as a tensor somewhere inside the model."""

    def make(own: Path, secret: Path) -> Path:
        model = small_onnx()
        add(model, external("stolen", location=f"../{secret.name}"))
        (own / "m.onnx").write_bytes(model.SerializeToString())
        return own / "m.onnx"

    return make


def _in_constant(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.graph.node.insert(0, helper.make_node("Constant", [], ["stolen"], value=tensor))


def _branch(tensor: TensorProto) -> onnx.GraphProto:
    output = helper.make_tensor_value_info("stolen", TensorProto.FLOAT, [4])
    return helper.make_graph([], "branch", [], [output], [tensor])


def _in_branch(model: onnx.ModelProto, tensor: TensorProto) -> None:
    yes = helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True)))
    node = helper.make_node("If", ["yes"], ["got"], then_branch=_branch(tensor), else_branch=_branch(tensor))
    model.graph.node.insert(0, node)
    model.graph.node.insert(0, yes)


def _in_function(model: onnx.ModelProto, tensor: TensorProto) -> None:
    constant = helper.make_node("Constant", [], ["h"], value=tensor)
    model.functions.append(helper.make_function("own", "F", [], ["h"], [constant], [helper.make_opsetid("", 18)]))
    model.graph.node.insert(0, helper.make_node("F", [], ["got"], domain="own"))


def _in_sparse(model: onnx.ModelProto, tensor: TensorProto) -> None:
    indices = numpy_helper.from_array(np.arange(4), "at")
    model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=tensor, indices=indices, dims=[4]))


def _in_list_of_tensors(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.graph.node[0].attribute.append(helper.make_attribute("extra", [tensor]))


def _in_training(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.training_info.add().initialization.initializer.append(tensor)


def _linked_folder(own: Path, secret: Path) -> None:
    (own / "weights").symlink_to(secret.parent)


def _address(own: Path, secret: Path) -> None:
    """The folders that make onnxruntime's word for an address a file that is there."""
    (own / "*" / "_ORT_MEM_ADDR_").mkdir(parents=True)
    (own / "*" / "_ORT_MEM_ADDR_" / "*").write_bytes(bytes(64))


def functions_that_unfold(own: Path, secret: Path) -> Path:
    """Forty functions, each of which calls the one before twice: 2^40 nodes."""
    model = small_onnx(None, helper.make_node("F39", ["x"], ["got"], domain="own"))
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    model.functions.append(
        helper.make_function("own", "F0", ["v"], ["h"], [helper.make_node("Neg", ["v"], ["h"])], opsets)
    )
    for index in range(1, 40):
        pair = [helper.make_node(f"F{index - 1}", [a], [b], domain="own") for a, b in (("v", "t"), ("t", "h"))]
        model.functions.append(helper.make_function("own", f"F{index}", ["v"], ["h"], pair, opsets))
    onnx.save(model, own / "m.onnx")
    return own / "m.onnx"


def _short(own: Path, secret: Path) -> None:
    (own / "w.data").write_bytes(bytes(16))


def two_locations(own: Path, secret: Path) -> Path:
    """A sound one, and another."""
    _short(own, secret)
    tensor = external("w", location="w.data")
    tensor.external_data.add(key="location", value=f"../{secret.name}")
    onnx.save(small_onnx(tensor), own / "m.onnx")
    return own / "m.onnx"


ONNX: dict[str, Hostile] = {
    "absolute": at("{secret}"),
    "above": at("../{name}"),
    "above by way of a folder": with_file(lambda own, secret: (own / "in").mkdir(), "in/../../{name}"),
    "Windows path": at("..\\{name}"),
    "Windows drive": at("c:{name}"),
    "NUL": at("w.data\0{name}"),
    "device": at("/dev/zero"),
    "link": with_file(lambda own, secret: (own / "w.data").symlink_to(secret)),
    "link in between": with_file(_linked_folder, "weights/{name}"),
    "pipe": with_file(lambda own, secret: os.mkfifo(own / "w.data")),
    "folder": with_file(lambda own, secret: (own / "w.data").mkdir()),
    "the folder itself": at("."),
    "address in memory": with_file(_address, "*/_ORT_MEM_ADDR_/*", offset=0, length=16),
    "length beyond the end": with_file(_short, length=2**40),
    "offset beyond the end": with_file(_short, offset=8, length=16),
    "two locations": two_locations,
    "in a Constant": inside(_in_constant),
    "in a branch": inside(_in_branch),
    "in a function": inside(_in_function),
    "in a sparse weight": inside(_in_sparse),
    "in a list of tensors": inside(_in_list_of_tensors),
    "in what it was trained by": inside(_in_training),
    "functions that unfold": functions_that_unfold,
}
