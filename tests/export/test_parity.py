"""The check passes what is right, and catches faults put in on purpose."""

import keras
import numpy as np
import onnx
import pytest
from keras import layers
from onnx import numpy_helper

from kbn.export import check, fold
from kbn.export.errors import BrokenModelError, UsageError
from kbn.export.onnx_conversion import convert
from kbn.export.parity import OutputCheck
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
        assert "proves nothing" in output.faults[0]

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
