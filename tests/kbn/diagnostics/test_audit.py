"""Audits of models with one fault planted, and of sound ones. Needs TensorFlow as Keras' backend."""

import io
import json

import keras
import numpy as np
import pytest
from keras import layers, ops
from rich.console import Console
from sklearn.datasets import load_digits

import kbn
from kbn.diagnostics import audit

CLASSES = [kbn.BatchNormalization, layers.BatchNormalization]


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return (x[:400] / 16).astype("float32"), y[:400]


def network(cls=layers.BatchNormalization, use_bias=False, **arguments):
    """Dense layers for digits."""
    keras.utils.set_random_seed(0)
    tensor = inputs = keras.Input((64,))
    for name in ("first", "second"):
        tensor = layers.Dense(32, use_bias=use_bias, name=f"{name}_dense")(tensor)
        tensor = layers.ReLU()(cls(name=name, **arguments)(tensor))
    model = keras.Model(inputs, layers.Dense(10, activation="softmax", name="classes")(tensor))
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    return model


@pytest.fixture(scope="module")
def trained(digits):
    """Weights of a network with quick averages, and the optimizer's steps."""
    x, y = digits
    model = network(momentum=0.9)
    model.fit(x, y, batch_size=64, epochs=9, verbose=0)
    return model.get_weights(), int(model.optimizer.iterations)


@pytest.fixture
def sound(trained, digits):
    def build(cls=layers.BatchNormalization, **arguments):
        model = network(cls, **({"momentum": 0.9} | arguments))
        model.set_weights(trained[0])
        model.optimizer.iterations.assign(trained[1])
        return model

    return build


def calibrated(model, data):
    """The model with the statistics of the data for averages, so that nothing is stale."""
    kbn.recalibrate(model, data, verbose=0, layer_by_layer=True)
    return model


def codes(report, layer=None):
    return {finding.code for finding in report.findings if layer in (None, finding.layer)}


def severities(report):
    return {(finding.code, finding.severity) for finding in report.findings}


# --- sound models


@pytest.mark.parametrize("cls", CLASSES)
def test_nothing_is_found_in_a_sound_model(cls, sound, digits):
    report = audit(sound(cls), digits[0], batch_size=100)
    assert report.passed
    assert report.findings == ()
    assert report.notes == ()
    assert [row.layer for row in report.rows] == ["first", "second"]
    for row in report.rows:
        assert (row.mode, row.steps, row.dead, row.examples) == ("trains", 63, 0, 400)
        assert row.departure < row.batch_noise


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cls", "arguments", "epochs"),
    [
        (layers.BatchNormalization, {}, 20),
        (layers.BatchNormalization, {"momentum": 0.9}, 5),
        (kbn.BatchNormalization, {"debias": True}, 8),
    ],
)
def test_a_convolutional_network_of_several_epochs_is_sound(cls, arguments, epochs):
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32").reshape(-1, 8, 8, 1)
    keras.utils.set_random_seed(1)
    tensor = inputs = keras.Input((8, 8, 1))
    for filters in (8, 16):
        tensor = layers.Conv2D(filters, 3, use_bias=False)(tensor)
        tensor = layers.ReLU()(cls(**arguments)(tensor))
    model = keras.Model(inputs, layers.Dense(10, activation="softmax")(layers.Flatten()(tensor)))
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x[:1400], y[:1400], batch_size=32, epochs=epochs, verbose=0)
    for data in (x[:1400:2], x[1400:]):  # seen in training, and written by other people
        report = audit(model, data, batch_size=32)
        assert report.passed, str(report)


def test_an_audit_changes_nothing_of_the_model(sound, digits):
    model = sound(kbn.BatchNormalization)
    model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables]
    before = [ops.convert_to_numpy(each).copy() for each in variables]
    calls = [layer.call for layer in model.layers]
    expected = model.predict(digits[0][:64], verbose=0)
    audit(model, digits[0][:96])
    for variable, value in zip(variables, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)
    assert [layer.call for layer in model.layers] == calls
    np.testing.assert_array_equal(model.predict(digits[0][:64], verbose=0), expected)


def test_an_audit_that_fails_changes_nothing_either(sound):
    model = sound()
    before = model.get_weights()
    with pytest.raises(Exception, match="expects 1"):
        audit(model, [np.ones((8, 64), "float32"), np.ones((8, 3), "float32")])
    for value, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)


def test_an_audit_is_repeatable(sound, digits):
    model = sound()
    assert audit(model, digits[0][:96]).to_dict() == audit(model, digits[0][:96]).to_dict()


# --- planted faults


@pytest.mark.parametrize("cls", CLASSES)
def test_an_untrained_model(cls, digits):
    report = audit(network(cls), digits[0][:256], batch_size=100)
    assert not report.passed
    assert severities(report) == {("never-updated", "wrong")}
    assert len(report.findings) == 2


@pytest.mark.parametrize("cls", CLASSES)
def test_averages_that_never_moved_in_one_layer(cls, sound, digits):
    model = sound(cls)
    model.get_layer("second").moving_mean.assign(np.zeros(32))
    model.get_layer("second").moving_variance.assign(np.ones(32))
    report = audit(model, digits[0], batch_size=100)
    assert [(finding.code, finding.layer) for finding in report.findings] == [("never-updated", "second")]


def test_averages_that_never_moved_are_sound_where_the_data_is_white(rng):
    model = keras.Sequential([keras.Input((5,)), layers.BatchNormalization()])
    assert audit(model, rng.normal(size=(4000, 5)).astype("float32"), batch_size=500).findings == ()


@pytest.mark.parametrize("cls", CLASSES)
def test_stale_averages(cls, sound, digits):
    model = sound(cls)
    model.get_layer("first").moving_variance.assign(ops.multiply(model.get_layer("first").moving_variance, 9.0))
    report = audit(model, digits[0], batch_size=100)
    assert severities(report) == {("stale-averages", "wrong")}
    (row, other), (output,) = report.rows, report.outputs
    # Every deviation counts a third: the normalised output is off by two thirds of its spread.
    assert row.departure == pytest.approx(2 / 3, abs=0.03)
    assert other.departure < other.batch_noise
    assert output.matters
    # What is told of the outputs is what recalibration does to them.
    now = model.predict(digits[0], verbose=0)
    kbn.recalibrate(model, digits[0], batch_size=64, verbose=0)
    new = model.predict(digits[0], verbose=0)
    change = np.sqrt(np.square(now - new).sum() / np.square(new - new.mean(0)).sum())
    assert output.change == pytest.approx(change, rel=0.05)
    assert output.top1 == pytest.approx(np.mean(now.argmax(1) != new.argmax(1)), abs=0.02)
    assert audit(model, digits[0], batch_size=100).passed


def test_averages_that_are_not_finite(sound, digits):
    model = sound()
    model.get_layer("first").moving_mean.assign(np.full(32, np.nan))
    report = audit(model, digits[0][:96])
    assert "not-finite" in codes(report, "first")
    assert not report.passed
    assert json.loads(report.to_json())["outputs"][0]["change"] is None


@pytest.mark.parametrize("cls", CLASSES)
def test_a_momentum_too_slow_for_the_steps(cls, sound, digits):
    """Averages of momentum 0.99 after 20 steps on the same data: 82 % is still what they were initialised with."""
    model = sound(cls, momentum=0.99)
    for name in ("first", "second"):
        layer = model.get_layer(name)
        layer.moving_mean.assign(ops.multiply(layer.moving_mean, 1 - 0.99**20))
        layer.moving_variance.assign(0.99**20 + ops.multiply(layer.moving_variance, 1 - 0.99**20))
    model.optimizer.iterations.assign(20)
    report = audit(model, digits[0], batch_size=100)
    assert {(row.steps, round(row.kept, 6)) for row in report.rows} == {(20, round(0.99**20, 6))}
    assert ("slow-momentum", "wrong") in severities(report)
    assert "81.8%" in report.findings[1].what
    assert "stale-averages" in codes(report)


@pytest.mark.parametrize(("arguments", "steps"), [({"debias": True}, 6), ({"momentum": None}, 6)])
def test_a_layer_that_counts_its_steps_needs_no_optimizer(arguments, steps, digits):
    model = network(kbn.BatchNormalization, **arguments)
    for start in range(0, 384, 64):
        model(digits[0][start : start + 64], training=True)
    report = audit(model, digits[0][:384], batch_size=100)
    assert {row.steps for row in report.rows} == {steps}
    assert {row.kept for row in report.rows} == {None}
    assert report.passed, str(report)


def test_steps_may_be_told(sound, digits):
    model = sound()
    model.optimizer.iterations.assign(0)
    unknown = audit(model, digits[0][:200], batch_size=100)
    assert {row.steps for row in unknown.rows} == {None}
    assert any("steps" in note for note in unknown.notes)
    assert "slow-momentum" in codes(audit(model, digits[0][:200], batch_size=64, steps=20))


@pytest.mark.parametrize(("size", "severity"), [(2, "wrong"), (8, "worth knowing"), (64, None), (None, None)])
def test_a_batch_too_small_for_its_noise(size, severity, sound, digits):
    report = audit(sound(), digits[0][: 40 if size == 2 else 96], batch_size=size)
    found = {finding.severity for finding in report.findings if finding.code == "small-batch"}
    assert found == ({severity} if severity else set())
    assert any("batch size" in note for note in report.notes) is (size is None)
    if size:
        assert report.rows[0].elements == pytest.approx(size, rel=1e-3)


def test_pixels_that_move_together_are_one_element(rng):
    """Images of one colour each: 64 pixels, one independent element."""
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.BatchNormalization()])
    colours = rng.normal(size=(64, 1, 1, 3)).astype("float32")
    noise = rng.normal(size=(64, 8, 8, 3)).astype("float32")
    assert audit(model, np.repeat(np.repeat(colours, 8, 1), 8, 2), batch_size=4).rows[0].elements == pytest.approx(4)
    assert audit(model, noise, batch_size=4).rows[0].elements == pytest.approx(256, rel=0.5)


def test_ghost_batches_are_the_batches(sound, digits):
    model = sound(kbn.BatchNormalization, virtual_batch_size=8)
    assert audit(model, digits[0][:160], batch_size=100).rows[0].elements == pytest.approx(8, rel=1e-3)


@pytest.mark.parametrize("cls", CLASSES)
def test_training_true_written_into_a_functional_call(cls, digits):
    inputs = keras.Input((64,))
    model = keras.Model(inputs, layers.Dense(3)(cls(name="bn")(inputs, training=True)))
    assert ("training-true", "wrong") in severities(audit(calibrated(model, digits[0]), digits[0][:200]))


class Writes(keras.Model):
    """A subclass that calls its normalization as it is told."""

    def __init__(self, cls, **written):
        super().__init__()
        self.norm, self.written = cls(name="bn"), written

    def call(self, inputs):
        return self.norm(inputs, **self.written)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize(("written", "expected"), [(True, "training-true"), (False, "never-trains"), (None, None)])
def test_a_mode_written_into_a_subclass(cls, written, expected, rng):
    model = Writes(cls, **({} if written is None else {"training": written}))
    x = rng.normal(3.0, 2.0, (200, 4)).astype("float32")
    model(x[:2])
    model.norm.moving_mean.assign(x.mean(0))
    model.norm.moving_variance.assign(x.var(0))
    report = audit(model, x)
    assert codes(report) == ({expected} if expected else set())
    assert report.passed is (expected != "training-true")


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("trainable", [False, True])
def test_training_false_that_keras_ignores(nested, trainable, digits):
    """Keras 3 overrides a `training=False` of a functional model in fit(): a frozen backbone's averages move."""
    inputs, norm = keras.Input((64,)), layers.BatchNormalization(name="bn")
    if nested:
        inner = keras.Model(inputs, norm(inputs))
        outer = keras.Input((64,))
        model = keras.Model(outer, layers.Dense(3)(inner(outer, training=False)))
    else:
        model = keras.Model(inputs, layers.Dense(3)(norm(inputs, training=False)))
    calibrated(model, digits[0])
    norm.trainable = trainable
    report = audit(model, digits[0][:96])
    assert ("training-false-ignored" in codes(report)) is trainable
    # It is true:
    model.compile("sgd", "mse", run_eagerly=True)
    before = norm.moving_mean.numpy().copy()
    model.fit(digits[0][:64] + 1, np.zeros((64, 3)), verbose=0)
    assert np.array_equal(before, norm.moving_mean.numpy()) is not trainable


@pytest.mark.parametrize("how", [{"trainable": False}, {"freeze": "inference"}, {"freeze": "statistics"}], ids=str)
def test_a_frozen_layer(how, sound, digits):
    model = sound(kbn.BatchNormalization)
    for name in ("first", "second"):
        for key, value in how.items():
            setattr(model.get_layer(name), key, value)
    report = audit(model, digits[0], batch_size=100)
    assert report.findings == ()
    ((key, value),) = how.items()
    assert {row.mode for row in report.rows} == {f"{key}={value!r}"}
    model.get_layer("first").moving_mean.assign(ops.add(model.get_layer("first").moving_mean, 1.0))
    report = audit(model, digits[0], batch_size=100)
    assert ("frozen-averages-differ", "worth knowing") in severities(report)
    assert report.passed
    # It is not taken for one that the statistics of the data would not move.
    assert report.outputs[0].change == 0
    told = "with the statistics of the data (layers that do not train keep their averages) it moves by 0.0%"
    assert told in " ".join(str(report).split())
    assert "keep their averages" not in str(audit(sound(), digits[0], batch_size=100))


def test_an_updating_layer_among_frozen_ones(sound, digits):
    model = sound()
    for name in ("first_dense", "second_dense", "second"):
        model.get_layer(name).trainable = False
    report = audit(model, digits[0], batch_size=100)
    assert [(finding.code, finding.layer) for finding in report.findings] == [("updates-among-frozen", "first")]


@pytest.mark.parametrize("plant", ["gamma", "variance", "both"])
def test_dead_channels(plant, rng):
    x = rng.normal(size=(200, 6)).astype("float32")
    layer = layers.BatchNormalization(name="bn")
    model = keras.Sequential([keras.Input((6,)), layer])
    if plant != "gamma":
        x[:, 1] = 2.5
    if plant != "variance":
        layer.gamma.assign([1.0, 1.0, 1.0, 0.0, 1e-10, -1.0])
    report = audit(calibrated(model, x), x)
    expected = {"gamma": 2, "variance": 1, "both": 3}[plant]
    assert report.rows[0].dead == expected
    assert ("dead-channels", "worth knowing") in severities(report)
    layer.gamma.assign(np.zeros(6))
    assert ("dead-channels", "wrong") in severities(audit(model, x))


def test_a_relu_that_is_never_positive(sound, digits):
    model = sound()
    beta = model.get_layer("second").beta
    beta.assign(np.where(np.arange(32) < 4, -100.0, beta))
    report = audit(model, digits[0], batch_size=100)
    (finding,) = report.findings
    assert (finding.code, finding.layer) == ("silent-relu", "second")
    assert "In 4 of 32" in finding.what
    assert report.rows[0].silent == 0
    # Few examples agree too easily.
    assert audit(model, digits[0][:20], batch_size=10).rows[1].silent is None


def test_an_epsilon_that_dominates(rng):
    x = (rng.normal(size=(200, 6)) * 0.01).astype("float32")
    for epsilon, expected in ((1e-3, {"epsilon-dominates"}), (1e-6, set())):
        model = keras.Sequential([keras.Input((6,)), layers.BatchNormalization(epsilon=epsilon)])
        assert codes(audit(calibrated(model, x), x)) == expected


def test_a_bias_that_does_nothing(digits):
    model = calibrated(network(use_bias=True), digits[0])
    report = audit(model, digits[0][:256])
    biases = [finding for finding in report.findings if finding.code == "useless-bias"]
    assert [(finding.layer, finding.severity) for finding in biases] == [
        ("first", "worth knowing"),
        ("second", "worth knowing"),
    ]
    assert "'first_dense' (32 parameters)" in biases[0].what


@pytest.mark.parametrize("kind", ["activation", "branch", "axis", "relu between"])
def test_a_bias_that_does_something(kind, rng):
    inputs = keras.Input((4, 6))
    dense = layers.Dense(6, activation="relu" if kind == "activation" else None)
    tensor = middle = dense(inputs)
    if kind == "relu between":
        tensor = layers.ReLU()(tensor)
    tensor = layers.BatchNormalization(axis=1 if kind == "axis" else -1)(tensor)
    model = keras.Model(inputs, [tensor, middle] if kind == "branch" else tensor)
    x = rng.normal(size=(64, 4, 6)).astype("float32")
    assert codes(audit(calibrated(model, x), x)) == set()


def test_skipped_batches(sound, digits):
    model = sound(kbn.BatchNormalization)
    model(np.full((4, 64), np.nan, "float32"), training=True)
    assert ("batches-skipped", "worth knowing") in severities(audit(model, digits[0][:96]))


# --- kinds of models and data


@pytest.mark.parametrize("cls", CLASSES)
def test_channels_first_and_bias(cls, rng):
    inputs = keras.Input((3, 6, 6))
    dense = layers.Conv2D(4, 1, data_format="channels_first", name="conv")
    model = keras.Model(inputs, cls(axis=1, name="bn")(layers.Permute((3, 1, 2))(layers.Permute((2, 3, 1))(inputs))))
    x = (rng.normal(size=(60, 3, 6, 6)) + np.arange(3)[:, None, None]).astype("float32")
    layer = model.get_layer("bn")
    layer.moving_mean.assign([0.0, 1.0, 2.0])
    layer.moving_variance.assign([1.0, 1.0, 1.01])
    report = audit(model, x)
    assert report.findings == ()
    assert report.rows[0].channels == 3
    graph = keras.Model(inputs, cls(axis=1, name="bn")(dense(inputs)))
    from kbn.diagnostics.facts import _before
    from kbn.diagnostics.surroundings import surroundings

    norm = graph.get_layer("bn")
    assert _before(surroundings(graph)[norm].before, norm, True)["bias_of"] == "conv"


def test_nested_models_shared_layers_and_names_that_repeat(rng):
    def block():
        inputs = keras.Input((6,))
        return keras.Model(inputs, layers.BatchNormalization(name="norm")(layers.Dense(6, use_bias=False)(inputs)))

    shared, single = block(), block()
    inputs = keras.Input((6,))
    model = keras.Model(inputs, single(shared(shared(inputs))))
    x = rng.normal(size=(200, 6)).astype("float32")
    report = audit(model, x)
    assert len({row.layer for row in report.rows}) == 2
    assert all(row.layer.endswith("norm") for row in report.rows)
    assert [row.examples for row in report.rows] == [200, 200]
    assert codes(report) <= {"never-updated", "dead-channels"}


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("cls", CLASSES)
def test_mixed_precision(cls, policy, sound, digits):
    keras.config.set_dtype_policy(policy)
    try:
        model = sound(cls)
    finally:
        keras.config.set_dtype_policy("float32")
    report = audit(model, digits[0][:256], batch_size=100)
    assert report.findings == (), str(report)


def test_what_a_mask_hides_does_not_count(rng):
    x = rng.normal(2.0, 3.0, (200, 5, 4)).astype("float32")
    lengths = rng.integers(1, 6, 200)
    valid = np.arange(5) < lengths[:, None]
    x[~valid] = -9.0
    model = keras.Sequential([keras.Input((5, 4)), layers.Masking(-9.0), kbn.BatchNormalization(name="bn")])
    layer = model.get_layer("bn")
    layer.moving_mean.assign(x[valid].mean(0))
    layer.moving_variance.assign(x[valid].var(0))
    report = audit(model, x)
    assert report.rows[0].departure < 1e-5
    layer.moving_mean.assign(x.mean((0, 1)))
    layer.moving_variance.assign(x.var((0, 1)))
    assert "stale-averages" in codes(audit(model, x))


def test_data_of_every_kind(sound, digits):
    import tensorflow as tf

    model, x = sound(), digits[0][:128]
    expected = audit(model, x).rows[0].departure
    dataset = tf.data.Dataset.from_tensor_slices((x, digits[1][:128])).batch(32)

    class Batches:
        def __iter__(self):
            yield from ((x[:64], digits[1][:64]), (x[64:], digits[1][64:128]))

    for data in (dataset, Batches(), tf.constant(x), x.astype("float64")):
        assert audit(model, data).rows[0].departure == pytest.approx(expected, rel=1e-3)


def test_data_sorted_by_class_is_shuffled(sound, digits):
    order = np.argsort(digits[1])
    assert audit(sound(), digits[0][order], batch_size=100).findings == ()


def test_what_cannot_be_audited(sound, digits):
    model = sound()
    for data, message in (((each for each in [digits[0]]), "only one pass"), (digits[0][:0], "must hold a batch"),
                          (None, "must be arrays of inputs, or a dataset of batches. Received: None")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            audit(model, data)
    with pytest.raises(ValueError, match="must be a Keras model"):
        audit(print, digits[0])
    with pytest.raises(ValueError, match="is not built"):
        audit(keras.Sequential([layers.BatchNormalization()]), digits[0])
    for name in ("batch_size", "steps"):
        with pytest.raises(ValueError, match=f"`{name}`"):
            audit(model, digits[0], **{name: 0})


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("convolutional", [False, True])
def test_few_examples_are_no_ground_for_a_verdict(convolutional, size, sound, digits):
    model, x = sound(), digits[0]
    if convolutional:
        x = x.reshape(-1, 8, 8, 1)
        model = keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                layers.Conv2D(4, 3, use_bias=False),
                layers.BatchNormalization(name="bn"),
                layers.ReLU(),
            ]
        )
        kbn.recalibrate(model, x, verbose=0)
    report = audit(model, np.zeros_like(x[:size]), batch_size=100)
    assert report.findings == ()
    assert report.outputs == ()
    for row in report.rows:
        assert row.examples == size
        for name in ("departure", "allowed", "batch_noise", "elements", "dead", "below_epsilon", "silent"):
            assert getattr(row, name) is None, name
    assert any("Too few examples" in note for note in report.notes)


class Again:
    """Batches, from the start each time."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


@pytest.mark.parametrize("kind", ["array", "dataset", "iterable", "several"])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_data_that_is_not_finite_is_refused(kind, value, sound, digits):
    import tensorflow as tf

    model, x = sound(), digits[0][:128].copy()
    x[100, 3:5] = value
    told = "2 of 8,192 numbers are"
    data = x
    if kind in ("dataset", "iterable"):
        data = tf.data.Dataset.from_tensor_slices((x, x)).batch(64)
        data = data if kind == "dataset" else Again(data)
        told = "2 of 4,096 numbers are"
    if kind == "several":
        inputs = {name: keras.Input((64,), name=name) for name in ("good", "bad")}
        model = keras.Model(inputs, layers.BatchNormalization()(layers.Add()(list(inputs.values()))))
        data, told = {"good": digits[0][:128], "bad": x}, "2 of 8,192 numbers of input bad are"
    before = model.get_weights()
    with pytest.raises(ValueError, match=f"`data` must hold finite numbers alone.*Received: {told} NaN or infinite"):
        audit(model, data)
    for new, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(new, old)
    assert not any("call" in vars(layer) for layer in model.layers)


def test_a_model_without_batch_normalization(digits):
    report = audit(keras.Sequential([keras.Input((64,)), layers.Dense(2)]), digits[0][:8])
    assert report.passed
    assert "no batch normalization" in str(report)
    assert "output" not in str(report)


# --- the report


def test_the_report_reads_as_text(digits):
    report = audit(network(), digits[0][:100], batch_size=100)
    text = str(report)
    assert text.startswith("FAILED: 2 batch normalizations, 100 examples: 2 wrong")
    for words in ("wrong: never-updated in first", "So in second.", "-> Load", "output classes"):
        assert words in text
    assert max(map(len, text.splitlines())) <= 110
    shown = io.StringIO()
    Console(width=200, file=shown).print(report)
    assert [line.rstrip() for line in shown.getvalue().splitlines()] == text.splitlines()


def test_the_facade():
    assert {"AuditReport", "Finding", "audit"} <= set(dir(kbn.diagnostics))
    with pytest.raises(AttributeError, match="no attribute 'auditor'"):
        _ = kbn.diagnostics.auditor
