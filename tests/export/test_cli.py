"""The command as a user types it: what it prints where, its exit codes, and one paragraph for each bad input."""

import json
import os
import signal
import subprocess
import sys
import warnings
import zipfile

import keras
import numpy as np
import onnx
import pytest
from keras import layers

import kbn
from kbn._version import __version__
from kbn.export import export
from kbn.export.__main__ import main as entry
from kbn.export.cli import main
from kbn.export.serve.verifying import verify
from trained_models import randomized


def run_process(*arguments):
    """The command in a process of its own, with nothing set that would silence TensorFlow."""
    environment = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    line = [sys.executable, "-m", "kbn.export", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=300, check=False, env=environment)


@pytest.fixture
def run(monkeypatch, capsys):
    """The command inside this process, where TensorFlow has been started."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["kbn", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped, warnings.catch_warnings():
            main()
        shown = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, stopped.value.code or 0, shown.out, shown.err)

    return run


def build(name="m"):
    inputs = keras.Input((8, 8, 3), name="image")
    tensor = kbn.BatchNormalization(name="bn")(layers.Conv2D(4, 3, name="conv")(inputs))
    tensor = layers.GlobalAveragePooling2D()(layers.ReLU()(tensor))
    return randomized(keras.Model(inputs, layers.Dense(5, activation="softmax", name="classes")(tensor), name=name))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a sound model, its data, and its ONNX file."""
    path = tmp_path_factory.mktemp("cli")
    build().save(path / "model.keras")
    np.save(path / "images.npy", np.random.default_rng(0).normal(size=(5, 8, 8, 3)))
    export(path / "model.keras", path / "model.onnx")
    return path


def test_export_prints_tables_on_stdout_and_progress_on_stderr(folder):
    done = run_process("export", folder / "model.keras", folder / "again.onnx", "--data", folder / "images.npy")
    assert done.returncode == 0
    for word in ("Fold", "bn", "folded", "conv", "Before and after", "Parity", "classes", "passed", "5 data", "PASSED"):
        assert word in done.stdout
    assert done.stderr.split() == [
        "start",
        "TensorFlow",
        "...",
        "load",
        "...",
        "fold",
        "...",
        "convert",
        "...",
        "check",
        "...",
    ]
    assert (folder / "again.onnx").stat().st_size > 0


def test_quiet_and_json_leave_one_document(folder, run):
    done = run("export", folder / "model.keras", folder / "quiet.onnx", "--json", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    value = json.loads(done.stdout)
    assert value["schema"] == "kbn.export/1"
    assert value["fold"]["rows"][0]["into"] == ["conv"]


def test_inspect_changes_nothing(folder, run):
    before = sorted(folder.iterdir())
    done = run("inspect", folder / "model.keras", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["counts"] == {"folded": 1, "merged": 0, "kept": 0}
    assert sorted(folder.iterdir()) == before


def test_fold_writes_a_model_that_keras_alone_loads(folder, run):
    done = run("fold", folder / "model.keras", folder / "folded.keras")
    assert done.returncode == 0, done.stderr
    script = (
        "import keras, sys; model = keras.models.load_model(sys.argv[1])\n"
        "assert 'kbn' not in sys.modules; print(len(model.layers))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script, folder / "folded.keras"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert loaded.stdout.strip() == "5", loaded.stderr


def test_check_passes_the_right_file_and_fails_another(folder, tmp_path, run):
    done = run("check", folder / "model.keras", folder / "model.onnx")
    assert done.returncode == 0
    assert done.stdout.rstrip().endswith("PASSED")
    randomized(build(), seed=5).save(tmp_path / "other.keras")
    done = run("check", tmp_path / "other.keras", folder / "model.onnx")
    assert done.returncode == 1
    assert done.stdout.rstrip().endswith("FAILED")
    assert "lowered" not in done.stdout
    failed = run("check", tmp_path / "other.keras", folder / "model.onnx", "--json")
    assert failed.returncode == 1
    assert json.loads(failed.stdout)["passed"] is False
    proto = onnx.load(folder / "model.onnx")
    onnx.helper.set_model_props(proto, {"kbn.precision": "int8"})
    onnx.save(proto, tmp_path / "int8.onnx")
    done = run("check", tmp_path / "other.keras", tmp_path / "int8.onnx")
    assert "The file was lowered to int8" in " ".join(done.stdout.split())


@pytest.mark.parametrize("suffix", ["html", "json"])
def test_the_report_is_saved(folder, tmp_path, suffix, run):
    done = run("inspect", folder / "model.keras", "--report", tmp_path / f"report.{suffix}")
    assert done.returncode == 0, done.stderr
    assert "bn" in (tmp_path / f"report.{suffix}").read_text()


def test_version(run):
    assert run("--version").stdout.strip() == __version__


def _truncated(path):
    build().save(path / "x.keras")
    content = (path / "x.keras").read_bytes()
    (path / "x.keras").write_bytes(content[: len(content) // 2])


def _lambda(path):
    inputs = keras.Input((3,))
    keras.Model(inputs, layers.Lambda(lambda x: x * 2)(inputs)).save(path / "x.keras")


def _unknown_layer(path):
    class Strange(layers.Layer):
        def call(self, inputs):
            return inputs

    inputs = keras.Input((3,))
    keras.Model(inputs, Strange()(inputs)).save(path / "x.keras")


def _nan(path):
    model = build()
    kernel = model.get_layer("conv").kernel.numpy()
    kernel[0, 0, 0, 0] = np.nan
    model.get_layer("conv").kernel.assign(kernel)
    model.save(path / "x.keras")


def _negative_variance(path):
    model = build()
    model.get_layer("bn").moving_variance.assign([0.5, -0.1, 0.5, 0.5])
    model.save(path / "x.keras")


def _not_a_model(path):
    with zipfile.ZipFile(path / "x.keras", "w") as archive:
        archive.writestr("letter.txt", "dear user")


BAD_MODELS = {
    "missing file": (lambda path: None, 2, ["x.keras"]),
    "directory": (lambda path: (path / "x.keras").mkdir(), 2, ["x.keras", "directory"]),
    "empty file": (lambda path: (path / "x.keras").touch(), 4, ["x.keras", "empty"]),
    "truncated": (_truncated, 4, ["x.keras"]),
    "zip that is no model": (_not_a_model, 4, ["x.keras", "config.json"]),
    "JSON renamed": (
        lambda path: (path / "x.keras").write_text('{"class_name": "Functional"}'),
        4,
        ["x.keras", "JSON"],
    ),
    "unknown layer": (_unknown_layer, 3, ["Strange"]),
    "Lambda": (_lambda, 4, ["lambda"]),
    "NaN weights": (_nan, 4, ["conv", "NaN"]),
    "negative variance": (_negative_variance, 4, ["bn", "variance"]),
}


def assert_one_paragraph(done, code, words):
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    message = done.stderr[done.stderr.index("Error: ") :]
    assert message.strip().count("\n") == 0
    for word in words:
        assert word in message
    assert done.stdout == ""


@pytest.mark.parametrize("kind", BAD_MODELS)
def test_bad_models_get_one_paragraph_and_the_documented_code(tmp_path, kind, run):
    make, code, words = BAD_MODELS[kind]
    make(tmp_path)
    present = sorted(tmp_path.iterdir())
    done = run("export", tmp_path / "x.keras", tmp_path / "x.onnx")
    assert_one_paragraph(done, code, words)
    assert sorted(tmp_path.iterdir()) == present


BAD_OUTPUTS = {
    "missing folder": (["none/model.onnx"], 2, ["none"]),
    "read-only folder": (["/proc/model.onnx"], 2, ["/proc"]),
    "existing file": (["model.onnx"], 2, ["model.onnx", "force"]),
    "other suffix": (["model.txt"], 2, [".onnx"]),
    "data of another shape": (["new.onnx", "--data", "wrong.npy"], 2, ["(2, 4, 4, 3)", "(any, 8, 8, 3)"]),
    "data that is missing": (["new.onnx", "--data", "none.npy"], 2, ["none.npy"]),
    "data that is broken": (["new.onnx", "--data", "broken.npy"], 4, ["broken.npy"]),
    "report of another kind": (["new.onnx", "--report", "report.pdf"], 2, [".html"]),
    "unknown layout": (["new.onnx", "--input-layout", "chwn"], 2, ["chwn"]),
    "unknown opset": (["new.onnx", "--opset", "3"], 2, ["opset"]),
}


@pytest.mark.parametrize("kind", BAD_OUTPUTS)
def test_bad_arguments_get_one_paragraph_and_lose_nothing(folder, kind, run, monkeypatch):
    monkeypatch.chdir(folder)
    arguments, code, words = BAD_OUTPUTS[kind]
    np.save(folder / "wrong.npy", np.zeros((2, 4, 4, 3)))
    (folder / "broken.npy").write_bytes(b"\x93NUMPY then nothing")
    content = (folder / "model.onnx").read_bytes()
    present = sorted(folder.iterdir())
    done = run("export", "model.keras", *arguments)
    assert_one_paragraph(done, code, words)
    assert sorted(folder.iterdir()) == present
    assert (folder / "model.onnx").read_bytes() == content


def test_a_check_with_its_arguments_exchanged_is_told(folder, run):
    done = run("check", folder / "model.onnx", folder / "model.keras")
    assert_one_paragraph(done, 2, ["model.keras is a Keras file, and comes first"])


def test_an_error_is_json_too_where_json_is_asked_for(tmp_path, run):
    done = run("inspect", tmp_path / "none.keras", "--json")
    value = json.loads(done.stdout)
    assert (value["schema"], value["exit_code"]) == ("kbn.error/1", 2)


@pytest.mark.parametrize("arguments", [["nonsense"], ["export"], ["export", "a", "b", "--no-such-option"]])
def test_wrong_usage_exits_with_2(arguments, run):
    assert run(*arguments).returncode == 2


CUSTOM = """
import keras

class Doubled(keras.layers.Layer):
    def call(self, inputs):
        return inputs * 2
"""


def test_custom_layers_come_from_a_file_that_the_user_names(tmp_path, run):
    (tmp_path / "own.py").write_text(CUSTOM)
    names: dict = {}
    exec(CUSTOM, names)
    inputs = keras.Input((5,))
    tensor = layers.ReLU()(layers.BatchNormalization()(layers.Dense(4)(inputs)))
    randomized(keras.Model(inputs, names["Doubled"]()(tensor))).save(tmp_path / "x.keras")
    assert_one_paragraph(run("inspect", tmp_path / "x.keras"), 3, ["Doubled", "--custom-objects"])
    done = run("export", tmp_path / "x.keras", tmp_path / "x.onnx", "--custom-objects", tmp_path / "own.py")
    assert done.returncode == 0, done.stderr


def test_a_lambda_is_built_on_request(tmp_path, run):
    _lambda(tmp_path)
    assert run("inspect", tmp_path / "x.keras", "--allow-unsafe").returncode == 0


@pytest.mark.parametrize("as_json", [False, True])
def test_a_failed_check_shows_the_report_and_leaves_no_file(folder, tmp_path, run, monkeypatch, as_json):
    from kbn.export import exporting

    converted = exporting.convert

    def spoiled(folded, **arguments):
        kernel = folded.get_layer("classes").kernel
        kernel.assign(kernel * 1.05)
        return converted(folded, **arguments)

    monkeypatch.setattr(exporting, "convert", spoiled)
    done = run("export", folder / "model.keras", tmp_path / "x.onnx", *(["--json"] if as_json else []))
    assert done.returncode == 1
    assert "does not compute what the model computes" in done.stderr
    if as_json:
        assert json.loads(done.stdout)["passed"] is False
    else:
        assert "FAILED" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_sizes_names_and_lower_precision(folder, tmp_path, run):
    options = [
        "--batch",
        5,
        "--rename-inputs",
        "image=x",
        "--rename-outputs",
        "classes=y",
        "--input-shape",
        "image=?,8,8,3",
        "--labels",
        tmp_path / "classes.txt",
    ]
    (tmp_path / "classes.txt").write_text("ant\nbee\nfly\ngnat\n흰개미\n", encoding="utf-8")
    done = run(
        "export",
        folder / "model.keras",
        tmp_path / "m.onnx",
        "--data",
        folder / "images.npy",
        "--int8",
        *options,
        "--json",
    )
    assert done.returncode == 0, done.stderr
    (lowered,) = json.loads(done.stdout)["lowered"]
    assert lowered["kind"] == "int8"
    proto = onnx.load(tmp_path / "m.int8.onnx")
    assert [value.name for value in (*proto.graph.input, *proto.graph.output)] == ["x", "y"]
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 5
    for path in (tmp_path / "m.onnx", tmp_path / "m.int8.onnx"):
        assert verify(path).labels == ("ant", "bee", "fly", "gnat", "흰개미")


def test_overflow_in_float16_is_one_document_and_one_paragraph(tmp_path, run):
    inputs = keras.Input((4,), name="x")
    big = layers.Dense(3, kernel_initializer=keras.initializers.Constant(300.0), name="big")
    keras.Model(inputs, layers.Activation("tanh")(big(inputs))).save(tmp_path / "m.keras")
    np.save(tmp_path / "x.npy", np.full((2, 4), 100.0))
    line = ["export", tmp_path / "m.keras", tmp_path / "m.onnx", "--data", tmp_path / "x.npy", "--float16", "--json"]
    done = run(*line)
    assert done.returncode == 1
    assert json.loads(done.stdout)["passed"]  # the float32 file is there, and proved
    assert "'big'" in done.stderr
    assert not (tmp_path / "m.float16.onnx").exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--batch", "0"],
        ["--seed", "-1"],
        ["--input-shape", "image"],
        ["--input-shape", "image=1,8,8,4"],
        ["--rename-outputs", "x=y"],
        ["--opset", "3"],
        ["--int8"],
        ["--float16", "--keep-failed", "KEPT"],
        ["--labels", "nowhere.txt"],
    ],
)
def test_options_that_do_not_fit(folder, tmp_path, run, options):
    options = [tmp_path / "m.float16.onnx" if option == "KEPT" else option for option in options]
    done = run("export", folder / "model.keras", tmp_path / "m.onnx", *options)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_no_file_and_says_so(folder, tmp_path, run, monkeypatch, number):
    monkeypatch.setattr("kbn.export.exporting.check_model", lambda *_, **__: os.kill(os.getpid(), number))
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        done = run("export", folder / "model.keras", tmp_path / "x.onnx")
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)
    assert_one_paragraph(done, 130, ["Interrupted"])
    assert list(tmp_path.iterdir()) == []


def test_the_inputs_of_a_check_are_kept_and_give_the_same_numbers(folder, run, tmp_path):
    done = run("check", folder / "model.keras", folder / "model.onnx", "--save-inputs", tmp_path / "inputs", "--json")
    assert done.returncode == 0
    drawn = json.loads(done.stdout)["outputs"][0]["cases"][1]
    kept = sorted((tmp_path / "inputs").iterdir())
    assert [path.name for path in kept] == ["001-random.npz", "002-random.npz", "003-zeros.npz", "004-large-range.npz"]
    done = run("check", folder / "model.keras", folder / "model.onnx", "--data", kept[-1], "--json")
    given = json.loads(done.stdout)["outputs"][0]["cases"][0]
    assert (drawn["kind"], given["kind"]) == ("large range", "data")
    assert given["file"] == drawn["file"]
    again = run("check", folder / "model.keras", folder / "model.onnx", "--save-inputs", tmp_path / "inputs")
    assert_one_paragraph(again, 2, ["is not empty"])
    assert sorted((tmp_path / "inputs").iterdir()) == kept


@pytest.mark.parametrize("original", ["model.keras", "model.onnx"])
def test_a_check_by_layers_is_drawn_and_paged(folder, run, tmp_path, original):
    paths = tmp_path / "drift.svg", tmp_path / "page.html"
    options = ("--layers", "--plot", paths[0], "--report", paths[1])
    done = run("check", folder / original, folder / "model.onnx", *options)
    assert done.returncode == 0, done.stderr
    assert paths[0].read_text().startswith("<?xml")
    assert f"<title>model.onnx against {original}</title>" in paths[1].read_text()
    assert done.stdout.splitlines()[-1] == "PASSED"


def test_a_plot_of_layers_needs_layers(folder, run, tmp_path):
    done = run("check", folder / "model.keras", folder / "model.onnx", "--plot", tmp_path / "drift.svg")
    assert_one_paragraph(done, 2, ["--layers"])
    assert list(tmp_path.iterdir()) == []


def test_layers_that_are_not_found_leave_the_verdict_alone(folder, run, tmp_path):
    proto = onnx.load(folder / "model.onnx")
    for index, node in enumerate(proto.graph.node):
        node.name = f"node_{index}"
    onnx.save(proto, tmp_path / "foreign.onnx")
    options = ("--layers", "--plot", tmp_path / "drift.svg")
    done = run("check", folder / "model.keras", tmp_path / "foreign.onnx", *options)
    assert done.returncode == 0
    assert "No plot was written" in done.stderr
    assert not (tmp_path / "drift.svg").exists()


@pytest.mark.parametrize("option", [("--allow-unsafe",), ("--custom-objects", "layers.py")])
def test_options_that_an_onnx_file_has_no_use_for_are_refused(folder, run, tmp_path, option):
    for arguments in (
        ("check", folder / "model.onnx", folder / "model.onnx"),
        ("inspect", folder / "model.onnx"),
        ("fold", folder / "model.onnx", tmp_path / "x.onnx"),
    ):
        assert_one_paragraph(run(*arguments, *option), 2, ["is an ONNX file", "Leave them out"])


def test_the_command_without_its_packages_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "typer", None)
    monkeypatch.delitem(sys.modules, "kbn.export.cli")
    with pytest.raises(SystemExit) as stopped:
        entry()
    assert stopped.value.code == 2
    assert "pip install 'kbn[export]'" in capsys.readouterr().err


def test_a_fault_of_kbn_itself_is_called_one(folder, run, monkeypatch):
    def broken(path):
        raise RuntimeError("boom")

    monkeypatch.setattr("kbn.export.data_file.read_arrays", broken)
    done = run("check", folder / "model.keras", folder / "model.onnx", "--data", folder / "images.npy")
    assert_one_paragraph(done, 70, ["fault in kbn", "RuntimeError: boom"])


def test_a_truncated_model_gets_one_paragraph_in_a_process_of_its_own(tmp_path):
    _truncated(tmp_path)
    assert_one_paragraph(run_process("inspect", tmp_path / "x.keras"), 4, ["x.keras"])


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """An ONNX file that kbn did not write."""
    path = tmp_path_factory.mktemp("foreign") / "foreign.onnx"
    random = np.random.default_rng(0)
    arrays = {
        "w": random.normal(size=(4, 3, 3, 3)),
        **{name: random.normal(size=4) for name in ("b", "gamma", "beta", "mean")},
        "variance": random.uniform(0.5, 2.0, 4),
    }
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w", "b"], ["hidden"], name="conv"),
        onnx.helper.make_node("BatchNormalization", ["hidden", "gamma", "beta", "mean", "variance"], ["y"], name="bn"),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "foreign",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, 8, 8])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def test_an_onnx_file_is_inspected_and_folded(foreign, run):
    done = run("inspect", foreign, "--json")
    assert json.loads(done.stdout)["rows"][0]["into"] == ["conv"]
    folded = foreign.with_name("folded.onnx")
    done = run("fold", foreign, folded, "--report", foreign.with_suffix(".html"))
    assert (done.returncode, "Note:" in done.stderr) == (0, False), done.stderr
    assert [node.op_type for node in onnx.load(folded).graph.node] == ["Conv"]
    assert "backward" in foreign.with_suffix(".html").read_text()


def test_a_folded_onnx_file_that_departs_is_not_written(foreign, run, monkeypatch):
    from kbn.export import any_model
    from kbn.export.onnx_folding import fold_onnx

    def spoiled(model, **arguments):
        folded, report = fold_onnx(model)
        bias = folded.graph.initializer[0]
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(0.1), bias.name))
        return folded, report

    monkeypatch.setattr(any_model, "fold", spoiled)
    done = run("fold", foreign, foreign.with_name("spoiled.onnx"))
    assert done.returncode == 1
    assert "does not compute what the original computes" in done.stderr
    assert not foreign.with_name("spoiled.onnx").exists()


@pytest.mark.parametrize(
    ("output", "told"), [("out.keras", "must end in .onnx"), ("none/out.onnx", "none")], ids=["suffix", "folder"]
)
def test_where_a_folded_onnx_file_cannot_go(foreign, run, output, told):
    done = run("fold", foreign, foreign.with_name("x") / output if "/" in output else foreign.with_name(output))
    assert done.returncode == 2
    assert told in done.stderr


def test_an_onnx_file_that_is_none(tmp_path, run):
    (tmp_path / "x.onnx").write_bytes(b"\x08\x07junk")
    done = run("fold", tmp_path / "x.onnx", tmp_path / "y.onnx")
    assert done.returncode == 4
    assert "no ONNX model" in done.stderr


def test_check_of_two_onnx_files(foreign, tmp_path, run):
    folded, spoiled = tmp_path / "folded.onnx", tmp_path / "spoiled.onnx"
    assert run("fold", foreign, folded).returncode == 0
    done = run("check", foreign, folded, "--layers")
    assert done.returncode == 0, done.stderr
    for words in ("A error", "B error", "against A in float64", "Layers"):
        assert words in done.stdout
    assert "Keras" not in done.stdout
    assert done.stderr.split() == ["check", "..."]
    assert done.stdout.rstrip().endswith("PASSED")
    proto = onnx.load(folded)
    bias = proto.graph.initializer[-1]
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) * np.float32(1.01), bias.name))
    onnx.save(proto, spoiled)
    done = run("check", foreign, spoiled)
    assert done.returncode == 1
    assert "B is" in done.stdout
    assert done.stdout.rstrip().endswith("FAILED")
    value = json.loads(run("check", foreign, spoiled, "--json").stdout)
    assert (value["schema"], value["original"], value["passed"]) == ("kbn.check/1", "onnx", False)


def test_exit_codes_of_a_check_of_two_onnx_files(foreign, folder, tmp_path, run):
    (tmp_path / "x.onnx").write_bytes(b"\x08\x07junk")
    assert_one_paragraph(run("check", foreign, folder / "model.onnx"), 2, ["takes", "to be compared"])
    assert_one_paragraph(run("check", foreign, tmp_path / "none.onnx"), 2, ["none.onnx"])
    assert_one_paragraph(run("check", foreign, tmp_path / "x.onnx"), 4, ["x.onnx"])
    proto = onnx.load(foreign)
    proto.graph.node[1].CopyFrom(onnx.helper.make_node("Gelu", ["hidden"], ["y"], name="act", domain="com.microsoft"))
    proto.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    onnx.save(proto, tmp_path / "own.onnx")
    assert_one_paragraph(run("check", tmp_path / "own.onnx", foreign), 3, ["Gelu ('act')", "com.microsoft"])


def test_two_onnx_files_need_no_keras(foreign):
    script = (
        "import sys; from kbn.export.cli import main; sys.argv = ['kbn', 'check', sys.argv[1], sys.argv[1]]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert not {'keras', 'tensorflow'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, foreign], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "PASSED" in done.stdout
