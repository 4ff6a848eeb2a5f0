"""Recalibration against float64 statistics of whole data sets. Needs TensorFlow as Keras' backend."""

import contextlib
import functools
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import kbn

CLASSES = [kbn.BatchNormalization, layers.BatchNormalization]
recalibrate = functools.partial(kbn.recalibrate, verbose=0)


@pytest.fixture
def data(rng):
    """37 examples: two batches of 16 and a short one, which differs from them."""
    x = rng.normal(0.0, 2.0, (37, 6)) + rng.normal(0.0, 3.0, 6)
    x[32:] = 3.0 * x[32:] - 4.0
    return x.astype("float32")


@contextlib.contextmanager
def warns(message):
    with contextlib.ExitStack() as stack:
        stack.enter_context(pytest.warns(UserWarning, match=message))
        # TensorFlow's and Keras' own, which pytest would raise again, without the modules by which we ignore them.
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def random_weights(model, rng):
    for weight in model.weights:
        value = rng.normal(size=weight.shape)
        weight.assign(np.abs(value) + 0.1 if "variance" in weight.name or "stddev" in weight.name else value)
    return model


def values(model):
    return [variable.numpy().copy() for variable in model.variables]


def assert_unchanged(model, before):
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value, err_msg=variable.path)


def assert_averages(layer, mean, variance, tolerance=1e-6):
    """Means are judged against the standard deviations."""
    assert np.all(np.abs(layer.moving_mean.numpy() - mean) <= tolerance * (np.sqrt(variance) + np.abs(mean)))
    np.testing.assert_allclose(layer.moving_variance.numpy(), variance, rtol=tolerance)


def assert_population(layer, x, tolerance=1e-6):
    """The layer has the statistics of x, whose channels are on the last axis."""
    x = np.asarray(x, "float64").reshape(-1, np.shape(x)[-1])
    assert_averages(layer, x.mean(0), x.var(0), tolerance)


def network(cls, rng, **extra):
    """Normalizations between layers that a float64 reference follows easily."""
    stack = [
        keras.Input((6,)),
        cls(name="first", **extra),
        layers.Dense(8, activation="relu"),
        layers.Dropout(0.5, seed=3),
        cls(name="second", epsilon=1e-2, **extra),
        layers.Dense(4, activation="relu"),
        cls(name="third", **extra),
    ]
    return random_weights(keras.Sequential(stack), rng)


def normalised(layer, x, mean, variance):
    scale = 1.0 if layer.gamma is None else layer.gamma.numpy().astype("float64")
    shift = 0.0 if layer.beta is None else layer.beta.numpy().astype("float64")
    return (x - mean) / np.sqrt(variance + layer.epsilon) * scale + shift


def inputs_of_normalizations(model, batches, known):
    """float64: what each normalization of a Sequential model is given, normalising with `known` or else by batch."""
    found = {}
    for x in batches:
        for layer in model.layers:
            if isinstance(layer, tuple(CLASSES)):
                found.setdefault(layer.name, []).append(x)
                x = normalised(layer, x, *known.get(layer.name, (x.mean(0), x.var(0))))
            elif isinstance(layer, layers.Dense):
                x = np.maximum(x @ layer.kernel.numpy().astype("float64") + layer.bias.numpy(), 0)
    return {name: np.concatenate(parts) for name, parts in found.items()}


def batches_of(x, size=16):
    return [x[start : start + size].astype("float64") for start in range(0, len(x), size)]


# --- exact population statistics


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize(
    ("shape", "axis"), [((37, 5), -1), ((37, 4, 3, 5), -1), ((37, 5, 3, 4), 1), ((37, 4, 5, 3, 2), 2), ((37, 9, 5), 2)]
)
def test_one_layer_gets_the_statistics_of_the_data(cls, shape, axis, rng):
    layer = cls(axis=axis)
    layer.build(shape)
    random_weights(layer, rng)
    before = {id(weight): weight.numpy() for weight in layer.weights}
    x = (rng.normal(-1.0, 2.0, shape) * rng.uniform(0.1, 5.0, (37,) + (1,) * (len(shape) - 1))).astype("float32")
    done = recalibrate(layer, x, batch_size=16)
    assert_population(layer, np.moveaxis(x, axis, -1))
    for weight in (layer.gamma, layer.beta):
        np.testing.assert_array_equal(weight.numpy(), before[id(weight)])
    assert (done.layers, done.steps, done.examples, done.left_alone) == ([layer.name], 3, 37, ())
    (change,) = done.changes
    np.testing.assert_array_equal(change.old_mean, before[id(layer.moving_mean)])
    np.testing.assert_array_equal(change.old_variance, before[id(layer.moving_variance)])
    np.testing.assert_array_equal(change.new_mean, layer.moving_mean.numpy())
    np.testing.assert_array_equal(change.new_variance, layer.moving_variance.numpy())
    np.testing.assert_array_equal(change.elements, np.full(5, x.size / 5))
    assert change.skipped == 0


@pytest.mark.parametrize("cls", CLASSES)
def test_one_pass_normalises_by_batch(cls, data, rng):
    model = network(cls, rng)
    expected = inputs_of_normalizations(model, batches_of(data), {})
    done = recalibrate(model, data, batch_size=16)
    assert done.layers == ["first", "second", "third"]
    for name, x in expected.items():
        assert_population(model.get_layer(name), x, 3e-6)


@pytest.mark.parametrize("cls", CLASSES)
def test_layer_by_layer_uses_the_new_averages(cls, data, rng):
    model = network(cls, rng)
    known = {}
    for name in ("first", "second", "third"):
        x = inputs_of_normalizations(model, batches_of(data), known)[name]
        known[name] = x.mean(0), x.var(0)
    done = recalibrate(model, data, batch_size=16, layer_by_layer=True)
    assert (done.layers, done.steps, done.examples) == (["first", "second", "third"], 3, 37)
    for name, (mean, variance) in known.items():
        assert_averages(model.get_layer(name), mean, variance, 3e-6)


@pytest.mark.parametrize("cls", CLASSES)
def test_layer_by_layer_is_a_fixed_point_of_inference(cls, data, rng):
    """Each layer holds the statistics of what inference gives it; after one pass, only the first does."""
    model = network(cls, rng)
    watch = keras.Model(model.inputs, [model.get_layer(name).input for name in ("first", "second", "third")])
    recalibrate(model, data, batch_size=16, layer_by_layer=True)
    for name, x in zip(("first", "second", "third"), watch.predict(data, verbose=0), strict=True):
        assert_population(model.get_layer(name), x, 1e-5)
    before = values(model)
    recalibrate(model, data, batch_size=16, layer_by_layer=True)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_allclose(variable.numpy(), value, rtol=1e-5, atol=1e-6)
    recalibrate(model, data, batch_size=16)
    x = watch.predict(data, verbose=0)[1].astype("float64")
    assert np.max(np.abs(model.get_layer("second").moving_variance.numpy() / x.var(0) - 1)) > 0.01


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16", "float64"])
@pytest.mark.parametrize("cls", CLASSES)
def test_dtype_policies(cls, policy, data, rng):
    if policy == "bfloat16" and cls is layers.BatchNormalization:
        pytest.skip("Keras' layer keeps its averages in bfloat16, where they are never exact")
    layer = cls(dtype=policy)
    layer.build(data.shape)
    x = tf.cast(data, layer.compute_dtype)
    done = recalibrate(keras.Sequential([keras.Input((6,), dtype=layer.compute_dtype), layer]), x, batch_size=16)
    # A float64 layer has exact inputs and averages.
    assert_population(layer, tf.cast(x, "float64").numpy(), 1e-13 if policy == "float64" else 1e-6)
    done.undo()
    np.testing.assert_array_equal(layer.moving_variance.numpy(), np.ones(6))


def test_the_inputs_of_later_layers_have_the_compute_dtype(data, rng):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = network(kbn.BatchNormalization, rng)
    finally:
        keras.config.set_dtype_policy("float32")
    expected = inputs_of_normalizations(model, batches_of(data), {})
    recalibrate(model, data, batch_size=16)
    for name, x in expected.items():
        assert_population(model.get_layer(name), x, 5e-3)


def test_unbiased_takes_the_size_of_the_population(data):
    layer = kbn.BatchNormalization(unbiased=True)
    recalibrate(layer, data, batch_size=16)
    assert_averages(layer, data.astype("float64").mean(0), data.astype("float64").var(0, ddof=1))


@pytest.mark.parametrize(("cls", "extra"), [*((cls, {}) for cls in CLASSES), (CLASSES[0], {"unbiased": True})])
def test_renorm_gets_all_its_averages(cls, extra, data, rng):
    layer = cls(renorm=True, **extra)
    layer.build(data.shape)
    random_weights(layer, rng)
    before = values(layer)
    done = recalibrate(layer, data, batch_size=16)
    x = data.astype("float64")
    shown = x.var(0, ddof=1 if extra else 0)
    assert_averages(layer, x.mean(0), shown)
    np.testing.assert_allclose(layer.moving_stddev.numpy(), np.sqrt(shown + layer.epsilon), rtol=1e-6)
    np.testing.assert_allclose(layer.renorm_stddev.numpy(), np.sqrt(x.var(0) + layer.epsilon), rtol=1e-6)
    np.testing.assert_array_equal(layer.renorm_mean.numpy(), layer.moving_mean.numpy())
    # Inference, which takes the variance, and training, which takes the deviations, agree.
    done.undo()
    assert_unchanged(layer, before)


@pytest.mark.parametrize("extra", [{"momentum": None}, {"debias": True}])
def test_how_much_data_the_averages_hold_is_left_as_it_was(extra, data):
    layer = kbn.BatchNormalization(**extra)
    for _ in range(3):
        layer(data, training=True)
    weight = layer.moving_weight.numpy()
    recalibrate(layer, data, batch_size=16)
    assert_population(layer, data)
    assert np.all(weight > 0)
    np.testing.assert_array_equal(layer.moving_weight.numpy(), weight)


def test_ghost_batches_are_ignored(data):
    layer = kbn.BatchNormalization(virtual_batch_size=4)
    recalibrate(layer, data, batch_size=16)
    assert_population(layer, data)


# --- faults of the peers


def test_data_that_ends_early_is_divided_by_what_was_seen(data, rng):
    """AIMET's re-estimation divides by the number of batches that was asked for."""
    model = network(kbn.BatchNormalization, rng)
    with warns("ended after 3 of 10 batches"):
        done = recalibrate(model, data, steps=10, batch_size=16)
    assert done.steps == 3
    assert_population(model.get_layer("first"), data)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize(("center", "scale"), [(True, False), (False, True), (False, False)])
def test_layers_without_gamma_or_beta(cls, center, scale, data, rng):
    """AIMET's unpacks four weights."""
    model = network(cls, rng, center=center, scale=scale)
    expected = inputs_of_normalizations(model, batches_of(data), {})
    recalibrate(model, data, batch_size=16)
    for name, x in expected.items():
        assert_population(model.get_layer(name), x, 3e-6)


def test_layers_of_the_same_name(data):
    """AIMET's keys its statistics by name, which nested models repeat."""

    def part(shift):
        inputs = keras.Input((6,))
        return keras.Model(inputs, kbn.BatchNormalization(name="bn")(layers.Rescaling(1.0, offset=shift)(inputs)))

    left, right = part(1.0), part(-5.0)
    inputs = keras.Input((6,))
    model = keras.Model(inputs, [left(inputs), right(inputs)])
    done = recalibrate(model, data, batch_size=16)
    assert done.layers == ["bn", "bn"]
    assert_population(left.get_layer("bn"), data + 1.0, 2e-6)
    assert_population(right.get_layer("bn"), data - 5.0, 2e-6)
    done.undo()
    for model_part in (left, right):
        np.testing.assert_array_equal(model_part.get_layer("bn").moving_mean.numpy(), np.zeros(6))


@pytest.mark.parametrize("layer_by_layer", [False, True])
def test_dropout_is_off(layer_by_layer, data, rng):
    """torch's `update_bn` and AIMET's run it, so that no two recalibrations agree."""
    model = network(kbn.BatchNormalization, rng)
    start = values(model)
    recalibrate(model, data, batch_size=16, layer_by_layer=layer_by_layer)
    once = values(model)
    for variable, value in zip(model.variables, start, strict=True):
        variable.assign(value)
    recalibrate(model, data, batch_size=16, layer_by_layer=layer_by_layer)
    assert_unchanged(model, once)
    # The seed's state is one of these variables: nothing was drawn.
    (seed,) = [variable for variable in model.variables if "seed" in variable.path]
    np.testing.assert_array_equal(seed.numpy(), [3, 0])


def test_a_short_batch_counts_by_its_elements(data):
    """torch's `update_bn` weights it like a full one."""
    layer = kbn.BatchNormalization()
    recalibrate(layer, data, batch_size=32)
    assert_population(layer, data)
    equal_weights = (data[:32].mean(0) + data[32:].mean(0)) / 2
    assert np.max(np.abs(layer.moving_mean.numpy() - equal_weights)) > 0.1


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("layer_by_layer", [False, True])
def test_a_shared_layer_merges_all_its_calls(cls, layer_by_layer, data, rng):
    """fvcore's PreciseBN refuses a layer that is used twice."""
    inputs, shared = keras.Input((6,)), cls(name="shared")
    model = keras.Model(inputs, [shared(inputs), shared(layers.Rescaling(2.0, offset=7.0)(inputs))])
    done = recalibrate(model, data, batch_size=16, layer_by_layer=layer_by_layer)
    assert done.layers == ["shared"]
    assert_population(shared, np.concatenate([data, 2.0 * data + 7.0]))
    np.testing.assert_array_equal(done.changes[0].elements, np.full(6, 74))


@pytest.mark.parametrize("cls", CLASSES)
def test_a_mean_of_1e4_does_not_cancel(cls, rng):
    """fvcore's PreciseBN takes E[x^2] - mean^2: in float32, nothing is left of a variance of 1."""
    model = network(cls, rng)
    x = (rng.normal(1e4, 1.0, (37, 6)) * np.array([1, -1, 1, -1, 1, -1])).astype("float32")
    expected = inputs_of_normalizations(model, batches_of(x), {})
    recalibrate(model, x, batch_size=16)
    for name, inputs in expected.items():
        assert_population(model.get_layer(name), inputs, 5e-6)


# --- data


class Indexed(keras.utils.PyDataset):
    def __init__(self, batches, endless=False, **arguments):
        super().__init__(**arguments)
        self.batches = batches
        self.endless = endless
        self.begun = self.ended = 0

    @property
    def num_batches(self):
        return None if self.endless else len(self.batches)

    def __getitem__(self, index):
        return self.batches[index % len(self.batches)]

    def on_epoch_begin(self):
        self.begun += 1

    def on_epoch_end(self):
        self.ended += 1


class Loader:
    """Starts anew each time, and collates into lists, as a torch DataLoader does."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter([list(batch) if isinstance(batch, tuple) else batch for batch in self.batches])


def targets(x):
    return np.zeros((len(x), 1), "float32")


FORMS = {
    "x": lambda x: x,
    "(x,)": lambda x: (x,),
    "(x, y)": lambda x: (x, targets(x)),
    "(x, y, weight)": lambda x: (x, targets(x), np.linspace(0, 1, len(x), dtype="float32")),
}


def split(data, form):
    return [FORMS[form](part) for part in (data[:16], data[16:32], data[32:])]


def dataset(data, form):
    return tf.data.Dataset.from_tensor_slices(FORMS[form](data)).batch(16)


KINDS = {
    "dataset": dataset,
    "dataset of unknown length": lambda data, form: dataset(data, form).filter(lambda *_: True),
    "generator": lambda data, form: (batch for batch in split(data, form)),
    "iterator": lambda data, form: iter(split(data, form)),
    "iterator of a dataset": lambda data, form: iter(dataset(data, form)),
    "PyDataset": lambda data, form: Indexed(split(data, form)),
    "PyDataset with workers": lambda data, form: Indexed(split(data, form), workers=2),
    "iterable": lambda data, form: Loader(split(data, form)),
}
ONCE = {"generator", "iterator", "iterator of a dataset"}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_data(kind, form, data):
    layer = kbn.BatchNormalization()
    done = recalibrate(layer, KINDS[kind](data, form))
    assert (done.steps, done.examples) == (3, 37)
    assert_population(layer, data)


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_data_layer_by_layer(kind, data):
    model, given = keras.Sequential([kbn.BatchNormalization(), kbn.BatchNormalization()]), KINDS[kind](data, "(x, y)")
    if kind in ONCE:
        with pytest.raises(ValueError, match=r"several passes over the data.*Received: data of type"):
            recalibrate(model, given, layer_by_layer=True)
        assert not model.built
        assert len(list(given)) == 3  # nothing was taken
        return
    done = recalibrate(model, given, layer_by_layer=True)
    assert (done.steps, done.examples, len(done.layers)) == (3, 37, 2)
    assert_population(model.layers[0], data)
    assert_population(model.layers[1], normalised(model.layers[0], data, data.mean(0), data.var(0)), 1e-5)


@pytest.mark.parametrize("convert", [np.asarray, tf.constant], ids=["numpy", "tensor"])
def test_arrays_of_several_inputs(convert, data):
    left, right = keras.Input((6,), name="left"), keras.Input((6,), name="right")
    first, second = kbn.BatchNormalization(), layers.BatchNormalization()
    model = keras.Model([left, right], layers.Add()([first(left), second(right)]))
    for given in (
        [convert(data), convert(-data)],
        (convert(data), convert(-data)),
        {"left": convert(data), "right": convert(-data)},
        tf.data.Dataset.from_tensor_slices(({"left": data, "right": -data}, data)).batch(16),
        tf.data.Dataset.from_tensor_slices(((data, -data), data)).batch(16),
        Loader([((data, -data), data)]),
    ):
        done = recalibrate(model, given)
        assert done.examples == 37
        assert_population(first, data)
        assert_population(second, -data)
        done.undo()


@pytest.mark.parametrize("form", ["x", "(x, y)"])
def test_torch_loader(form, data):
    """Keras' adapter takes the rows of a bare batch for inputs, targets and weights."""
    torch = pytest.importorskip("torch")
    tensors = [torch.from_numpy(part) for part in (data, targets(data))]
    content = tensors[0] if form == "x" else torch.utils.data.TensorDataset(*tensors)
    layer = kbn.BatchNormalization()
    done = recalibrate(layer, torch.utils.data.DataLoader(content, batch_size=16))
    assert (done.steps, done.examples) == (3, 37)
    assert_population(layer, data)


def test_a_batch_of_the_size_of_a_tuple(data):
    """Three bare rows are no (x, y, sample_weight)."""
    layer = kbn.BatchNormalization()
    recalibrate(layer, (data[start : start + 3] for start in range(0, 36, 3)))
    assert_population(layer, data[:36])


@pytest.mark.parametrize("kind", KINDS)
def test_steps_limit_the_batches(kind, data):
    layer = kbn.BatchNormalization()
    given = KINDS[kind](data, "(x, y)")
    done = recalibrate(layer, given, steps=2)
    assert (done.steps, done.examples) == (2, 32)
    assert_population(layer, data[:32])
    if kind in ONCE:
        assert len(list(given)) == 1  # the rest was not taken


def test_default_batch_size_of_arrays(data):
    assert recalibrate(kbn.BatchNormalization(), data).steps == 2
    assert recalibrate(kbn.BatchNormalization(), data, batch_size=None).steps == 2


def test_data_without_end_wants_steps(data):
    layer = kbn.BatchNormalization()
    layer.build(data.shape)
    before = values(layer)
    for given in (dataset(data, "x").repeat(), Indexed(split(data, "x"), endless=True)):
        with pytest.raises(ValueError, match="`steps` must be given where the data has no end"):
            recalibrate(layer, given)
        assert_unchanged(layer, before)
        done = recalibrate(layer, given, steps=6)
        assert (done.steps, done.examples) == (6, 74)
        assert_population(layer, data)
        done.undo()


@pytest.mark.parametrize("layer_by_layer", [False, True])
def test_a_pydataset_is_told_when_a_pass_ends(layer_by_layer, data, rng):
    given = Indexed(split(data, "x"))
    recalibrate(network(kbn.BatchNormalization, rng), given, steps=2, layer_by_layer=layer_by_layer)
    passes = 3 if layer_by_layer else 1
    assert (given.begun, given.ended) == (passes, passes)
    given.batches = [data[:, :1]]
    with pytest.raises(ValueError, match="expected axis -1"):
        recalibrate(network(kbn.BatchNormalization, rng), given)
    assert given.begun == given.ended


@pytest.mark.parametrize(
    "empty",
    [None, [], {}, np.zeros((0, 6), "float32"), iter([]), Loader([]), tf.data.Dataset.range(0), Indexed([])],
    ids=lambda empty: type(empty).__name__,
)
def test_no_data_is_refused(empty, data):
    layer = kbn.BatchNormalization()
    layer.build(data.shape)
    before = values(layer)
    with pytest.raises(ValueError, match="`data` must hold a batch"):
        recalibrate(layer, empty)
    assert_unchanged(layer, before)


def test_what_is_no_data_is_refused():
    with pytest.raises(ValueError, match="Unrecognized data type"):
        recalibrate(kbn.BatchNormalization(), object())


def test_passes_that_differ_are_refused(data, rng):
    class Spent:
        """Not an iterator, but it gives its batches only once."""

        def __init__(self):
            self.left = iter(split(data, "x"))

        def __iter__(self):
            return self.left

    model = network(kbn.BatchNormalization, rng)
    before = values(model)
    with pytest.raises(ValueError, match="3 batches in the first pass, 0 for layer 'second'"):
        recalibrate(model, Spent(), layer_by_layer=True)
    assert_unchanged(model, before)


# --- undo and errors


@pytest.mark.parametrize("layer_by_layer", [False, True])
@pytest.mark.parametrize("cls", CLASSES)
def test_undo_restores_every_bit_and_only_once(cls, layer_by_layer, data, rng):
    model = network(cls, rng, renorm=True)
    before = values(model)
    done = recalibrate(model, data, batch_size=16, layer_by_layer=layer_by_layer)
    changed = [v.path for v, old in zip(model.variables, before, strict=True) if np.any(v.numpy() != old)]
    names = ("moving_mean", "moving_variance", "moving_stddev", "renorm_mean", "renorm_stddev")
    assert sorted(changed) == sorted(f"{model.name}/{layer}/{name}" for layer in done.layers for name in names)
    (index,) = [i for i, variable in enumerate(model.variables) if variable is model.layers[1].kernel]
    before[index] = before[index] + 1.0
    model.layers[1].kernel.assign(before[index])  # trained since: undo leaves it
    done.undo()
    assert_unchanged(model, before)
    model.get_layer("first").moving_mean.assign(np.full(6, 5.0))
    done.undo()
    np.testing.assert_array_equal(model.get_layer("first").moving_mean.numpy(), np.full(6, 5.0))


class Failing:
    """Fails at a batch of a pass."""

    def __init__(self, data, error, fails_in):
        self.data, self.error, self.passes_left = data, error, fails_in

    def __iter__(self):
        self.passes_left -= 1
        yield self.data
        if self.passes_left == 0:
            raise self.error
        yield -self.data


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()], ids=["error", "interrupt"])
@pytest.mark.parametrize(("layer_by_layer", "fails_in"), [(False, 1), (True, 1), (True, 2), (True, 3)])
def test_an_error_in_the_data_leaves_everything_as_before(layer_by_layer, fails_in, error, data, rng):
    model = network(kbn.BatchNormalization, rng)
    before = values(model)
    with pytest.raises(type(error)):
        recalibrate(model, Failing(data, error, fails_in), layer_by_layer=layer_by_layer)
    assert_unchanged(model, before)
    assert not any("call" in vars(layer) for layer in model.layers)


@pytest.mark.parametrize("training", [False, True])
def test_an_error_in_the_model_leaves_everything_as_before(training, data, rng):
    class Fragile(layers.Layer):
        when = None

        def call(self, x, training=False):
            if training is self.when:
                raise KeyboardInterrupt
            return x

    model = network(kbn.BatchNormalization, rng)
    model.add(Fragile())
    before = values(model)
    model.layers[-1].when = training
    with pytest.raises(KeyboardInterrupt):
        recalibrate(model, data)
    assert_unchanged(model, before)
    assert not any("call" in vars(layer) for layer in model.layers)
    assert not tf.config.functions_run_eagerly()


def test_a_warning_that_is_an_error_leaves_everything_as_before(data, rng):
    model = network(kbn.BatchNormalization, rng)
    before = values(model)
    with pytest.raises(UserWarning, match="ended after 2 of 3"):
        recalibrate(model, data, steps=3)
    assert_unchanged(model, before)


def test_a_call_of_the_users_own_is_put_back(data):
    layer = kbn.BatchNormalization()
    layer.call = own = lambda inputs, training=None, mask=None: kbn.BatchNormalization.call(layer, inputs, training)
    recalibrate(layer, data)
    assert vars(layer)["call"] is own
    assert_population(layer, data)


# --- which layers


def frozen(name, data, rng):
    model = network(kbn.BatchNormalization, rng)
    layer = model.get_layer("second")
    if name == "trainable=False":
        layer.trainable = False
    else:
        layer.freeze = name.split("'")[1]
    return model, layer


@pytest.mark.parametrize("layer_by_layer", [False, True])
@pytest.mark.parametrize("reason", ["trainable=False", "freeze='statistics'", "freeze='inference'"])
def test_frozen_layers_are_left_alone(reason, layer_by_layer, data, rng):
    model, layer = frozen(reason, data, rng)
    before = values(layer)
    kept = layer.moving_mean.numpy().astype("float64"), layer.moving_variance.numpy().astype("float64")
    expected = inputs_of_normalizations(model, batches_of(data), {"second": kept})
    done = recalibrate(model, data, batch_size=16, layer_by_layer=layer_by_layer)
    assert done.layers == ["first", "third"]
    assert done.left_alone == (("second", reason),)
    assert_unchanged(layer, before)
    if not layer_by_layer:
        assert_population(model.get_layer("third"), expected["third"], 3e-6)


class Transfer(keras.Model):
    """The usual pattern: a base that always runs in inference mode, and a head that trains."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.head = kbn.BatchNormalization(name="head")

    def call(self, x, training=None):
        return self.head(self.base(x, training=False), training=training)


@pytest.mark.parametrize("layer_by_layer", [False, True])
def test_a_base_in_inference_mode_is_left_alone(layer_by_layer, data, rng):
    base = network(kbn.BatchNormalization, rng)
    model = Transfer(base)
    before = values(base)
    done = recalibrate(model, data, batch_size=16, layer_by_layer=layer_by_layer)
    assert done.layers == ["head"]
    assert [name for name, _ in done.left_alone] == ["first", "second", "third"]
    assert {reason for _, reason in done.left_alone} == {"the model runs it in inference mode even while training"}
    assert_unchanged(base, before)
    assert_population(model.head, base.predict(data, verbose=0), 3e-6)


@pytest.mark.parametrize("given", [None, False, True])
def test_functional_graphs_are_taken_as_keras_runs_them(given, data, rng):
    """Keras 3 lets `fit` override `base(x, training=False)` in a functional graph (keras #20285)."""
    base = keras.Sequential([keras.Input((6,)), kbn.BatchNormalization(name="bn")])
    inputs = keras.Input((6,))
    model = keras.Model(inputs, kbn.BatchNormalization(name="head")(base(inputs, training=given)))
    before = values(base)
    model(data, training=True)
    trains = bool(np.any(base.get_layer("bn").moving_mean.numpy() != before[2]))
    done = recalibrate(model, data)
    assert done.layers == (["bn", "head"] if trains else ["head"])


class Both(keras.Model):
    """Calls a layer as it is called, and once more in inference mode."""

    def __init__(self, order):
        super().__init__()
        self.bn = kbn.BatchNormalization()
        self.order = order

    def call(self, x, training=None):
        return [self.bn(x + 10.0 * index, training=training and mode) for index, mode in enumerate(self.order)]


@pytest.mark.parametrize("order", [[True, False], [False, True]])
def test_only_calls_that_train_count(order, data):
    model = Both(order)
    recalibrate(model, data, batch_size=16)
    assert_population(model.bn, data + 10.0 * order.index(True), 2e-6)


def test_a_subclass_runs_in_inference_with_its_own_averages(data, rng):
    """It is lent the batch's statistics only for its calls that train."""

    class Activated(layers.BatchNormalization):
        def call(self, inputs, training=None, mask=None):
            return ops.relu(super().call(inputs, training=training, mask=mask))

    class Twice(keras.Model):
        def __init__(self):
            super().__init__()
            self.bn, self.head = Activated(), kbn.BatchNormalization()

        def call(self, x, training=None):
            return self.bn(x, training=training), self.head(self.bn(x + 10.0, training=False), training=training)

    model = Twice()
    model(data)
    random_weights(model, rng)
    bn = model.bn
    outputs = normalised(bn, data.astype("float64") + 10.0, bn.moving_mean.numpy(), bn.moving_variance.numpy())
    recalibrate(model, data, batch_size=16)
    assert_population(bn, data)
    assert_population(model.head, np.maximum(outputs, 0), 3e-6)


@pytest.mark.parametrize("layer_by_layer", [False, True])
def test_a_layer_always_in_training_mode_normalises_by_batch(layer_by_layer, data):
    class Always(keras.Model):
        def __init__(self):
            super().__init__()
            self.bn, self.head = kbn.BatchNormalization(), kbn.BatchNormalization()

        def call(self, x, training=None):
            return self.head(self.bn(x, training=True), training=training)

    model = Always()
    model(data)
    recalibrate(model, data, batch_size=16, layer_by_layer=layer_by_layer)
    assert_population(model.bn, data)
    outputs = [normalised(model.bn, x, x.mean(0), x.var(0)) for x in batches_of(data)]
    assert_population(model.head, np.concatenate(outputs), 3e-6)


@pytest.mark.filterwarnings("ignore:`build..` was called on layer")  # of which the call shows only a part
def test_a_layer_only_called_in_training_keeps_its_averages(data):
    class Auxiliary(keras.Model):
        def __init__(self):
            super().__init__()
            self.main, self.extra = kbn.BatchNormalization(name="main"), kbn.BatchNormalization(name="extra")

        def call(self, x, training=None):
            return (self.main(x), self.extra(x)) if training else self.main(x)

    model = Auxiliary()
    with warns("'extra' keeps its averages: none of its calls was usable; skipped: 0"):
        done = recalibrate(model, data)
    assert done.layers == ["main"]
    assert [name for name, _ in done.left_alone] == ["extra"]
    np.testing.assert_array_equal(model.extra.moving_mean.numpy(), np.zeros(6))


def test_nothing_to_recalibrate_is_refused_with_the_reasons(data, rng):
    with pytest.raises(ValueError, match=r"no batch normalization to recalibrate. Found: none"):
        recalibrate(keras.Sequential([keras.Input((6,)), layers.Dense(2)]), data)
    model = network(kbn.BatchNormalization, rng)
    model.get_layer("first").freeze = "statistics"
    model.get_layer("second").trainable = model.get_layer("third").trainable = False
    before = values(model)
    found = r"first \(freeze='statistics'\); second \(trainable=False\); third \(trainable=False\)"
    with pytest.raises(ValueError, match=found):
        recalibrate(model, data)
    assert_unchanged(model, before)


@pytest.mark.filterwarnings("ignore:`build..` was called on layer")  # of which the call shows only a part
def test_a_layer_that_is_not_called_is_named(data):
    class Spare(keras.Model):
        def __init__(self):
            super().__init__()
            self.used, self.spare = kbn.BatchNormalization(name="used"), kbn.BatchNormalization(name="spare")

        def call(self, x):
            return self.used(x)

    done = recalibrate(Spare(), data)
    assert done.layers == ["used"]
    assert done.left_alone == (("spare", "the model does not call it"),)


def test_layers_are_listed_in_the_order_of_their_calls(data):
    class Backwards(keras.Model):
        def __init__(self):
            super().__init__()
            self.parts = [kbn.BatchNormalization(name=name) for name in "abc"]

        def call(self, x):
            for part in reversed(self.parts):
                x = part(x)
            return x

    assert recalibrate(Backwards(), data).layers == ["c", "b", "a"]


def test_a_subclass_does_what_its_call_does(data, rng):
    class Activated(layers.BatchNormalization):
        def call(self, inputs, training=None, mask=None):
            return ops.relu(super().call(inputs, training=training, mask=mask))

    class Named(kbn.BatchNormalization):
        pass

    activated, named = Activated(), Named()
    model = random_weights(keras.Sequential([keras.Input((6,)), activated, layers.Rescaling(2.0), named]), rng)
    outputs = []
    for x in batches_of(data):
        outputs.append(2.0 * np.maximum(normalised(activated, x, x.mean(0), x.var(0)), 0))
    assert len(recalibrate(model, data, batch_size=16).changes) == 2
    assert_population(activated, data)
    assert_population(named, np.concatenate(outputs), 3e-6)


# --- masks and bad values


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("layer_by_layer", [False, True])
def test_what_is_masked_does_not_count(cls, layer_by_layer, rng):
    x = rng.normal(1.0, 2.0, (37, 7, 5)).astype("float32")
    hidden = rng.random((37, 7)) < 0.4
    hidden[::3, 4:] = True
    x[hidden] = -3.0
    first, second = cls(), cls()
    stack = [keras.Input((7, 5)), layers.Masking(-3.0), first, layers.Dense(4), second]
    model = random_weights(keras.Sequential(stack), rng)
    done = recalibrate(model, x, batch_size=16, layer_by_layer=layer_by_layer)
    assert_population(first, x[~hidden])
    np.testing.assert_array_equal(done.changes[1].elements, np.full(4, (~hidden).sum()))
    if layer_by_layer:
        inputs, _ = second.input  # and its mask
        assert_population(second, keras.Model(model.inputs, inputs).predict(x, verbose=0)[~hidden], 1e-5)


def call_with_mask(cls, mask):
    class Masked(keras.Model):
        def __init__(self):
            super().__init__()
            self.bn = cls()

        def call(self, x):
            return self.bn(x, mask=mask)

    return Masked()


def test_masks_of_floats_are_weights_in_ours_and_booleans_in_keras(rng):
    x = rng.normal(3.0, 2.0, (16, 7, 5)).astype("float32")
    weights = rng.choice([0.0, 0.5, 2.0], (16, 7)).astype("float32")
    ours, theirs = (call_with_mask(cls, weights) for cls in CLASSES)
    recalibrate(ours, x)
    recalibrate(theirs, x)
    flat, w = x.reshape(-1, 5).astype("float64"), weights.reshape(-1, 1).astype("float64")
    mean = (flat * w).sum(0) / w.sum()
    assert_averages(ours.bn, mean, ((flat - mean) ** 2 * w).sum(0) / w.sum())
    assert_population(theirs.bn, x[weights > 0])


def test_a_channel_that_is_always_masked_keeps_its_averages(rng):
    x = rng.normal(3.0, 2.0, (16, 5)).astype("float32")
    mask = np.ones((16, 5), bool)
    mask[:, 2] = False
    model = call_with_mask(kbn.BatchNormalization, mask)
    model(x)
    random_weights(model, rng)
    kept = model.bn.moving_mean.numpy()[2], model.bn.moving_variance.numpy()[2]
    (change,) = recalibrate(model, x).changes
    np.testing.assert_array_equal(change.elements, [16, 16, 0, 16, 16])
    mean, variance = x.astype("float64").mean(0), x.astype("float64").var(0)
    mean[2], variance[2] = kept
    assert_averages(model.bn, mean, variance)
    assert (change.new_mean[2], change.new_variance[2]) == kept


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("position", [0, 1])
def test_a_batch_that_is_not_finite_is_skipped_and_counted(cls, bad, position, data):
    batches = [data[:16] + 1e4, data[16:32] + 1e4, data[32:] + 1e4]
    worse = data[:16].copy()
    worse[3, 2] = bad
    batches.insert(position, worse)
    layer = cls()
    done = recalibrate(layer, iter(batches))
    assert (done.steps, done.examples, done.changes[0].skipped) == (4, 53, 1)
    assert_population(layer, data + np.float32(1e4), 2e-6)


@pytest.mark.parametrize("kind", ["nan", "masked"])
def test_a_layer_without_a_usable_batch_keeps_its_averages(kind, data, rng):
    class Spoils(layers.Layer):
        def call(self, x):
            return x * np.float32(np.nan)

    first, spoiled = kbn.BatchNormalization(name="fine"), kbn.BatchNormalization(name="spoiled")
    spoils = [Spoils()] if kind == "nan" else [layers.Rescaling(0.0), layers.Masking(0.0)]
    model = random_weights(keras.Sequential([keras.Input((6, 1)), first, *spoils, spoiled]), rng)
    before = values(spoiled)
    with warns("'spoiled' keeps its averages: none of its calls was usable; skipped: 3"):
        done = recalibrate(model, data[..., None], batch_size=16)
    assert done.layers == ["fine"]
    assert done.left_alone == (("spoiled", "none of its calls was usable; skipped: 3"),)
    assert_unchanged(spoiled, before)


# --- the rest of the model


class Stateful(layers.Layer):
    """Changes all that a call can change, in inference too."""

    def __init__(self):
        super().__init__()
        self.calls = self.add_weight(name="calls", initializer="zeros", trainable=False)
        self.trained = self.add_weight(name="trained", initializer="zeros")
        self.metric = keras.metrics.Mean()
        self.seed = keras.random.SeedGenerator(5)

    def call(self, x):
        self.calls.assign_add(1.0)
        self.trained.assign_add(1.0)
        self.metric.update_state(3.0)
        # By position, so that a pass which starts from another state sees other inputs.
        return x + self.calls + 0.0 * keras.random.normal((), seed=self.seed) + 0.0 * keras.random.normal(())


@pytest.mark.parametrize("layer_by_layer", [False, True])
def test_no_other_state_changes(layer_by_layer, data, rng):
    spectral = layers.SpectralNormalization(layers.Dense(6))
    stack = [keras.Input((6,)), Stateful(), spectral, layers.Dropout(0.5), kbn.BatchNormalization()]
    model = keras.Sequential([*stack, layers.Dense(3), layers.GaussianNoise(1.0), kbn.BatchNormalization()])
    keras.utils.set_random_seed(7)
    expected_draw = keras.random.normal((4,)).numpy()
    keras.utils.set_random_seed(7)
    metric = model.layers[0].metric.variables
    before, counted = values(model), [variable.numpy() for variable in metric]
    recalibrate(model, data, batch_size=16, layer_by_layer=layer_by_layer).undo()
    assert_unchanged(model, before)
    assert [variable.numpy() for variable in metric] == counted
    np.testing.assert_array_equal(keras.random.normal((4,)).numpy(), expected_draw)


def test_each_pass_starts_from_the_same_state(data):
    """The second layer's pass is the second: the stateful layer must not have moved on."""
    inputs = keras.Input((6,))
    moved = Stateful()(inputs)
    first, second = kbn.BatchNormalization(), kbn.BatchNormalization()
    model = keras.Model(inputs, [first(moved), second(moved)])
    recalibrate(model, data, batch_size=16, layer_by_layer=True)
    expected = np.concatenate([x + index for index, x in enumerate(batches_of(data), 1)])
    assert_population(first, expected, 2e-6)
    assert_population(second, expected, 2e-6)


def test_an_unbuilt_model_is_built(data):
    class Late(keras.Model):
        def __init__(self):
            super().__init__()
            self.stack = keras.Sequential([layers.Dense(4), layers.Dropout(0.5, seed=2), kbn.BatchNormalization()])

        def call(self, x):
            return self.stack(x)

    for model in (Late(), keras.Sequential([layers.Dense(4), layers.Dropout(0.5, seed=2), kbn.BatchNormalization()])):
        done = recalibrate(model, data, batch_size=16)
        dense, _, layer = model.layers[0].layers if isinstance(model, Late) else model.layers
        assert done.layers == [layer.name]
        assert_population(layer, data.astype("float64") @ dense.kernel.numpy().astype("float64"), 2e-6)
        (seed,) = [variable for variable in model.variables if "seed" in variable.path]
        np.testing.assert_array_equal(seed.numpy(), [2, 0])
        done.undo()
        np.testing.assert_array_equal(layer.moving_variance.numpy(), np.ones(4))


@pytest.mark.parametrize("layer_by_layer", [False, True])
def test_nested_models_and_wrappers(layer_by_layer, rng):
    inner = kbn.BatchNormalization(name="inner")
    outer = layers.BatchNormalization(name="outer")
    part = keras.Sequential([keras.Input((7, 5)), layers.TimeDistributed(inner), layers.Dense(4)])
    inputs = keras.Input((7, 5))
    model = keras.Model(inputs, outer(keras.Sequential([part])(inputs)))
    random_weights(model, rng)
    x = rng.normal(2.0, 3.0, (37, 7, 5)).astype("float32")
    done = recalibrate(model, x, batch_size=16, layer_by_layer=layer_by_layer)
    assert done.layers == ["inner", "outer"]
    # TimeDistributed calls it once for each step: all of them count.
    assert_population(inner, x)
    np.testing.assert_array_equal(done.changes[0].elements, np.full(5, 37 * 7))
    if layer_by_layer:
        assert_population(outer, part.predict(x, verbose=0), 1e-5)


def test_a_compiled_model_uses_the_new_averages(data, rng):
    model = network(kbn.BatchNormalization, rng)
    model.compile("sgd", "mse", jit_compile=False)
    y = np.zeros((37, 4), "float32")
    model.fit(data, y, batch_size=37, verbose=0)
    stale, loss = model.predict(data, verbose=0), model.evaluate(data, y, verbose=0)
    done = recalibrate(model, data, batch_size=16)
    fresh = model.predict(data, verbose=0)
    assert np.max(np.abs(fresh - stale)) > 0.01
    np.testing.assert_allclose(fresh, model(data, training=False).numpy(), rtol=1e-4, atol=1e-5)
    assert model.evaluate(data, y, verbose=0) != loss
    done.undo()
    np.testing.assert_allclose(model.predict(data, verbose=0), stale, rtol=1e-6)
    averages = model.get_layer("first").moving_mean.numpy()
    model.fit(data, y, batch_size=37, verbose=0)
    assert np.any(model.get_layer("first").moving_mean.numpy() != averages)


def test_tf_functions_keep_no_trace_of_it(data):
    """A function traced while calls are replaced would keep the replacement for good."""

    class Traced(keras.Model):
        def __init__(self):
            super().__init__()
            self.bn = kbn.BatchNormalization()

        @tf.function
        def call(self, x, training=None):
            return self.bn(x, training=training)

    model = Traced()
    recalibrate(model, data, batch_size=37)
    assert_population(model.bn, data)
    assert not tf.config.functions_run_eagerly()
    averages = model.bn.moving_mean.numpy()
    np.testing.assert_allclose(
        model(data, training=False), normalised(model.bn, data, averages, model.bn.moving_variance.numpy()), atol=1e-5
    )
    model(data + 10.0, training=True)
    np.testing.assert_allclose(model.bn.moving_mean.numpy(), averages + 0.1, rtol=1e-4)


def test_a_layer_out_of_sight_is_refused(data):
    class Mapped(layers.Layer):
        def __init__(self):
            super().__init__()
            self.bn = kbn.BatchNormalization(name="inside")

        def build(self, shape):
            self.bn.build((None, shape[-1]))

        def call(self, x):
            return ops.vectorized_map(lambda row: self.bn(row), x)

    model = keras.Sequential([keras.Input((1, 6)), Mapped(), kbn.BatchNormalization()])
    before = values(model)
    with pytest.raises(ValueError, match="'inside' is called inside a compiled function"):
        recalibrate(model, data[:, None])
    assert_unchanged(model, before)


# --- arguments and the progress bar


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "Argument `steps` must be a positive integer or None. Received: steps=0"),
        ({"steps": 1.5}, "Argument `steps` must be a positive integer or None. Received: steps=1.5"),
        ({"batch_size": -1}, "Argument `batch_size` must be a positive integer or None. Received: batch_size=-1"),
        ({"verbose": "loud"}, "Argument `verbose` must be 'auto' or 0 or 1 or 2. Received: verbose='loud'"),
        ({"model": "model.keras"}, "Argument `model` must be a Keras model or layer. Received: model='model.keras'"),
    ],
)
def test_arguments_out_of_range(arguments, message, data):
    with pytest.raises(ValueError, match="^" + message.replace(".", r"\.")):
        kbn.recalibrate(**{"model": kbn.BatchNormalization(), "data": data, **arguments})


@pytest.mark.parametrize(
    ("arguments", "last"),
    [({}, "3/3"), ({"layer_by_layer": True}, "9/9"), ({"steps": 2}, "2/2"), ({"verbose": 0}, None)],
)
def test_progress_bar(arguments, last, data, rng, capsys):
    model = network(kbn.BatchNormalization, rng)
    kbn.recalibrate(model, data, batch_size=16, **arguments)
    shown = capsys.readouterr()
    assert last is None or last in shown.out
    assert bool(shown.out) is (last is not None)
    assert shown.err == ""


def test_progress_bar_of_iterables(data, rng, capsys):
    model = network(kbn.BatchNormalization, rng)
    kbn.recalibrate(model, iter(split(data, "x")))  # knows its length
    assert "3/3" in capsys.readouterr().out
    kbn.recalibrate(model, (batch for batch in split(data, "x")))
    assert "3/Unknown" in capsys.readouterr().out


def test_repr_fits_on_a_screen(data, rng):
    done = recalibrate(network(kbn.BatchNormalization, rng), data)
    assert "layer='first'" in repr(done)
    assert "_before" not in repr(done)


@pytest.mark.slow
def test_other_backend(run_python):
    """JAX, where variables are not assigned in place and a scan cannot be looked into."""
    run_python(
        """
import os
os.environ["KERAS_BACKEND"] = "jax"
import keras, numpy as np, kbn
x = np.random.default_rng(0).normal(5.0, 2.0, (32, 6)).astype("float32")
first, dense, second = kbn.BatchNormalization(), keras.layers.Dense(4), keras.layers.BatchNormalization()
model = keras.Sequential([keras.Input((6,)), first, dense, keras.layers.Dropout(0.5), second])
done = kbn.recalibrate(model, x, batch_size=16, layer_by_layer=True, verbose=0)
inputs = np.asarray(dense(first(x)))
for layer, given in ((first, x.astype("float64")), (second, inputs)):
    np.testing.assert_allclose(np.asarray(layer.moving_mean.value), given.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.asarray(layer.moving_variance.value), given.var(0), rtol=1e-5)
for layer in (first, second):
    layer.moving_variance.value.delete()  # as a compiled training step does
done.undo()
for layer in (first, second):
    np.testing.assert_array_equal(np.asarray(layer.moving_mean.value), 0)
    np.testing.assert_array_equal(np.asarray(layer.moving_variance.value), 1)

class Cell(keras.layers.SimpleRNNCell):
    def __init__(self):
        super().__init__(3)
        self.bn = kbn.BatchNormalization(name="in_cell")
    def build(self, shape):
        super().build(shape)
        self.bn.build(shape)
    def call(self, inputs, states, training=False):
        return super().call(self.bn(inputs, training=training), states, training=training)
model = keras.Sequential([keras.Input((7, 5)), keras.layers.RNN(Cell())])
try:
    kbn.recalibrate(model, np.zeros((16, 7, 5), "float32"), verbose=0)
except ValueError as error:
    assert "'in_cell' is called inside a compiled function" in str(error), error
else:
    raise AssertionError("a layer inside a scan was not refused")
"""
    )
