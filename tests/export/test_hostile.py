"""Files made to harm whoever opens them, through every command that opens such files: refused, nothing run, nothing written."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from command_line import run_here
from hostile_files import KERAS, ONNX, an_object, external, small_onnx
from kbn.export.errors import BrokenModelError
from kbn.export.onnx_opening import open_onnx
from model_files import saved, small_model


@pytest.fixture
def run(monkeypatch, capsys):
    return lambda *arguments: run_here(monkeypatch, capsys, *arguments)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """Sound files for the other side of a comparison."""
    folder = tmp_path_factory.mktemp("sound")
    onnx.save(small_onnx(), folder / "sound.onnx")
    saved(small_model(), folder / "sound.keras")
    return folder


@pytest.fixture
def own(tmp_path) -> Path:
    """The folder of a hostile file, with a secret beside it."""
    (tmp_path / "secret").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    (tmp_path / "own").mkdir()
    return tmp_path / "own"


def everything(folder: Path) -> dict[Path, bytes | None]:
    """Each name below the folder, with what is in it."""
    return {item: item.read_bytes() if item.is_file() else None for item in folder.rglob("*")}


def assert_refused(run, folder: Path, path: Path, line: list, code: int = 4) -> None:
    before = everything(folder)
    done = run(*line)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert "Traceback" not in done.stderr
    message = done.stderr[done.stderr.index("Error: ") :].strip()
    assert "\n" not in message
    assert str(path) in message
    assert everything(folder) == before  # the output and `ran` among them


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize("sample", KERAS)
def test_keras_files(sample, own, sound, run):
    path = KERAS[sample](own, own.parent / "secret")
    np.save(own.parent / "data.npy", np.zeros((1, 6, 6, 3), np.float32))
    out = own.parent / "out.onnx"
    options = ["--data", own.parent / "data.npy", "--int8", "--float16", "--keep-failed", own.parent / "failed.onnx"]
    lines = [["export", path, out, *options]]
    if sample in BY_EVERY_COMMAND:
        lines += [["inspect", path], ["fold", path, out.with_suffix(".keras")], ["check", path, sound / "sound.onnx"]]
    for line in lines:
        assert_refused(run, own.parent, path, line)


# All commands open a Keras file by the same function; opening HDF5 takes a process of its own.
BY_EVERY_COMMAND = ("Lambda", "os.system", "zip bomb", "external link in h5")


def commands(path: Path, sound: Path) -> dict[str, list]:
    return {
        "inspect": ["inspect", path],
        "fold": ["fold", path, path.parent.parent / "out.onnx"],
        "check as A": ["check", path, sound / "sound.onnx"],
        "check as B": ["check", sound / "sound.onnx", path, "--layers"],
        "bench": ["bench", sound / "sound.onnx", path, "--rounds", "1"],
    }


@pytest.mark.parametrize("sample", ONNX)
def test_onnx_files(sample, own, sound, run):
    path = ONNX[sample](own, own.parent / "secret")
    for line in commands(path, sound).values():
        assert_refused(run, own.parent, path, line)


@pytest.mark.parametrize("sample", ["link", "above", "in a branch"])
def test_onnx_files_against_a_keras_model(sample, own, sound, run):
    path = ONNX[sample](own, own.parent / "secret")
    assert_refused(run, own.parent, path, ["check", sound / "sound.keras", path])


def test_a_module_of_the_author_is_not_imported(own, run, monkeypatch):
    # It lies where Python would find it: with a model that is unpacked into the current folder, say.
    (own / "payload.py").write_text(f"open({str(own.parent / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(own)
    path = an_object("keras", module="payload", class_name="Layer", config={})(own, own.parent / "secret")
    assert_refused(run, own.parent, path, ["inspect", path], code=3)  # it may be a layer of the user's own


@pytest.mark.parametrize(
    "line",
    [
        ["fold", "sound.keras", "link.keras", "--force"],
        ["fold", "sound.onnx", "link.onnx", "--force"],
        ["export", "sound.keras", "link.onnx", "--force"],
        ["export", "sound.keras", "model.onnx", "--float16", "--force"],
        ["export", "sound.keras", "other.onnx", "--keep-failed", "link.onnx", "--force"],
        ["inspect", "sound.keras", "--report", "link.html"],
        ["bench", "sound.onnx", "--rounds", "1", "--report", "link.json"],
        ["bench", "sound.onnx", "--rounds", "1", "--plot", "link.svg"],
    ],
    ids=" ".join,
)
def test_an_output_that_is_a_link(line, tmp_path, sound, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "precious").write_bytes(b"as it was")
    for name in ("link.keras", "link.onnx", "model.float16.onnx", "link.html", "link.json", "link.svg"):
        (tmp_path / name).symlink_to("precious")
    before = sorted(tmp_path.iterdir())
    done = run(*(sound / each if each.startswith("sound.") else each for each in line))
    assert (done.returncode, done.stdout) == (4, "")
    assert "is a symbolic link, to precious" in done.stderr
    assert (tmp_path / "precious").read_bytes() == b"as it was"
    assert sorted(tmp_path.iterdir()) == before


# ------------------------------------------------------------------------------------------- broken rather than hostile


def _declares(dims: list[int], **values: object) -> onnx.ModelProto:
    return small_onnx(TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, **values))


def _sparse() -> onnx.ModelProto:
    model = small_onnx()
    model.graph.sparse_initializer.append(
        onnx.SparseTensorProto(
            values=helper.make_tensor("s", TensorProto.FLOAT, [1], [1.0]),
            indices=helper.make_tensor("at", TensorProto.INT64, [1], [0]),
            dims=[2**40],
        )
    )
    return model


def _calls_itself() -> onnx.ModelProto:
    model = small_onnx(None, helper.make_node("F", ["x"], ["got"], domain="own"))
    opsets = [helper.make_opsetid("own", 1)]
    nodes = [helper.make_node("F", ["v"], ["h"], domain="own")]
    model.functions.append(helper.make_function("own", "F", ["v"], ["h"], nodes, opsets))
    return model


def _nested(depth: int) -> bytes:
    """Branches inside branches, as protobuf's own writer would not: it, too, goes no deeper than a hundred messages."""

    def field(number: int, content: bytes) -> bytes:
        size, length = len(content), bytearray()
        while size > 127:
            length.append(size & 127 | 128)
            size >>= 7
        return bytes([number << 3 | 2, *length, size]) + content

    graph = b""
    for _ in range(depth):
        graph = field(1, field(5, field(6, graph)))  # of the graph: node; of the node: attribute; of the attribute: g
    return field(7, graph)


BROKEN = {
    "a gigantic tensor": _declares([2**40]).SerializeToString(),
    "sizes whose product overflows": _declares([2**33, 2**33]).SerializeToString(),
    "a negative size": _declares([-4]).SerializeToString(),
    "values left over": _declares([4], float_data=[1.0] * 5).SerializeToString(),
    "bytes missing": _declares([4], raw_data=bytes(15)).SerializeToString(),
    "a type that there is not": small_onnx(TensorProto(name="w", data_type=99)).SerializeToString(),
    "a gigantic sparse tensor": _sparse().SerializeToString(),
    "a function that calls itself": _calls_itself().SerializeToString(),
    "branches thousands deep": _nested(3000),
    "text elsewhere": small_onnx(
        TensorProto(name="w", data_type=TensorProto.STRING, dims=[4], data_location=TensorProto.EXTERNAL)
    ).SerializeToString(),
    "weights that are missing": small_onnx(external("w", location="w.data")).SerializeToString(),
    "an offset that is no number": small_onnx(external("w", location="m.onnx", offset="-4")).SerializeToString(),
    "no location": small_onnx(external("w", offset=0)).SerializeToString(),
    "no graph": b"\x08\x09",
    "nothing": b"",
}


@pytest.mark.parametrize("sample", BROKEN)
def test_broken_onnx_files(sample, own, sound, run):
    path = own / "m.onnx"
    path.write_bytes(BROKEN[sample])
    for line in commands(path, sound).values():
        assert_refused(run, own.parent, path, line)


def test_a_length_that_does_not_fit_the_shape(own):
    (own / "w.data").write_bytes(bytes(64))
    onnx.save(small_onnx(external("w", location="w.data", length=20)), own / "m.onnx")
    with pytest.raises(BrokenModelError, match="take 16 bytes by their shape and type, but 20"):
        open_onnx(own / "m.onnx")


# ------------------------------------------------------------------------------------------------------- sound files


@pytest.mark.parametrize("location", ["w.data", "./w.data", "weights/deep/w.data"])
def test_weights_beside_the_file_are_read(location, own, sound, run):
    (own / location).parent.mkdir(parents=True, exist_ok=True)
    (own / location).write_bytes(bytes(8) + np.arange(4, dtype=np.float32).tobytes())
    onnx.save(small_onnx(external("w", location=location, offset=8, length=16)), own / "m.onnx")
    (weight,) = open_onnx(own / "m.onnx").graph.initializer
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(weight), np.arange(4))
    for line in commands(own / "m.onnx", sound).values():
        assert run(*line).returncode == 0


def test_a_link_to_the_model_itself_is_the_users(own, sound):
    (own / "m.onnx").symlink_to(sound / "sound.onnx")
    assert open_onnx(own / "m.onnx") == onnx.load(sound / "sound.onnx")


@pytest.mark.parametrize(
    ("data_type", "values"),
    [
        (TensorProto.INT4, [1, -2, 3]),
        (TensorProto.UINT4, [1, 2, 3, 4]),
        (TensorProto.FLOAT16, [1.0, 2.0]),
        (TensorProto.BFLOAT16, [1.0, 2.0]),
        (TensorProto.FLOAT8E4M3FN, [1.0, 2.0]),
        (TensorProto.BOOL, [True, False]),
        (TensorProto.UINT64, [1, 2**63]),
        (TensorProto.DOUBLE, [1.0]),
        (TensorProto.COMPLEX64, [1 + 2j, 3j]),
        (TensorProto.COMPLEX128, [1 + 2j]),
        (TensorProto.STRING, [b"a", b""]),
        (TensorProto.FLOAT, []),
    ],
)
@pytest.mark.parametrize("raw", [False, True])
def test_every_type_is_measured_as_onnx_writes_it(data_type, values, raw, own):
    tensor = helper.make_tensor("t", data_type, [len(values)], values)
    if raw and data_type != TensorProto.STRING:
        tensor = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), "t")
    model = small_onnx()
    model.graph.initializer.append(tensor)
    (own / "m.onnx").write_bytes(model.SerializeToString())
    assert open_onnx(own / "m.onnx") == model
