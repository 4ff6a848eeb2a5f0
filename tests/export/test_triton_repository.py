"""A Triton model repository: its configuration by Triton's own schema, its files, and what was there before."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from kbn.export import triton_repository, write_triton, writing
from kbn.export.cli import main
from kbn.export.errors import BrokenModelError, UnsafeModelError, UnsupportedError, UsageError
from kbn.export.serve.datatypes import NUMPY
from kbn.export.serve.repository import find
from kbn.export.triton_config import MAX_BATCH, _string
from serving import serving, weights, write, write_rows
from trained_models import randomized
from triton_schema import parsed

ONNX = {"FP16": "float16", "FP32": "float", "FP64": "double", "BYTES": "string"}
TYPES = {name: ONNX.get(name, name.lower()) for name in NUMPY}


def config(folder, name):
    return parsed((folder / name / "config.pbtxt").read_text())


def model(tmp_path, body, name="model", **more):
    return write(tmp_path / f"{name}.onnx", body, **more)


def test_what_can_be_batched_is(tmp_path):
    path = write_rows(tmp_path / "rows.onnx")
    written = write_triton(path, tmp_path / "repository")
    assert (written.path, written.reason) == (tmp_path / "repository/rows/1", "")
    found = config(tmp_path / "repository", "rows")
    assert (found.name, found.backend, found.platform) == ("rows", "onnxruntime", "onnxruntime_onnx")
    assert found.max_batch_size == written.max_batch_size == MAX_BATCH
    assert found.HasField("dynamic_batching")
    assert [(port.name, list(port.dims)) for port in found.input] == [("x", [4])]
    assert [(port.name, list(port.dims)) for port in found.output] == [("y", [3]), ("total", [1])]
    assert [port.HasField("reshape") for port in found.output] == [False, True]
    assert list(found.output[1].reshape.shape) == []
    assert (written.path / "model.onnx").read_bytes() == path.read_bytes()
    with serving(tmp_path / "repository") as address:  # which has the same layout
        assert address.get("/v2/models/rows/versions/1/ready")[0] == 200


@pytest.mark.parametrize(
    ("body", "inputs", "outputs", "why"),
    [
        ("(float[2, 4] x) => (float[2, 4] y) { y = Relu(x) }", [[2, 4]], [[2, 4]], "first axis of 'x' is fixed"),
        ("(float[N, M] x) => (float y) { y = ReduceSum<keepdims=0>(x) }", [[-1, -1]], [[1]], "'y' has no axis"),
        (
            "(float[N, 4] x) => (float[1, 4] y) { y = ReduceSum(x, z) }",
            [[-1, 4]],
            [[1, 4]],
            "first axis of 'y' is fixed",
        ),
        (
            "(float[N] a, float[M] b) => (float[N] c) { c = Identity(a)  d = Relu(b) }",
            [[-1], [-1]],
            [[-1]],
            "axes differ",
        ),
        (
            "(float[N, 3] x) => (float[N, 3] y) { m = ReduceSum(x, z)  y = Sub(x, m) }",
            [[-1, 3]],
            [[-1, 3]],
            "depends on",
        ),
    ],
)
def test_what_cannot_be_batched_keeps_its_shapes(tmp_path, body, inputs, outputs, why):
    written = write_triton(model(tmp_path, body, z=np.array([0])), tmp_path)
    assert why in written.reason
    found = config(tmp_path, "model")
    assert found.max_batch_size == written.max_batch_size == 0
    assert not found.HasField("dynamic_batching")
    assert [list(port.dims) for port in found.input] == inputs
    assert [list(port.dims) for port in found.output] == outputs
    assert not any(port.HasField("reshape") for port in found.output)  # which Triton refuses where nothing is batched


@pytest.mark.parametrize("name", TYPES)
def test_every_datatype(tmp_path, name):
    write_triton(model(tmp_path, f"({TYPES[name]}[N, K] x) => ({TYPES[name]}[N, K] y) {{ y = Identity(x) }}"), tmp_path)
    found = config(tmp_path, "model")
    expected = f"TYPE_{'STRING' if name == 'BYTES' else name}"
    for port in (*found.input, *found.output):
        field = type(port).DESCRIPTOR.fields_by_name["data_type"]
        assert field.enum_type.values_by_number[port.data_type].name == expected
        assert list(port.dims) == [-1]


def test_labels_go_to_the_output_that_they_name(tmp_path):
    metadata = {"kbn.labels": json.dumps(["cat", "two\nlines", "ñandú"])}
    write_triton(write_rows(tmp_path / "rows.onnx", metadata=metadata), tmp_path)
    assert [port.label_filename for port in config(tmp_path, "rows").output] == ["labels.txt", ""]
    assert (tmp_path / "rows/labels.txt").read_text(encoding="utf-8") == "cat\ntwo lines\nñandú\n"
    write_triton(write_rows(tmp_path / "few.onnx", metadata={"kbn.labels": '["cat"]'}), tmp_path)
    assert not (tmp_path / "few/labels.txt").exists()


@given(st.text())
def test_any_name_is_a_literal_that_triton_reads(name):
    try:
        expected = name.encode()
    except UnicodeEncodeError:
        return
    assert parsed(f"name: {_string(name)}").name.encode() == expected


def test_the_schema_refuses_what_is_no_configuration():
    for text in ("input { nme: 'x' }", "max_batch_size: x", "input [ { data_type: TYPE_FP31 } ]"):
        with pytest.raises(text_format.ParseError):
            parsed(text)


def test_weights_beside_the_file_come_along(tmp_path):
    proto = onnx.load(write_rows(tmp_path / "rows.onnx", seed=3))
    onnx.save(proto, tmp_path / "rows.onnx", save_as_external_data=True, location="rows.onnx.data", size_threshold=60)
    write_triton(tmp_path / "rows.onnx", tmp_path / "repository")
    there = tmp_path / "repository/rows/1"
    assert {path.name for path in there.iterdir()} == {"model.onnx", "rows.onnx.data"}
    assert onnx.load(there / "model.onnx").graph.initializer[0].raw_data == weights(3).tobytes()


def test_what_is_there_gets_a_next_version(tmp_path):
    path = write_rows(tmp_path / "rows.onnx", seed=0)
    write_triton(path, tmp_path)
    (tmp_path / "rows/9").mkdir()
    (tmp_path / "rows/draft").mkdir()
    write_rows(path, seed=1)
    assert write_triton(path, tmp_path).path == tmp_path / "rows/10"
    assert (tmp_path / "rows/1/model.onnx").read_bytes() != (tmp_path / "rows/10/model.onnx").read_bytes()
    assert [version for _, version in find([tmp_path / "rows/10/model.onnx"])] == ["1"]


def test_a_configuration_that_differs_is_replaced_by_force_alone(tmp_path):
    path = write_rows(tmp_path / "rows.onnx")
    write_triton(path, tmp_path)
    edited = (tmp_path / "rows/config.pbtxt").read_text() + "version_policy { all { } }\n"
    (tmp_path / "rows/config.pbtxt").write_text(edited)
    with pytest.raises(UsageError, match=r"was edited; it is left as it is. Move it away"):
        write_triton(path, tmp_path)
    assert (tmp_path / "rows/config.pbtxt").read_text() == edited
    assert not (tmp_path / "rows/2").exists()
    assert write_triton(path, tmp_path, force=True).path == tmp_path / "rows/2"
    assert not config(tmp_path, "rows").HasField("version_policy")
    assert (tmp_path / "rows/1/model.onnx").exists()


LABELS = {"kbn.labels": '["a", "b", "c"]'}


@pytest.mark.parametrize("missing", ["config.pbtxt", "labels.txt"])
def test_what_is_missing_is_written_without_force(tmp_path, missing):
    # It was said to be there and to have been edited.
    path = write_rows(tmp_path / "rows.onnx", metadata=LABELS)
    write_triton(path, tmp_path)
    text = (tmp_path / "rows" / missing).read_text()
    (tmp_path / "rows" / missing).unlink()
    assert write_triton(path, tmp_path).path == tmp_path / "rows/2"
    assert (tmp_path / "rows" / missing).read_text() == text


def contents(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("file", ["config.pbtxt", "labels.txt"])
def test_a_link_is_refused_before_a_version_appears(tmp_path, monkeypatch, file):
    # The next version lay there, beside the old configuration.
    path = write_rows(tmp_path / "rows.onnx", metadata=LABELS)
    write_triton(path, tmp_path)
    (tmp_path / "elsewhere").write_text("edited")
    (tmp_path / "rows" / file).unlink()
    (tmp_path / "rows" / file).symlink_to("../elsewhere")
    before = contents(tmp_path)
    copied = []
    monkeypatch.setattr(triton_repository, "_copy", lambda *_: copied.append(1))
    with pytest.raises(UnsafeModelError, match="symbolic link"):
        write_triton(path, tmp_path, force=True)
    assert contents(tmp_path) == before
    assert not copied


@pytest.mark.parametrize(
    "failure", [OSError(28, "No space left on device"), OSError(5, "Input/output error"), KeyboardInterrupt()]
)
@pytest.mark.parametrize("step", ["write_text", "name"])
def test_a_version_whose_configuration_cannot_be_written_is_taken_back(tmp_path, monkeypatch, step, failure):
    path = write_rows(tmp_path / "rows.onnx")
    write_triton(path, tmp_path)
    (tmp_path / "rows/config.pbtxt").write_text("max_batch_size: 1\n")
    before = contents(tmp_path)
    seen = []

    def fail(*_arguments, **_named):
        seen.append((tmp_path / "rows/2").exists())
        raise failure

    if step == "write_text":
        monkeypatch.setattr(Path, "write_text", fail)
    else:
        monkeypatch.setattr(writing, "_name", fail)
    with pytest.raises(UsageError if isinstance(failure, OSError) else KeyboardInterrupt):
        write_triton(path, tmp_path, force=True)
    assert contents(tmp_path) == before
    assert seen == [step == "name"]


def test_what_changes_while_it_is_copied_is_refused(tmp_path, monkeypatch):
    # What Triton got was copied by its path after the check.
    proto = onnx.load(write_rows(tmp_path / "rows.onnx", seed=3))
    onnx.save(proto, tmp_path / "rows.onnx", save_as_external_data=True, location="rows.onnx.data", size_threshold=60)
    copy = triton_repository.shutil.copyfile
    for name in ("rows.onnx", "rows.onnx.data"):
        before = contents(tmp_path)

        def changed(source, target, name=name):
            copy(source, target)
            if source.name == name:
                with open(target, "ab") as file:
                    file.write(b"\0")

        monkeypatch.setattr(triton_repository.shutil, "copyfile", changed)
        with pytest.raises(BrokenModelError, match=r"rows.onnx was changed while"):
            write_triton(tmp_path / "rows.onnx", tmp_path)
        assert contents(tmp_path) == before


def test_a_file_that_is_gone_when_it_is_copied_is_an_error_of_use(tmp_path, monkeypatch):
    path = write_rows(tmp_path / "rows.onnx")
    copy = triton_repository._copy

    def late(model, folder):
        path.unlink()
        copy(model, folder)

    monkeypatch.setattr(triton_repository, "_copy", late)
    with pytest.raises(UsageError, match=r"could not be written: No such file or directory of .*rows.onnx"):
        write_triton(path, tmp_path)
    assert contents(tmp_path) == {}


def test_versions_are_those_that_the_server_finds(tmp_path):
    # The next of a version that kbn serve did not read was one that Triton took for the older.
    path = write_rows(tmp_path / "rows.onnx")
    write_triton(path, tmp_path)
    (tmp_path / "rows/1").rename(tmp_path / "rows/20240131120000")
    assert write_triton(path, tmp_path).path == tmp_path / "rows/20240131120001"
    path.unlink()
    assert {version for _, version in find([tmp_path])} == {"20240131120000", "20240131120001"}


def test_weights_in_a_file_of_the_models_own_name_are_refused(tmp_path):
    proto = onnx.load(write_rows(tmp_path / "rows.onnx"))
    onnx.save(proto, tmp_path / "rows.onnx", save_as_external_data=True, location="model.onnx", size_threshold=60)
    with pytest.raises(UsageError, match=r"lie in model.onnx"):
        write_triton(tmp_path / "rows.onnx", tmp_path)
    assert not (tmp_path / "rows").exists()


@pytest.mark.parametrize("there", [False, True])
def test_nothing_half_written_is_left(tmp_path, monkeypatch, there):
    path = write_rows(tmp_path / "rows.onnx")
    repository = tmp_path / "repository"
    if there:
        write_triton(path, repository)
    before = sorted(tmp_path.rglob("*"))

    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(triton_repository.shutil, "copyfile", full)
    with pytest.raises(UsageError, match="The disk is full"):
        write_triton(path, repository)
    assert sorted({*tmp_path.rglob("*")} - {repository}) == sorted({*before} - {repository})


def test_a_folder_that_appears_meanwhile_is_kept(tmp_path, monkeypatch):
    copy = triton_repository._copy

    def slow(model, folder):
        copy(model, folder)
        (tmp_path / "rows").mkdir()
        (tmp_path / "rows/mine").touch()

    monkeypatch.setattr(triton_repository, "_copy", slow)
    with pytest.raises(UsageError, match="cannot be made"):
        write_triton(write_rows(tmp_path / "rows.onnx"), tmp_path)
    assert [path.name for path in (tmp_path / "rows").iterdir()] == ["mine"]
    assert not list(tmp_path.glob(".kbn-*"))


def test_what_triton_cannot_have_is_refused(tmp_path):
    good = write_rows(tmp_path / "rows.onnx")
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    empty = model(tmp_path, "(float[N, 0] x) => (float[N, 0] y) { y = Relu(x) }", "empty")
    sequence = model(tmp_path, "(seq(float[N]) x) => (int64 y) { y = SequenceLength(x) }", "sequence")
    bfloat = model(tmp_path, "(bfloat16[N] x) => (bfloat16[N] y) { y = Identity(x) }", "bfloat")
    for path, folder, name, error, why in [
        (good, tmp_path / "none/there", None, UsageError, "does not exist"),
        (good, tmp_path / "file", None, UsageError, "is a file"),
        (good, tmp_path / "link", None, UnsafeModelError, "symbolic link"),
        (good, tmp_path, "file", UsageError, "is a file"),
        (good, tmp_path, "link", UnsafeModelError, "symbolic link"),
        (good, tmp_path, ".hidden", UsageError, "cannot be the name"),
        (good, tmp_path, "a/b", UsageError, "cannot be the name"),
        (empty, tmp_path, None, UnsupportedError, "no size of 0"),
        (sequence, tmp_path, None, UnsupportedError, "no datatype"),
        (bfloat, tmp_path, None, UnsupportedError, "no datatype"),
        (tmp_path / "broken.onnx", tmp_path, None, BrokenModelError, "no ONNX model"),
    ]:
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(error, match=why):
            write_triton(path, folder, name=name)
        assert sorted(tmp_path.rglob("*")) == before


def test_the_command_writes_it_once_the_file_is_proved(tmp_path, monkeypatch, capsys):
    keras = pytest.importorskip("keras")
    inputs = keras.Input((6, 6, 3), name="image")
    tensor = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(inputs))
    outputs = keras.layers.Dense(5, name="classes")(keras.layers.GlobalAveragePooling2D()(tensor))
    randomized(keras.Model(inputs, outputs)).save(tmp_path / "m.keras")

    def run(*more):
        line = [
            "kbn",
            "export",
            tmp_path / "m.keras",
            tmp_path / "digits.onnx",
            "--triton",
            tmp_path / "repository",
            "-q",
        ]
        monkeypatch.setattr(sys, "argv", list(map(str, [*line, *more])))
        try:
            main()
        except SystemExit as stopped:
            if stopped.code:
                return stopped.code, capsys.readouterr().err
        return 0, capsys.readouterr().out

    code, shown = run("--json")
    assert code == 0, shown
    assert json.loads(shown)["triton"] == {
        "path": str(tmp_path / "repository/digits/1"),
        "max_batch_size": MAX_BATCH,
        "reason": "",
    }
    found = config(tmp_path / "repository", "digits")
    assert [(port.name, list(port.dims)) for port in found.input] == [("image", [6, 6, 3])]
    assert [(port.name, list(port.dims)) for port in found.output] == [("classes", [5])]
    there = tmp_path / "repository/digits/1/model.onnx"
    assert there.read_bytes() == (tmp_path / "digits.onnx").read_bytes()
    before = contents(tmp_path / "repository")
    code, shown = run("--force", "--batch", 2)  # --force is for digits.onnx
    assert (code, "Written:" in shown) == (2, True)
    assert contents(tmp_path / "repository") == before
    (tmp_path / "repository/digits/config.pbtxt").unlink()
    code, shown = run("--force", "--batch", 2)
    assert code == 0
    assert "repository/digits/2" in shown.replace("\n", "")
    assert "'image' is fixed" in shown
    assert config(tmp_path / "repository", "digits").max_batch_size == 0
    (tmp_path / "digits.onnx").unlink()
    code, shown = run()
    assert code == 2
    assert "Written:" in shown
    assert (tmp_path / "digits.onnx").exists()
    (tmp_path / "other").touch()
    code, shown = run("--force", "--triton", tmp_path / "other")
    assert (code, "is a file" in shown) == (2, True)
