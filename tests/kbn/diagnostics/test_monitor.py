"""The monitor on real trainings: its numbers against float64 references, and that it changes nothing."""

from itertools import pairwise

import keras
import numpy as np
import pytest
from keras import layers

import kbn
from kbn.diagnostics import ShiftMonitor, ShiftRecord, measures, moments

BOTH = pytest.mark.parametrize("layer", [kbn.BatchNormalization, layers.BatchNormalization], ids=["kbn", "keras"])


def data(size=48, seed=0):
    random = np.random.default_rng(seed)
    x = random.normal([1.0, -3.0, 40.0], [1.0, 2.0, 3.0], (size, 5, 3)).astype("float32")
    return x, random.normal(size=(size, 1)).astype("float32")


def network(*middle, shape=(5, 3)):
    model = keras.Sequential([keras.Input(shape), *middle, layers.Flatten(), layers.Dense(1)])
    model.compile(keras.optimizers.SGD(1e-3), "mse")
    return model


def watch(model, x, y, epochs=1, **options):
    monitor = ShiftMonitor(options.pop("probe", x), batch_size=16, **{"every": 2, **options})
    model.fit(x, y, batch_size=16, epochs=epochs, shuffle=False, verbose=0, callbacks=[monitor])
    return monitor


@BOTH
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_the_numbers_of_a_sample(layer, policy, rng):
    x, y = data()
    with_policy = {"dtype": policy}
    model = network(layer(name="bn", momentum=0.9, **with_policy), layers.ReLU(name="relu", **with_policy))
    bn = model.get_layer("bn")
    gamma, beta, mean, variance = (rng.uniform(0.5, 2.0, 3) for _ in range(4))
    for variable, value in zip(bn.weights, (gamma, beta, mean, variance), strict=True):
        variable.assign(value)
    record = watch(model, x, y, epochs=1).record
    taken = x.astype("float64")
    if policy != "float32":
        taken = np.asarray(keras.ops.cast(keras.ops.cast(x, "bfloat16"), "float64"))
    parts = taken.reshape(3, 80, 3)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if policy == "float32" else {"rtol": 2e-2, "atol": 2e-2}

    def first(name):
        return record.values(f"channels/{name}")[0]

    assert np.allclose(first("before/mean"), taken.mean((0, 1)), rtol=1e-6, atol=1e-6)
    assert np.allclose(first("before/variance"), taken.var((0, 1)), rtol=1e-5)
    assert np.allclose(first("before/mean_spread"), parts.mean(1).var(0, ddof=1), rtol=1e-4)
    assert np.allclose(first("before/deviation_spread"), parts.std(1).var(0, ddof=1), rtol=1e-3)
    trained = (parts - parts.mean(1, keepdims=True)) / np.sqrt(parts.var(1, keepdims=True) + 1e-3) * gamma + beta
    inferred = (parts - mean) / np.sqrt(variance + 1e-3) * gamma + beta
    assert np.allclose(first("normalized/mean"), trained.mean((0, 1)), **tolerance)
    assert np.allclose(first("normalized/variance"), trained.var((0, 1)), **tolerance)
    assert np.allclose(first("activated/mean"), np.maximum(trained, 0).mean((0, 1)), **tolerance)
    assert np.allclose(first("flat"), (trained <= 0).mean((0, 1)), atol=1e-6 if policy == "float32" else 0.02)
    apart = np.sqrt(((trained - inferred) ** 2).mean((0, 1)))
    assert np.allclose(first("gap"), apart, rtol=1e-4 if policy == "float32" else 2e-2)
    assert np.isclose(record.values("points/gap")[0, 0], np.sqrt((apart**2).mean()) / trained.std(), rtol=0.15)
    levels = np.quantile(trained, [0.25, 0.5, 0.75])
    assert np.allclose(record.values("quantiles/normalized")[0, 0, [16, 32, 48]], levels, atol=0.15)
    (point,) = record.points
    assert point == ("bn", "batch normalization", 3, bn.epsilon, "relu", None, ("before", "normalized", "activated"))


def noisy(layer):
    return network(layers.GaussianNoise(0.1), layer(), layers.Dropout(0.3), layers.ReLU())


@BOTH
def test_training_ends_as_without_the_monitor(layer):
    x, y = data()
    found = []
    for options in (None, {"every": 1}):
        keras.utils.set_random_seed(3)
        model = noisy(layer)
        model.compile(keras.optimizers.Adam(1e-2), "mse", metrics=["mae"])
        callbacks = [] if options is None else [ShiftMonitor(x, batch_size=16, **options)]
        history = model.fit(x, y, batch_size=16, epochs=2, verbose=0, callbacks=callbacks)
        state = [*model.variables, *model.optimizer.variables]
        found.append([*(keras.ops.convert_to_numpy(each) for each in state), *history.history["loss"], *history.history["mae"],
                      keras.random.normal((2,)).numpy()])  # fmt: skip
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))


def test_the_model_is_as_it_was_after_an_error():
    x, y = data()
    model = network(
        layers.Dense(4, activation="relu", name="own"), kbn.BatchNormalization(name="bn"), layers.ReLU(name="relu")
    )
    with pytest.raises(
        ValueError, match=r"must hold inputs that the model takes. Received: batches of shape \(16, 5, 4\)"
    ):
        watch(model, x, y, probe=np.ones((16, 5, 4)))
    watch(model, x, y, layers=["bn", "own"])
    for name in ("bn", "relu", "own"):
        assert "call" not in vars(model.get_layer(name))
    assert model.get_layer("own").activation is keras.activations.relu


def test_steps_and_drift():
    x, y = data(80)
    model = network(layers.Dense(4), kbn.BatchNormalization(name="bn"))
    moving = [keras.ops.convert_to_numpy(model.layers[0].kernel)]

    class Keep(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            moving.append(keras.ops.convert_to_numpy(model.layers[0].kernel))

    monitor = ShiftMonitor(x[:32], batch_size=16, every=3)
    model.fit(x, y, batch_size=16, epochs=2, verbose=0, shuffle=False, callbacks=[Keep(), monitor])
    assert list(monitor.record.steps) == [0, 3, 6, 9, 10]
    inputs = [x[:32].astype("float64") @ moving[step] for step in monitor.record.steps]
    expected = [0.0]
    for before, after in pairwise(inputs):
        shift = after.std((0, 1)) - before.std((0, 1))
        expected.append(np.sqrt((shift**2).sum() / before.var((0, 1)).sum()))
    variance = monitor.record.values("channels/before/variance")
    found = [moments.of_layer((np.sqrt(b) - np.sqrt(a)) ** 2, a) for a, b in pairwise(variance)]
    assert np.allclose(found, expected[1:], rtol=2e-3, atol=1e-6)
    assert (measures.drift(monitor.record)[1:, 0] >= np.array(found) - 1e-9).all()


def test_several_steps_in_one_execution_and_a_second_fit():
    x, y = data(96)
    model = network(kbn.BatchNormalization(name="first"))
    model.compile("sgd", "mse", steps_per_execution=2)
    monitor = ShiftMonitor(x[:32], batch_size=16, every=2)
    model.fit(x, y, batch_size=16, epochs=1, verbose=0, callbacks=[monitor])
    model.fit(x, y, batch_size=16, epochs=1, verbose=0, callbacks=[monitor])
    assert list(monitor.record.steps) == [0, 2, 4, 6, 8, 10, 12]
    for names, told in (
        (["second", "third"], "without first; with second, third"),
        (["first", "second"], "with second; of another kind or size in first"),
    ):
        other = network(layers.Dense(2), *(kbn.BatchNormalization(name=name) for name in names))
        with pytest.raises(ValueError, match=f"record of another model; .* Received: a model {told}$"):
            other.fit(x, y, verbose=0, callbacks=[monitor])


@pytest.mark.parametrize("name", ["relu", "sigmoid", "tanh"])
@pytest.mark.parametrize("form", ["layer", "argument", "operation"])
def test_without_batch_normalization(name, form):
    """Watched are the activations, whatever their form, at what goes into them."""
    x, y = data()
    inputs = keras.Input((5, 3))
    dense = layers.Dense(4, activation=name if form == "argument" else None, name="unit")
    h = dense(inputs)
    if form == "layer":
        h = layers.Activation(name, name="act")(h)
    elif form == "operation":
        h = getattr(keras.ops, name)(h)
    model = keras.Model(inputs, layers.Dense(1)(layers.Flatten()(h)))
    model.compile("sgd", "mse")
    # One unit is dead or saturated for good, one never.
    dense.bias.assign([-1e3, 1e3 if name == "relu" else 0.0, 0.0, 0.0])
    kernel = keras.ops.convert_to_numpy(dense.kernel) * [1, 1, 0.01, 0.01]
    dense.kernel.assign(kernel)
    record = watch(model, x, y).record
    (point,) = record.points
    assert (point.kind, point.channels, point.activation, point.sites) == (
        "activation",
        4,
        name,
        ("before", "activated"),
    )
    before = x.astype("float64") @ kernel + keras.ops.convert_to_numpy(dense.bias)
    before = x.astype("float64") @ kernel + [-1e3, 1e3 if name == "relu" else 0.0, 0.0, 0.0]
    assert np.allclose(record.values("channels/before/mean")[0], before.mean((0, 1)), rtol=1e-5, atol=1e-5)
    after = np.asarray(getattr(keras.ops, name)(before), "float64")
    assert np.allclose(record.values("channels/activated/variance")[0], after.var((0, 1)), rtol=1e-3, atol=1e-6)
    assert record.values("channels/flat")[0, 0] == 1.0
    assert measures.dead(record)[0, 0] >= 0.25
    assert np.isnan(record.values("seen/effective")).all()


def test_planted_dead_channels_and_those_near_epsilon():
    x, y = data()
    x[..., 1] = 0.5 + 1e-3 * np.random.default_rng(1).normal(size=x.shape[:2])
    bn = kbn.BatchNormalization(name="bn")
    model = network(bn, layers.ReLU())
    bn.beta.assign([-100.0, 0.0, 0.0])
    record = watch(model, x, y).record
    assert np.allclose(measures.dead(record)[0], 1 / 3)
    assert np.allclose(measures.near_epsilon(record)[0], 1 / 3)
    assert measures.expected_flat(record)[0, 0] == pytest.approx((1 + 0.5 + 0.5) / 3, abs=1e-3)


def test_a_relu_with_a_bound_and_a_leaky_one():
    x, y = data()
    model = network(
        kbn.BatchNormalization(),
        layers.ReLU(max_value=1.0),
        kbn.BatchNormalization(),
        layers.LeakyReLU(),
        layers.Dense(2),
    )
    record = watch(model, x, y).record
    assert [(point.activation, point.bound) for point in record.points] == [("relu", 1.0), ("leaky_relu", None)]
    h = x.astype("float64").reshape(3, 80, 3)
    h = (h - h.mean(1, keepdims=True)) / np.sqrt(h.var(1, keepdims=True) + 1e-3)
    assert np.allclose(record.values("channels/flat")[0, :3], ((h <= 0) | (h >= 1)).mean((0, 1)), atol=1e-3)
    assert np.isnan(record.values("channels/flat")[0, 3:]).all()


def test_channels_first(rng):
    x = rng.normal([[[1.0]], [[2.0]]], [[[3.0]], [[1.0]]], (32, 2, 3, 4)).astype("float32")
    model = network(kbn.BatchNormalization(axis=1), layers.ReLU(), shape=(2, 3, 4))
    record = watch(model, x, np.zeros((32, 1))).record
    assert record.points[0].channels == 2
    assert np.allclose(record.values("channels/before/mean")[0], x.mean((0, 2, 3)), rtol=1e-4)
    assert np.allclose(record.values("channels/activated/mean")[0], 0.4, atol=0.1)


@BOTH
def test_what_a_mask_hides_does_not_count(layer):
    x, y = data()
    mask = np.arange(5) < np.random.default_rng(0).integers(1, 6, len(x))[:, None]
    x = np.where(mask[..., None], x, 0).astype("float32")
    model = keras.Sequential([keras.Input((5, 3)), layers.Masking(), layer(name="bn"), layers.GlobalAveragePooling1D()])
    model.compile("sgd", "mse")
    record = watch(model, x, y).record
    kept = x[mask].astype("float64")
    assert np.allclose(record.values("channels/before/mean")[0], kept.mean(0), rtol=1e-5)
    assert np.allclose(record.values("channels/before/variance")[0], kept.var(0), rtol=1e-4)
    assert np.allclose(record.values("quantiles/before")[0, 0, [0, -1]], [kept.min(), kept.max()], atol=5)


def test_shared_nested_and_subclassed():
    class Block(keras.Model):
        def __init__(self, shared):
            super().__init__(name="block")
            self.shared, self.act = shared, layers.Activation("relu")
            self.inner = keras.Sequential([keras.Input((5, 3)), kbn.BatchNormalization(name="bn")])

        def call(self, x, training=False):
            x = self.act(self.shared(x, training=training))
            return self.shared(self.inner(x, training=training) + x, training=training)

    x, y = data()
    model = network(Block(layers.BatchNormalization(name="bn")))
    record = watch(model, x, y).record
    assert [point.name for point in record.points] == ["bn, call 1", "bn (2)", "bn, call 2"]
    assert [point.activation for point in record.points] == ["relu", None, None]
    assert list(record.values("seen/updates")[-1]) == [6, 3, 6]
    assert not np.allclose(record.values("channels/before/mean")[0, :3], record.values("channels/before/mean")[0, 6:])


def test_the_activation_after_a_sum():
    inputs = keras.Input((5, 3))
    h = layers.BatchNormalization(name="last")(inputs)
    h = layers.ReLU()(layers.Add()([h, layers.BatchNormalization(name="shortcut")(inputs)]))
    model = keras.Model(inputs, layers.Dense(1)(layers.Flatten()(h)))
    model.compile("sgd", "mse")
    record = watch(model, *data()).record
    assert [point.activation for point in record.points] == ["relu", "relu"]
    after = record.values("channels/activated/mean")
    assert np.array_equal(after[:, :3], after[:, 3:])


def test_frozen_layers_have_no_gap_and_see_nothing():
    x, y = data()
    still = kbn.BatchNormalization(freeze="statistics", name="still")
    fixed = layers.BatchNormalization(trainable=False, name="fixed")
    record = watch(network(still, fixed, layers.BatchNormalization(name="free")), x, y).record
    assert np.array_equal(measures.gap(record)[:, :2], np.zeros((len(record), 2)))
    assert (measures.gap(record)[:, 2] > 0).all()
    assert list(record.values("seen/updates")[-1]) == [0, 0, 3]


def test_what_the_averages_hold():
    x, y = data()
    x[16] = np.nan  # the second of three batches changes no average of kbn's layer
    cumulative, plain = kbn.BatchNormalization(momentum=None), layers.BatchNormalization(momentum=0.9)
    model = network(cumulative)
    record = watch(model, x, y, probe=x[:16]).record
    assert record.values("seen/effective")[-1, 0] == pytest.approx(2)
    assert (keras.ops.convert_to_numpy(cumulative.moving_weight) == 2).all()
    x, y = data()
    record = watch(network(plain), x, y, epochs=2).record
    weights = 0.1 * 0.9 ** np.arange(6)
    assert record.values("seen/weight")[-1, 0] == pytest.approx(weights.sum())
    assert record.values("seen/effective")[-1, 0] == pytest.approx(weights.sum() ** 2 / (weights**2).sum())


def test_several_inputs_and_chosen_layers():
    one, two = keras.Input((3,), name="one"), keras.Input((2,), name="two")
    h = layers.Concatenate()([layers.BatchNormalization(name="a")(one), layers.BatchNormalization(name="b")(two)])
    model = keras.Model({"one": one, "two": two}, layers.Dense(1, activation="sigmoid", name="out")(h))
    model.compile("sgd", "mse")
    x = {name: np.random.default_rng(0).normal(size=(16, size)) for name, size in (("one", 3), ("two", 2))}
    monitor = ShiftMonitor(x, batch_size=8, layers=["b", "out"])
    model.fit(x, np.zeros((16, 1)), verbose=0, callbacks=[monitor])
    assert [(point.name, point.channels) for point in monitor.record.points] == [("b", 2), ("out", 1)]
    with pytest.raises(ValueError, match=r"Received: 'c'; there are 'a', 'b', 'out'"):
        model.fit(x, np.zeros((16, 1)), verbose=0, callbacks=[ShiftMonitor(x, layers=["c"])])


def test_no_more_samples_than_wanted():
    x, y = data(320)
    record = watch(network(kbn.BatchNormalization()), x, y, probe=x[:16], every=1, keep=6, epochs=2).record
    assert len(record) <= 6
    assert record.steps[0] == 0
    assert record.steps[-1] == 40
    assert np.isnan(record.values("channels/before/mean_spread")).all()


def test_the_default_goes_by_the_budget():
    x, y = data(320)
    monitor = watch(network(kbn.BatchNormalization()), x, y, every=None, epochs=2)
    # Compiling the probe has cost more than this training can pay for.
    assert list(monitor.record.steps) == [0, 40]
    assert 0 < monitor.record.spent < monitor.record.seconds[-1]


def test_file_and_events(tmp_path):
    import tensorflow as tf

    with pytest.raises(ValueError, match="Received: _TensorDataset"):
        ShiftMonitor(tf.data.Dataset.from_tensors(1.0))
    x, y = data()
    model = network(kbn.BatchNormalization(name="bn"), layers.ReLU())
    monitor = watch(model, x, y, path=tmp_path / "run.npz", log_dir=tmp_path / "logs")
    back = ShiftRecord.load(tmp_path / "run.npz")
    assert np.array_equal(back.steps, monitor.record.steps)
    (file,) = (tmp_path / "logs").iterdir()
    found = {}
    for event in tf.compat.v1.train.summary_iterator(str(file)):
        for value in event.summary.value:
            found[value.tag, event.step] = value.metadata.plugin_data.plugin_name, tf.make_ndarray(value.tensor)
    assert found["variation/bn", 0][0] == "scalars"
    assert found["variation/bn", 0][1] == pytest.approx(measures.variation(monitor.record)[0, 0], rel=1e-6)
    assert found["drift/bn", 3][1] == pytest.approx(measures.drift(monitor.record)[-1, 0], rel=1e-6)
    assert ("drift/bn", 0) not in found
    plugin, histogram = found["activated/bn", 3]
    assert plugin == "histograms"
    assert histogram.shape == (30, 3)
    assert histogram[:, 2].sum() == pytest.approx(100)


def test_nothing_to_show_yet():
    monitor = ShiftMonitor(np.ones((4, 3)))
    with pytest.raises(ValueError, match="recorded nothing yet"):
        monitor.plot("drift")
    with pytest.raises(ValueError, match="recorded nothing yet"):
        monitor.report("page.html")


@pytest.mark.parametrize("options", [{"probe": data()[0][:1, 0]}, {"batch_size": 1}], ids=str)
def test_of_one_example_there_is_no_gap_in_standard_deviations(options, tmp_path):
    x, y = data()[0][:, 0], data()[1]
    monitor = ShiftMonitor(**{"probe": x[:4], **options}, every=1)
    constant = kbn.BatchNormalization(center=False)
    network(constant, layers.ReLU(), shape=(3,)).fit(x, y, verbose=0, callbacks=[monitor])
    assert list(monitor.record.steps) == [0, 1, 2]
    assert np.isnan(measures.model_gap(monitor.record)).all()
    assert not np.isfinite(measures.gap(monitor.record)).any()
    monitor.report(tmp_path / "page.html")
    assert "whole model up to the layer" not in (tmp_path / "page.html").read_text()
    with pytest.raises(ValueError, match="nothing to show of 'model_gap': no sample has a finite number of it"):
        monitor.plot("model_gap")


@pytest.mark.parametrize(("scale", "known"), [(np.nan, False), (np.inf, False), (1e30, True)])
def test_a_training_that_diverges_is_told(scale, known, tmp_path):
    """Of 1e30 the squares alone are infinite."""
    x, y = data()
    model = network(
        layers.Dense(4), layers.BatchNormalization(name="bn"), layers.ReLU(), layers.Dense(2, "relu", name="head")
    )

    class Diverge(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                model.layers[0].kernel.assign(np.full((3, 4), scale))

    monitor = ShiftMonitor(x[:32], batch_size=16, every=1, layers=["bn", "head"])
    model.fit(x, y, batch_size=16, epochs=1, verbose=0, callbacks=[Diverge(), monitor])
    since = measures.not_finite_since(monitor.record)
    assert since[0] == 2
    for name in ("flat", "dead"):
        values = measures.measured(monitor.record, name)[:, 0]
        assert list(np.isfinite(values)) == [True, True, known, known]
    monitor.report(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert '<p class="lead bad">Not finite since step 2: bn' in text
    assert "Hatched: there is no such number, or it is not finite." in text


def unbuilt(kind):
    if kind == "sequential":
        return keras.Sequential(
            [layers.Dense(4), kbn.BatchNormalization(), layers.GaussianNoise(0.1), layers.Flatten(), layers.Dense(1)]
        )

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.drop = layers.Dense(4), kbn.BatchNormalization(), layers.Dropout(0.3)
            self.flat, self.last = layers.Flatten(), layers.Dense(1)

        def call(self, x, training=False):
            x = self.norm(self.first(x), training=training)
            return self.last(self.flat(self.drop(x, training=training)))

    return Net()


@pytest.mark.parametrize("kind", ["sequential", "subclass"])
def test_a_model_that_is_not_built_trains_as_without_the_monitor(kind):
    x, y = data(50)
    found = []
    for watched in (False, True):
        keras.utils.set_random_seed(3)
        model = unbuilt(kind)
        model.compile("adam", "mse")
        monitor = ShiftMonitor(x, batch_size=16, every=1)
        history = model.fit(x, y, batch_size=16, epochs=2, verbose=0, callbacks=[monitor] if watched else [])
        assert model.get_build_config()["input_shape"] == (None, 5, 3)
        state = [*model.variables, *model.optimizer.variables]
        found.append(
            [*map(keras.ops.convert_to_numpy, state), *history.history["loss"], keras.random.normal((2,)).numpy()]
        )
    assert len(monitor.record) == 9
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))


def test_a_probe_that_an_unbuilt_model_does_not_take():
    model = keras.Sequential([layers.Conv2D(2, 3), kbn.BatchNormalization(), layers.Flatten(), layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"must hold inputs that the model takes. Received: batches of shape \(4, 3\)"):
        model.fit(np.ones((8, 6, 6, 1)), np.ones((8, 1)), verbose=0, callbacks=[ShiftMonitor(np.ones((4, 3)))])


@pytest.mark.parametrize("where", ["file", "file/within"])
def test_a_log_dir_that_cannot_be_made(tmp_path, where):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Argument `log_dir` must be a folder that can be made and written to"):
        ShiftMonitor(np.ones((4, 3)), log_dir=tmp_path / where)


def test_a_training_without_steps(tmp_path):
    model = network(kbn.BatchNormalization())
    monitor = ShiftMonitor(data()[0], batch_size=16)
    model.fit(*data(), epochs=0, verbose=0, callbacks=[monitor])
    assert list(monitor.record.steps) == [0]
    with pytest.raises(ValueError, match="needs 2 samples, and the record has 1: train longer"):
        monitor.plot("drift")
    monitor.report(tmp_path / "page.html")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"probe": np.ones((0, 3))}, "`probe` must be an array"),
        ({"probe": [np.ones((4, 3)), np.ones((5, 3))]}, "`probe` must be an array"),
        ({"probe": 3.0}, "`probe` must be an array"),
        ({"probe": None}, "Received: NoneType"),
        ({"probe": (each for each in [1.0])}, r"Of a dataset, take the inputs of a few batches\. Received: generator"),
        ({"probe": {"a": np.ones(4), "b": np.array(["x"] * 4)}}, "Received: {'a': 'ndarray', 'b': 'ndarray'}"),
        ({"probe": np.full((4, 3), np.nan)}, "finite numbers alone. Received: 12 of 12 numbers"),
        ({"probe": [np.ones((4, 3)), np.where(np.eye(4), np.inf, 0.0)]}, r"Received: \['0 of 12', '4 of 16'\] numbers"),
        ({"every": 0}, "`every` must be a positive integer"),
        ({"batch_size": -1}, "`batch_size` must be a positive integer"),
        ({"budget": 0}, "`budget` must be a number above 0"),
        ({"keep": 3}, "`keep` must be an integer of at least 4"),
        ({"layers": "bn"}, "`layers` must be a list of names"),
        ({"path": "run.txt"}, r"ends in \.npz"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        ShiftMonitor(**{"probe": np.ones((4, 3)), **arguments})


def test_nothing_to_watch():
    x, y = data()
    with pytest.raises(ValueError, match="nothing to watch: no batch normalization, and no activation"):
        watch(network(layers.Dense(3)), x, y)
