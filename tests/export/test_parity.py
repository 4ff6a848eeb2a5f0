"""The check passes what is right, and catches faults put in on purpose."""

import keras
import numpy as np
import onnx
import pytest
from keras import layers
from onnx import numpy_helper

from kbn.export import check, export, fold
from kbn.export.errors import BrokenModelError, CheckFailedError, UnsupportedError, UsageError
from kbn.export.onnx_conversion import convert
from kbn.export.output_check import OutputCheck
from trained_models import randomized


def small_model():
    inputs = keras.Input((8, 8, 3), name="image")
    tensor = layers.Conv2D(4, 3, padding="same", name="conv")(inputs)
    tensor = layers.BatchNormalization(name="bn")(tensor)
    tensor = layers.GlobalAveragePooling2D()(layers.ReLU()(tensor))
    return randomized(keras.Model(inputs, layers.Dense(5, activation="softmax", name="classes")(tensor)))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model and the file of it, which is right."""
    model = small_model()
    path = tmp_path_factory.mktemp("parity") / "model.onnx"
    onnx.save(convert(fold(model)[0]).proto, path)
    return model, path


def changed(path, tmp_path, edit):
    """A copy of the file with its weights edited: `edit` gets the arrays by name."""
    proto = onnx.load(path)
    arrays = {tensor.name: numpy_helper.to_array(tensor).copy() for tensor in proto.graph.initializer}
    edit(arrays)
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name], tensor.name))
    onnx.save(proto, tmp_path / "changed.onnx")
    return tmp_path / "changed.onnx"


def test_the_right_file_passes(exported):
    report = check(*exported)
    (output,) = report.outputs
    assert report.passed
    assert output.output == "classes"
    assert set(output.cases) == {"seeded", "large range"}
    assert 0 < output.worst.model_error < 1e-6
    assert output.top1 == 1.0


def test_the_users_data_is_used(exported):
    data = np.random.default_rng(3).normal(size=(70, 8, 8, 3))
    report = check(*exported, data)
    assert report.passed
    assert report.samples["data"] == 70


FAULTS = {
    "one kernel element": lambda w: w["conv/kernel"].__setitem__((0, 0, 1, 1), w["conv/kernel"][0, 0, 1, 1] * 1.01),
    "one bias": lambda w: w["conv/bias"].__setitem__(0, w["conv/bias"][0] + 1e-3),
    "channels swapped": lambda w: w.__setitem__("conv/kernel", w["conv/kernel"][::-1].copy()),
    "a weight left unfolded": lambda w: w.__setitem__("conv/bias", np.zeros_like(w["conv/bias"])),
    "NaN": lambda w: w["conv/kernel"].__setitem__((0, 0, 1, 1), np.nan),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_changed_weight_fails(exported, tmp_path, fault):
    model, path = exported
    report = check(model, changed(path, tmp_path, FAULTS[fault]))
    assert not report.passed
    assert "classes: the file " in report.faults()[0]
    assert report.to_dict()["passed"] is False


def test_the_file_of_another_model_is_told(exported, tmp_path):
    inputs = [keras.Input((4,), name=name) for name in ("a", "b")]
    other = randomized(keras.Model(inputs, layers.Add()(inputs)))
    with pytest.raises(UsageError, match="is it the file of another model"):
        check(other, exported[1])


@pytest.mark.parametrize(
    ("content", "error"), [(None, UsageError), (b"", BrokenModelError), (b"\x08\x07junk", BrokenModelError)]
)
def test_a_file_that_is_no_onnx_file_is_told(exported, tmp_path, content, error):
    path = tmp_path / "broken.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=r"broken\.onnx"):
        check(exported[0], path)


@pytest.mark.parametrize("built", ["fresh", "called", "loaded"])
def test_a_sequential_model(tmp_path, built):
    model = randomized(
        keras.Sequential([keras.Input((6,)), layers.Dense(4), layers.BatchNormalization(), layers.ReLU()])
    )
    if built == "called":
        model.predict(np.zeros((2, 6)), verbose=0)
    if built == "loaded":
        model.save(tmp_path / "model.keras")
        model = keras.models.load_model(tmp_path / "model.keras")
    export(model, tmp_path / "model.onnx", data=np.ones((2, 6)))
    assert check(model, tmp_path / "model.onnx").passed


def test_a_model_of_other_input_sizes_is_told(exported):
    inputs = keras.Input((9, 9, 3))
    other = randomized(keras.Model(inputs, layers.GlobalAveragePooling2D()(inputs)))
    with pytest.raises(UsageError, match="is it the file of another model"):
        check(other, exported[1])


def test_models_without_a_graph_are_refused(exported):
    class Subclassed(keras.Model):
        def call(self, inputs):
            return inputs

    for model in (Subclassed(), keras.Sequential([layers.Dense(2)])):
        with pytest.raises(UnsupportedError):
            check(model, exported[1])


def test_a_copy_that_is_another_function_is_noticed(tmp_path):
    @keras.saving.register_keras_serializable(package="test_parity")
    class Forgetful(layers.Layer):
        factor = 1.0  # set after the layer was made, and not in its config

        def call(self, inputs):
            return inputs * self.factor

    keras.config.set_dtype_policy("mixed_float16")
    try:
        inputs, layer = keras.Input((4,)), Forgetful()
        model = randomized(keras.Model(inputs, layer(layers.Dense(3)(inputs))))
    finally:
        keras.config.set_dtype_policy("float32")
    layer.factor = -1.0
    with pytest.raises(CheckFailedError, match="no input proves anything"):
        export(model, tmp_path / "model.onnx")


def test_several_inputs_dynamic_sizes_and_integers(tmp_path):
    images, tokens = keras.Input((None, None, 3), name="images"), keras.Input((None,), dtype="int32", name="tokens")
    seen = layers.GlobalAveragePooling2D()(layers.BatchNormalization()(layers.Conv2D(4, 3)(images)))
    read = layers.GlobalAveragePooling1D()(layers.Embedding(7, 4)(tokens))
    model = randomized(
        keras.Model({"images": images, "tokens": tokens}, {"sum": layers.Add(name="sum")([seen, read]), "read": read})
    )
    onnx.save(convert(fold(model)[0]).proto, tmp_path / "model.onnx")
    report = check(model, tmp_path / "model.onnx")
    assert report.passed, report.faults()
    assert set(report.samples) == {"random", "second size", "zeros", "large range"}
    assert len(report.outputs) == 2


@pytest.mark.parametrize("kind", ["sequence", "text"])
def test_an_output_that_is_no_tensor_of_numbers_is_refused(exported, tmp_path, kind):
    model, path = exported
    proto = onnx.load(path)
    del proto.graph.output[:]
    if kind == "sequence":
        proto.graph.node.append(onnx.helper.make_node("SequenceConstruct", ["classes"], ["made"]))
        proto.graph.output.append(onnx.helper.make_tensor_sequence_value_info("made", onnx.TensorProto.FLOAT, None))
    else:
        proto.graph.node.append(onnx.helper.make_node("Cast", ["classes"], ["made"], to=onnx.TensorProto.STRING))
        proto.graph.output.append(onnx.helper.make_tensor_value_info("made", onnx.TensorProto.STRING, None))
    onnx.save(proto, tmp_path / "other.onnx")
    with pytest.raises(UnsupportedError, match="only tensors of numbers"):
        check(model, tmp_path / "other.onnx")


class TestVerdict:
    """The verdict on one output, from arrays."""

    truth = np.linspace(-1, 1, 12).reshape(3, 4)

    def verdict(self, model_error, file_error, truth=truth):
        output = OutputCheck("y")
        output.add("seeded", truth, truth + model_error, [truth, truth + file_error])
        return output

    def test_is_relative_to_the_models_own_error(self):
        assert self.verdict(1e-4, 3.9e-4).passed
        assert not self.verdict(1e-4, 4.1e-4).passed

    def test_has_a_floor(self):
        assert self.verdict(0.0, 1.0e-5).passed
        assert not self.verdict(0.0, 1.2e-5).passed

    def test_a_reference_that_the_model_itself_misses_proves_nothing(self):
        output = self.verdict(0.2, 0.0)
        assert "no input proves anything" in output.faults[0]
        assert output.cases["seeded"].verdict == "proves nothing"

    def test_one_kind_that_proves_something_is_enough(self):
        output = self.verdict(0.2, 0.0)
        output.add("data", self.truth, self.truth + 1e-6, [self.truth + 1e-6])
        assert output.passed

    def test_nothing_finite_proves_nothing(self):
        nothing = np.full((3, 4), np.nan)
        output = OutputCheck("y")
        output.add("data", nothing, nothing, [nothing])
        assert "no input proves anything" in output.faults[0]

    def test_finite_where_the_model_is_not_fails(self):
        truth = np.where(np.eye(3, 4) > 0, np.inf, 1.0)
        output = OutputCheck("y")
        output.add("data", truth, truth, [np.ones((3, 4))])
        assert "finite where the model gives" in output.faults[0]

    def test_a_float64_copy_that_is_another_function_proves_nothing(self):
        output = OutputCheck("y")
        output.add("data", self.truth, self.truth, [self.truth], own=-self.truth, rounding=0.1)
        assert output.cases["data"].verdict == "proves nothing"
        assert not output.passed

    def test_batches_of_one_kind_are_judged_together(self):
        output = self.verdict(1e-4, 0.0)
        output.add("seeded", self.truth, self.truth, [self.truth + 3.9e-4])
        assert output.passed
        output.add("seeded", self.truth, self.truth, [self.truth + 4.1e-4])
        assert "(seeded inputs)" in output.faults[0]

    def test_another_kind_excuses_nothing(self):
        output = OutputCheck("y")
        output.add("large range", self.truth, self.truth + 1e-3, [self.truth])
        output.add("data", self.truth, self.truth, [self.truth + 1e-4])
        assert len(output.faults) == 1
        assert "(data inputs)" in output.faults[0]

    def test_infinity_where_the_model_is_finite_fails(self):
        assert "NaN or infinity" in self.verdict(0.0, np.inf).faults[0]

    def test_infinity_of_the_models_own_is_no_fault_of_the_file(self):
        truth = self.truth.copy()
        truth[0, 0] = np.inf
        output = OutputCheck("y")
        output.add("large range", truth, truth, [truth])
        assert output.passed
        assert output.worst.file_error == 0.0

    def test_another_shape_fails(self):
        output = OutputCheck("y")
        output.add("seeded", self.truth, self.truth, [self.truth[:, :2]])
        assert "shape (3, 2)" in output.faults[0]

    def test_the_worst_of_both_runs_counts(self):
        output = OutputCheck("y")
        output.add("seeded", self.truth, self.truth, [self.truth + 1.0, self.truth])
        assert output.worst.file_error == pytest.approx(1.0)

    def test_top1_counts_examples(self):
        truth = np.eye(4)
        output = OutputCheck("y")
        output.add("data", truth, truth, [truth[[0, 1, 2, 2]]])
        assert output.top1 == 0.75
        output.add("seeded", truth, truth, [truth])
        assert output.top1 == 0.75

    @pytest.mark.parametrize("came", [np.inf, -np.inf, np.nan, 1.0])
    @pytest.mark.parametrize("due", [np.inf, -np.inf, np.nan])
    def test_what_is_not_finite_must_be_the_same(self, came, due):
        truth, found = self.truth.copy(), self.truth.copy()
        truth[0, 0], found[0, 0] = due, came
        output = OutputCheck("y")
        output.add("seeded", self.truth, self.truth, [self.truth])
        output.add("large range", truth, truth, [found])
        assert output.passed == np.array_equal([came], [due], equal_nan=True)
        if not output.passed:
            assert output.faults[0].endswith("(large range inputs)")
            assert [case["verdict"] for case in output.to_dict()["cases"]] == ["passed", "FAILED"]
            assert [row[-1] for row in output.table_rows()] == ["passed", "FAILED"]
            assert output.worst.kind == "large range"

    def test_integers_are_right_or_wrong(self):
        truth = np.array([[150000, 2**60]])
        for found, passed in (([150000, 2**60], True), ([150001, 2**60], False), ([150000, 2**60 + 1], False)):
            output = OutputCheck("y")
            output.add("seeded", truth, truth, [np.array([found])])
            assert output.passed == passed

    def test_an_integer_by_which_float32_is_off_itself_may_be_off_in_the_file(self):
        output = OutputCheck("y")
        output.add("seeded", np.array([500, 300]), np.array([500, 301]), [np.array([501, 300])])
        assert output.passed

    def test_an_output_without_elements_says_so(self):
        output = OutputCheck("y")
        output.add("seeded", np.zeros((3, 0)), np.zeros((3, 0)), [np.zeros((3, 0))])
        assert "has no element" in output.faults[0]

    def test_the_run_that_has_another_shape_is_told(self):
        output = OutputCheck("y")
        output.add("seeded", self.truth, self.truth, [self.truth, self.truth[:, :2]])
        assert "shape (3, 2)" in output.faults[0]

    def test_zeros_are_not_excused_where_outputs_are_small(self):
        truth = self.truth * 1e-12
        output = OutputCheck("y")
        output.add("seeded", truth, truth * (1 + 1e-7), [np.zeros_like(truth)])
        assert output.cases["seeded"].verdict == "proves nothing"
        assert not output.passed
        output.add("data", truth, truth * (1 + 1e-7), [truth * (1 - 3e-7)])
        assert output.cases["data"].verdict == "passed"
        assert output.passed
