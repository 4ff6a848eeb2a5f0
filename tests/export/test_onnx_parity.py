"""The check of one ONNX file against another: what passes, each fault that fails, what is refused, what is fed."""

import keras
import numpy as np
import onnx
import pytest
from keras import layers
from onnx import TensorProto, helper, numpy_helper

from kbn.export import check, export
from kbn.export.double_run import DoubleRun
from kbn.export.errors import BrokenModelError, UnsupportedError, UsageError
from kbn.export.half_precision import to_float16
from kbn.export.onnx_conversion import convert
from trained_models import randomized


def small_model():
    inputs = keras.Input((8, 8, 3), name="image")
    tensor = layers.ZeroPadding2D(1)(layers.ReLU()(inputs))
    tensor = layers.BatchNormalization(name="bn", epsilon=0.01)(layers.Conv2D(4, 3, name="conv")(tensor))
    tensor = layers.MaxPooling2D(2)(layers.ReLU()(tensor))
    tensor = layers.GlobalAveragePooling2D()(layers.AveragePooling2D(2, padding="same", strides=1)(tensor))
    return randomized(keras.Model(inputs, layers.Dense(5, activation="softmax", name="classes")(tensor)))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same model without folding, folded, and folded with images as (N, C, H, W)."""
    folder, model = tmp_path_factory.mktemp("files"), small_model()
    onnx.save(convert(model).proto, folder / "plain.onnx")
    export(model, folder / "folded.onnx")
    export(model, folder / "nchw.onnx", input_layout="nchw")
    return folder


def save(path, inputs, nodes, outputs=None, constants=None, opset=18, value_info=()):
    """Writes a model; `inputs` and `outputs` are name: (element type, shape)."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, *each) for name, each in inputs.items()],
        [
            helper.make_tensor_value_info(name, *each)
            for name, each in (outputs or {"y": (TensorProto.FLOAT, None)}).items()
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
        value_info=list(value_info),
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def changed(path, target, edit):
    """A copy of the file with its weights edited: `edit` gets the arrays by name."""
    proto = onnx.load(path)
    arrays = {tensor.name: numpy_helper.to_array(tensor).copy() for tensor in proto.graph.initializer}
    edit(arrays)
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name], tensor.name))
    onnx.save(proto, target)
    return target


@pytest.mark.parametrize("pair", ["plain plain", "plain folded", "folded plain", "folded nchw", "nchw folded"])
def test_files_of_the_same_model_pass(files, pair):
    a, b = (files / f"{name}.onnx" for name in pair.split())
    report = check(a, b)
    assert report.passed, report.faults()
    (output,) = report.outputs
    assert set(output.cases) == {"seeded", "large range"}
    assert 0 < output.worst.model_error < 1e-5
    if a == b:
        assert output.worst.file_error >= output.worst.model_error


def test_the_batch_normalization_is_there_before_folding(files):
    assert "BatchNormalization" in {node.op_type for node in onnx.load(files / "plain.onnx").graph.node}
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(files / "folded.onnx").graph.node}


FAULTS = {
    "one kernel element": lambda w: w["conv/kernel"].__setitem__((0, 0, 1, 1), w["conv/kernel"][0, 0, 1, 1] * 1.01),
    "one bias": lambda w: w["conv/bias"].__setitem__(0, w["conv/bias"][0] + 1e-3),
    "channels swapped": lambda w: w.__setitem__("conv/kernel", w["conv/kernel"][::-1].copy()),
    "NaN": lambda w: w["conv/kernel"].__setitem__((0, 0, 1, 1), np.nan),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_changed_weight_fails(files, tmp_path, fault):
    report = check(files / "plain.onnx", changed(files / "folded.onnx", tmp_path / "b.onnx", FAULTS[fault]))
    assert not report.passed
    assert "classes: B " in report.faults()[0]
    assert report.to_dict()["original"] == "onnx"


def test_a_dropped_epsilon_fails(files, tmp_path):
    proto = onnx.load(files / "plain.onnx")
    (norm,) = (node for node in proto.graph.node if node.op_type == "BatchNormalization")
    next(attribute for attribute in norm.attribute if attribute.name == "epsilon").f = 0.0
    onnx.save(proto, tmp_path / "b.onnx")
    report = check(files / "plain.onnx", tmp_path / "b.onnx")
    assert not report.passed
    assert "where" in report.faults()[0]
    assert "away from A in float64" in report.faults()[0]


def test_an_original_of_nan_proves_nothing(files, tmp_path):
    path = changed(files / "folded.onnx", tmp_path / "a.onnx", lambda w: w["conv/bias"].fill(np.nan))
    report = check(path, path)
    assert not report.passed
    assert "no input proves anything" in report.faults()[0]


def test_half_precision_is_beyond_the_bound(files, tmp_path):
    onnx.save(to_float16(onnx.load(files / "folded.onnx")), tmp_path / "half.onnx")
    report = check(files / "folded.onnx", tmp_path / "half.onnx")
    assert not report.passed
    assert "B is " in report.faults()[0]


def test_the_users_data_is_taken_in_the_layout_of_the_model_or_of_the_file(files):
    data = np.random.default_rng(3).normal(size=(40, 8, 8, 3))
    for given in (data, data.transpose(0, 3, 1, 2), {"image": data}, {"x": data}):
        report = check(files / "nchw.onnx", files / "folded.onnx", given)
        assert report.passed, report.faults()
        assert report.samples["data"] == 40
    for wrong in (data[:, :4], {"y": data}):
        with pytest.raises(UsageError):
            check(files / "folded.onnx", files / "folded.onnx", wrong)


def test_weights_beside_the_file(files, tmp_path):
    proto = onnx.load(files / "folded.onnx")
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=64)
    assert (tmp_path / "weights.bin").stat().st_size > 0
    assert check(tmp_path / "m.onnx", files / "folded.onnx", layers=True).passed
    assert check(files / "plain.onnx", tmp_path / "m.onnx", layers=True).passed
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(BrokenModelError, match=r"m\.onnx"):
        check(tmp_path / "m.onnx", files / "folded.onnx")


F, I64 = TensorProto.FLOAT, TensorProto.INT64


def test_other_inputs_and_outputs_are_refused(tmp_path):
    relu = [helper.make_node("Relu", ["x"], ["y"])]
    first = save(tmp_path / "a.onnx", {"x": (F, ["n", 3])}, relu, {"y": (F, ["n", 3])})
    two = [*relu, helper.make_node("Neg", ["x"], ["z"])]
    others = {
        r"takes \(any, 5\), where": save(tmp_path / "w.onnx", {"x": (F, ["n", 5])}, relu),
        "takes 2 inputs, where": save(
            tmp_path / "i.onnx", dict.fromkeys("xz", (F, ["n", 3])), [helper.make_node("Add", ["x", "z"], ["y"])]
        ),
        "holds int64, where": save(
            tmp_path / "k.onnx", {"x": (I64, ["n", 3])}, [helper.make_node("Cast", ["x"], ["y"], to=F)]
        ),
        "has 2 outputs": save(tmp_path / "o.onnx", {"x": (F, ["n", 3])}, two, {n: (F, ["n", 3]) for n in "yz"}),
        r"Output 0 of .* is \(any, 1\), where": save(
            tmp_path / "s.onnx",
            {"x": (F, ["n", 3])},
            [helper.make_node("ReduceMax", ["x", "axes"], ["y"])],
            {"y": (F, ["n", 1])},
            {"axes": np.array([1])},
        ),
    }
    for words, path in others.items():
        with pytest.raises(UsageError, match=words):
            check(first, path)


@pytest.mark.parametrize(
    ("content", "error"), [(None, UsageError), (b"", BrokenModelError), (b"\x08\x07junk", BrokenModelError)]
)
def test_a_file_that_is_no_onnx_file_is_told(files, tmp_path, content, error):
    path = tmp_path / "broken.onnx"
    if content is not None:
        path.write_bytes(content)
    for pair in ((path, files / "plain.onnx"), (files / "plain.onnx", path)):
        with pytest.raises(error, match=r"broken\.onnx"):
            check(*pair)


def test_a_model_in_memory_and_a_negative_seed_are_refused(files):
    with pytest.raises(UsageError, match="give the path"):
        check(onnx.load(files / "plain.onnx"), files / "plain.onnx")
    with pytest.raises(UsageError, match="seed"):
        check(files / "plain.onnx", files / "plain.onnx", seed=-1)


def test_several_inputs_dynamic_sizes_and_integers(tmp_path):
    images, tokens = keras.Input((None, None, 3), name="images"), keras.Input((None,), dtype="int32", name="tokens")
    seen = layers.GlobalAveragePooling2D()(layers.BatchNormalization()(layers.Conv2D(4, 3)(images)))
    read = layers.GlobalAveragePooling1D()(layers.Embedding(3, 4)(tokens))
    model = randomized(
        keras.Model({"images": images, "tokens": tokens}, {"sum": layers.Add(name="sum")([seen, read]), "read": read})
    )
    onnx.save(convert(model).proto, tmp_path / "a.onnx")
    export(model, tmp_path / "b.onnx")
    report = check(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert report.passed, report.faults()
    assert set(report.samples) == {"random", "second size", "zeros", "large range"}
    assert not report.skipped
    assert len(report.outputs) == 2


def test_integers_past_the_table_are_not_drawn_and_those_in_it_are(tmp_path):
    """One row changed: found only if every row is drawn."""
    table = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["ids"], ["i"], to=TensorProto.INT32),
        helper.make_node("Gather", ["table", "i"], ["y"]),
    ]
    first = save(tmp_path / "a.onnx", {"ids": (I64, ["n", "t"])}, nodes, constants={"table": table})
    assert check(first, first).passed
    for row in range(3):
        other = table.copy()
        other[row] += 0.01
        second = save(tmp_path / "b.onnx", {"ids": (I64, ["n", "t"])}, nodes, constants={"table": other})
        assert not check(first, second).passed


def test_axes_of_one_name_are_of_one_size(tmp_path):
    nodes = [helper.make_node("MatMul", ["scores", "values"], ["y"])]
    inputs = {"scores": (F, ["n", "rows", "t"]), "values": (F, ["n", "t", 4])}
    path = save(tmp_path / "a.onnx", inputs, nodes)
    report = check(path, path)
    assert report.passed
    assert not report.skipped


def test_an_original_that_takes_no_seeded_input_wants_data(tmp_path):
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    path = save(tmp_path / "a.onnx", {"x": (F, ["n", "t"])}, nodes, constants={"shape": np.array([-1, 7])})
    with pytest.raises(UsageError, match="runs on none of the seeded inputs"):
        check(path, path)
    report = check(path, path, np.ones((2, 14)))
    assert report.passed
    assert "random" in report.skipped


def test_what_cannot_be_run_in_float64_is_named(tmp_path):
    lstm = {"w": np.ones((1, 8, 3), np.float32), "r": np.ones((1, 8, 2), np.float32)}
    refused = {
        r"BiasGelu \('act'\) of domain 'com.microsoft'": save(
            tmp_path / "domain.onnx",
            {"x": (F, ["n", 3])},
            [helper.make_node("BiasGelu", ["x", "b"], ["y"], name="act", domain="com.microsoft")],
            constants={"b": np.ones(3, np.float32)},
        ),
        r"ignores the activations .* of operator LSTM": save(
            tmp_path / "lstm.onnx",
            {"x": (F, [5, 2, 3])},
            [helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=2, activations=["Relu", "Tanh", "Tanh"])],
            constants=lstm,
        ),
    }
    for words, path in refused.items():
        with pytest.raises(UnsupportedError, match=words):
            check(path, path)


def test_an_operator_that_fails_in_float64_is_named(files, monkeypatch):
    from kbn.export import window_operators

    def broken(*_, **__):
        raise RuntimeError("no such thing")

    monkeypatch.setattr(window_operators.Conv, "_run", broken)
    with pytest.raises(UnsupportedError, match=r"operator Conv \('.*conv.*'\) cannot be run \(no such thing\)"):
        check(files / "plain.onnx", files / "plain.onnx")


def test_narrower_floats_are_refused(tmp_path, monkeypatch):
    from kbn.export import window_operators

    run = window_operators.Conv._run
    monkeypatch.setattr(window_operators.Conv, "_run", lambda *a, **k: (run(*a, **k)[0].astype(np.float32),))
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    path = save(tmp_path / "a.onnx", {"x": (F, [1, 2, 4])}, nodes, constants={"w": np.ones((1, 2, 3), np.float32)})
    with pytest.raises(UnsupportedError, match=r"operator Conv gives float32"):
        DoubleRun(path).run([np.zeros((1, 2, 4))])


def test_a_float64_run_of_another_shape_is_no_truth(tmp_path, monkeypatch):
    from kbn.export import window_operators

    monkeypatch.setattr(window_operators.Conv, "_run", lambda *_, **__: (np.zeros((1, 1)),))
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    path = save(tmp_path / "a.onnx", {"x": (F, [1, 2, 4])}, nodes, constants={"w": np.ones((1, 2, 3), np.float32)})
    with pytest.raises(UnsupportedError, match=r"Output 'y' of .* is of shape \(1, 1\) in the float64 run"):
        check(path, path)


@pytest.mark.parametrize("build", [lambda x: layers.Bidirectional(layers.LSTM(5))(x), lambda x: layers.GRU(5)(x)])
def test_recurrent_layers(tmp_path, build):
    inputs = keras.Input((6, 3))
    onnx.save(convert(randomized(keras.Model(inputs, build(inputs)))).proto, tmp_path / "a.onnx")
    report = check(tmp_path / "a.onnx", tmp_path / "a.onnx")
    assert report.passed, report.faults()


def test_tensors_of_the_same_name(files, tmp_path):
    report = check(files / "folded.onnx", files / "folded.onnx", layers=True)
    assert report.first_drifting is None
    assert {"Conv", "MaxPool", "MatMul"} <= {layer.type for layer in report.layers}
    spoiled = changed(files / "folded.onnx", tmp_path / "b.onnx", FAULTS["one bias"])
    report = check(files / "folded.onnx", spoiled, layers=True)
    assert report.first_drifting.type == "Conv"
    assert "The first tensor beyond its bounds is conv" in report.tables()[-1].note


def test_files_without_common_names(tmp_path):
    def chain(name):
        nodes = [helper.make_node("Relu", ["x"], [name]), helper.make_node("Neg", [name], [f"{name}_out"])]
        return save(tmp_path / f"{name}.onnx", {"x": (F, ["n", 3])}, nodes, {f"{name}_out": (F, ["n", 3])})

    report = check(chain("a"), chain("b"), layers=True)
    assert report.passed
    assert report.layers == []
    assert "No tensor of floats" in report.tables()[-1].note


def test_infinity_inside_is_no_drift(tmp_path):
    # As in the mask of an attention.
    mask = np.where(np.eye(4) > 0, 0.0, -np.inf).astype(np.float32)
    nodes = [
        helper.make_node("Add", ["x", "mask"], ["masked"], name="add"),
        helper.make_node("Softmax", ["masked"], ["y"], name="softmax"),
    ]
    save(tmp_path / "a.onnx", {"x": (TensorProto.FLOAT, [4, 4])}, nodes, constants={"mask": mask})
    report = check(tmp_path / "a.onnx", tmp_path / "a.onnx", layers=True)
    assert report.passed
    assert report.first_drifting is None
    assert [layer.layer for layer in report.layers] == ["add", "softmax"]


@pytest.mark.parametrize("kind", ["sequence", "text"])
def test_a_tensor_of_b_that_is_no_array_of_numbers_is_left_out(tmp_path, kind):
    x = {"x": (TensorProto.FLOAT, ["batch", 4])}
    relu = helper.make_node("Relu", ["x"], ["y"], name="relu")
    save(tmp_path / "a.onnx", x, [helper.make_node("Neg", ["x"], ["inside"], name="neg"), relu])
    other = {
        "sequence": helper.make_node("SequenceConstruct", ["x"], ["inside"]),
        "text": helper.make_node("Cast", ["x"], ["inside"], to=TensorProto.STRING),
    }
    save(tmp_path / "b.onnx", x, [other[kind], relu])
    report = check(tmp_path / "a.onnx", tmp_path / "b.onnx", layers=True)
    assert report.passed
    assert [layer.layer for layer in report.layers] == ["relu"]


def test_kept_inputs_of_a_file_in_another_layout_fit_data(files, tmp_path):
    path = files / "nchw.onnx"
    first = check(path, path, save_inputs=tmp_path / "inputs")
    kept = sorted((tmp_path / "inputs").iterdir())
    with np.load(kept[0]) as arrays:
        assert arrays["image"].shape == (3, 8, 8, 3)  # as the Keras model takes them
        again = check(path, path, dict(arrays))
    assert first.samples["random"] == 4
    assert again.samples["data"] == 3
    with np.load(kept[-1]) as arrays:  # the one sample of its kind
        again = check(path, path, dict(arrays))
    (drawn,), (given,) = ([report.outputs[0].cases[kind]] for report, kind in ((first, "large range"), (again, "data")))
    assert (drawn.magnitude, drawn.model_error) == (given.magnitude, given.model_error)
