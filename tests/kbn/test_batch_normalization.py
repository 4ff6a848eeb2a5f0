"""The layer as its user meets it, beside Keras' own and beside float64. Needs TensorFlow as Keras' backend."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kbn

LAYOUTS = [
    ((64, 5), -1),
    ((16, 9, 5), -1),
    ((16, 5, 9), 1),
    ((8, 6, 7, 5), -1),
    ((8, 5, 6, 7), 1),
    ((8, 6, 5, 7), 2),
    ((5, 8, 6, 7), 0),
    ((4, 3, 6, 5, 5), -1),
    ((4, 3, 6, 5, 5), 1),
]

MODES = {"eager": lambda f: f, "graph": tf.function, "xla": tf.function(jit_compile=True)}


def randomise(layer, rng):
    """Random weights: signs too, except for what is a variance or a deviation."""
    for weight in layer.weights:
        value = rng.normal(size=weight.shape)
        positive = "variance" in weight.name or "stddev" in weight.name
        weight.assign(np.abs(value) + 0.1 if positive else value)


def built(shape, rng=None, cls=kbn.BatchNormalization, **arguments):
    layer = cls(**arguments)
    layer.build(shape)
    if rng is not None:
        randomise(layer, rng)
    return layer


def gradients(layer, x, dy, mode="eager", mask=None, training=True):
    """y, and the gradients of sum(y * dy) for x, gamma and beta."""

    def step(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=training, mask=mask)
        return y, *tape.gradient(y, [x, layer.gamma.value, layer.beta.value], dy)

    x = tf.convert_to_tensor(x)
    return [np.asarray(tf.cast(part, "float64")) for part in MODES[mode](step)(x, tf.cast(dy, layer.compute_dtype))]


def assert_close(found, expected, tolerance):
    """Relative to the largest value expected."""
    expected = np.asarray(expected)
    assert np.asarray(found).shape == expected.shape
    error = np.max(np.abs(np.asarray(found, "float64") - expected), initial=0)
    assert error <= tolerance * max(np.max(np.abs(expected), initial=0), 1e-30), error


def assert_matches(found, expected, tolerance):
    for part, name in zip(found, ("y", "dx", "dgamma", "dbeta"), strict=True):
        assert_close(part, getattr(expected, name), tolerance)


# --- the same numbers as Keras, and as float64


@pytest.mark.parametrize(("shape", "axis"), LAYOUTS)
@pytest.mark.parametrize("renorm", [False, True])
def test_trains_and_infers_like_keras(shape, axis, renorm, rng):
    clipping = {"renorm_clipping": {"rmax": 2.0, "rmin": 0.4, "dmax": 1.5}} if renorm else {}
    arguments = {"axis": axis, "momentum": 0.7, "epsilon": 2e-3, "renorm": renorm, **clipping}
    ours = built(shape, rng, **arguments)
    theirs = built(shape, cls=keras.layers.BatchNormalization, **arguments)
    theirs.set_weights(ours.get_weights())
    for training in (False, True, True, False):
        x = rng.normal(1.5, 2.0, shape).astype("float32")
        assert_close(ours(x, training=training), np.asarray(theirs(x, training=training)), 2e-6)
    for our_weight, their_weight in zip(ours.weights, theirs.weights, strict=True):
        assert our_weight.name == their_weight.name
        assert our_weight.trainable == their_weight.trainable
        assert_close(our_weight, their_weight.numpy(), 2e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("shape", "axis"), LAYOUTS)
def test_gradients_match_float64(shape, axis, mode, rng, reference):
    layer = built(shape, rng, axis=axis)
    # Some channels need a pivot, some do not.
    others = [other for other in range(len(shape)) if other != axis % len(shape)]
    offset = np.expand_dims(np.resize([30.0, 0.0, -30.0, 1.0, 500.0], shape[axis]), others)
    x, dy = rng.normal(offset, 2.0, shape).astype("float32"), rng.normal(size=shape)
    expected = reference(x, dy, layer.gamma.numpy(), layer.beta.numpy(), axis=axis)
    assert_matches(gradients(layer, x, dy, mode), expected, 1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_large_data_takes_the_branch_that_it_needs(mode, rng, reference):
    """Above a certain size, whether to subtract a pivot is decided when run."""
    shape = (16, 24, 24, 16)
    layer = built(shape, rng, momentum=0.0)
    for offset in (0.0, 1e3):
        x, dy = rng.normal(offset, 1.0, shape).astype("float32"), rng.normal(size=shape)
        expected = reference(x, dy, layer.gamma.numpy(), layer.beta.numpy())
        assert_matches(gradients(layer, x, dy, mode), expected, 3e-5)
        # The means are about 0 to start with, so their errors are measured against the deviations, which are 1.
        assert np.max(np.abs(layer.moving_mean - expected.mean)) < 1e-6 * (1 + offset)
        assert_close(layer.moving_variance, expected.variance, 1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("policy", "tolerance"),
    [("float16", 3e-3), ("bfloat16", 2e-2), ("mixed_float16", 3e-3), ("mixed_bfloat16", 2e-2), ("float64", 1e-13)],
)
@pytest.mark.parametrize(("shape", "axis"), [((16, 5), -1), ((8, 5, 6, 7), 1), ((8, 6, 7, 5), -1)])
def test_dtype_policies(shape, axis, policy, tolerance, training, rng, reference):
    layer = built(shape, rng, axis=axis, dtype=policy)
    x = tf.cast(rng.normal(1.0, 2.0, shape), layer.compute_dtype)
    y = layer(x, training=training)
    assert keras.backend.standardize_dtype(y.dtype) == layer.compute_dtype
    assert {weight.dtype for weight in layer.weights} == {"float64" if policy == "float64" else "float32"}
    gamma, beta = layer.gamma.numpy(), layer.beta.numpy()
    if training:
        dy = tf.cast(rng.normal(size=shape), layer.compute_dtype)
        expected = reference(tf.cast(x, "float64"), tf.cast(dy, "float64"), gamma, beta, axis=axis)
        assert_matches(gradients(layer, x, dy), expected, tolerance)
    else:
        broadcast = [-1 if other == axis % len(shape) else 1 for other in range(len(shape))]
        mean, variance, gamma, beta = (
            np.reshape(weight.numpy().astype("float64"), broadcast)
            for weight in (layer.moving_mean, layer.moving_variance, layer.gamma, layer.beta)
        )
        expected = (np.asarray(tf.cast(x, "float64")) - mean) / np.sqrt(variance + layer.epsilon) * gamma + beta
        assert_close(tf.cast(y, "float64"), expected, tolerance)


def test_integers_become_floats(rng):
    layer = built((6, 4), rng)
    x = rng.integers(-9, 9, (6, 4))
    assert_close(layer(x, training=True), layer(x.astype("float32"), training=True).numpy(), 0)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(("shape", "axis"), LAYOUTS)
def test_second_order_gradients_match_finite_differences(shape, axis, jit, rng, reference):
    """Keras' own are wrong here: `tf.nn.moments` cuts the gradient of the mean inside the variance."""
    layer = built(shape, rng, axis=axis)
    gamma, beta = layer.gamma.numpy(), layer.beta.numpy()
    x, dy, direction = (rng.normal(size=shape) for _ in range(3))

    @tf.function(jit_compile=jit)
    def second(x, dy, direction):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = layer(x, training=True)
            along = tf.reduce_sum(inner.gradient(y, x, dy) * direction)
        return outer.gradient(along, x)

    found = second(*(tf.constant(a, "float32") for a in (x, dy, direction)))

    # The Hessian is symmetric, so Hessian times direction is the gradient's change along it.
    def first(x):
        return reference(x, dy, gamma, beta, axis=axis).dx

    step = 1e-5
    assert_close(found, (first(x + step * direction) - first(x - step * direction)) / (2 * step), 2e-4)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("signature", [[None, 6, 6, 5], [None, None, None, 5], [None, None, None, None]])
def test_shapes_known_only_when_run(signature, jit, rng, reference):
    layer = built((None, 6, 6, 5), rng, momentum=0.0)
    # As the output of a generator, where even the number of channels is unknown.
    step = tf.function(lambda x: layer(x, training=True), input_signature=[tf.TensorSpec(signature)], jit_compile=jit)
    for batch in (3, 70):
        x = rng.normal(20.0, 2.0, (batch, 6, 6, 5)).astype("float32")
        expected = reference(x, x, layer.gamma.numpy(), layer.beta.numpy())
        assert_close(step(x), expected.y, 1e-5)
        assert_close(layer.moving_variance, expected.variance, 1e-5)


# --- exact where the mean is large


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_mean_1e4_from_the_first_step(mode, masked, rng, reference):
    """Keras loses most digits: its float32 sums round in proportion to the mean."""
    shape = (16, 12, 12, 8)
    x, dy = rng.normal(1e4, 1.0, shape).astype("float32"), rng.normal(size=shape)
    ours, theirs = built(shape, momentum=0.0), built(shape, cls=keras.layers.BatchNormalization, momentum=0.0)
    mask = np.ones(shape[:-1], bool) if masked else None
    expected = reference(x, dy, np.ones(8), np.zeros(8))
    our_y, _, our_dgamma, _ = gradients(ours, x, dy, mode, mask)
    their_y, _, their_dgamma, _ = gradients(theirs, x, dy, mode)
    assert 1000 * np.max(np.abs(our_y - expected.y)) < np.max(np.abs(their_y - expected.y))
    assert 1000 * np.max(np.abs(our_dgamma - expected.dgamma)) < np.max(np.abs(their_dgamma - expected.dgamma))
    assert_close(ours.moving_mean, expected.mean, 1e-7)
    assert_close(ours.moving_variance, expected.variance, 1e-5)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_constant_channel_comes_out_as_beta(policy, rng):
    layer = built((32, 14, 14, 5), rng, epsilon=1e-5, dtype=policy)
    x = np.full((32, 14, 14, 5), 3333.3, "float32")
    y = layer(tf.cast(x, layer.compute_dtype), training=True)
    beta = np.broadcast_to(tf.cast(layer.beta.value, layer.compute_dtype), x.shape)
    assert np.array_equal(y, beta)


def test_without_pivot_the_numbers_are_the_same_where_means_are_small(rng):
    x = rng.normal(size=(16, 6, 6, 5)).astype("float32")
    with_pivot, without = built(x.shape), built(x.shape, pivot=False)
    mask = np.ones(x.shape[:-1], bool)
    for arguments in ({}, {"mask": mask}):
        expected = with_pivot(x, training=True, **arguments).numpy()
        assert_close(without(x, training=True, **arguments), expected, 1e-6)


# --- masks


def masked_case(rng, shape, mask_shape, offset=100.0):
    x, dy = rng.normal(offset, 2.0, shape).astype("float32"), rng.normal(size=shape)
    mask = rng.random(mask_shape) < 0.6
    mask.flat[0] = True
    whole = mask[..., None] if mask.ndim == x.ndim - 1 else mask
    return x, dy, mask, np.broadcast_to(whole, shape)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("shape", "axis", "mask_shape"),
    [
        ((12, 7, 5), -1, (12, 7)),
        ((12, 7, 5), -1, (12, 1)),
        ((12, 7, 5), -1, (12, 7, 1)),
        ((40, 7, 5), -1, (40, 7, 5)),
        ((12, 5, 7), 1, (12, 1, 7)),
        ((24, 5, 7), 1, (24, 5)),
        ((6, 4, 3, 5), -1, (6, 4, 3)),
        ((40, 5), -1, (40,)),
    ],
)
def test_what_is_masked_touches_nothing(shape, axis, mask_shape, mode, rng, reference):
    layer = built(shape, rng, axis=axis, momentum=0.0)
    x, dy, mask, whole = masked_case(rng, shape, mask_shape)
    expected = reference(x, dy, layer.gamma.numpy(), layer.beta.numpy(), axis=axis, mask=whole)
    x[~whole] = rng.choice([np.nan, np.inf, -np.inf], np.count_nonzero(~whole))
    y, *found = gradients(layer, x, np.where(whole, dy, 0), mode, tf.constant(mask))
    assert np.all(np.isfinite(y))
    assert_matches([np.where(whole, y, expected.y), *found], expected, 2e-5)
    assert_close(layer.moving_mean, expected.mean, 1e-6)
    assert_close(layer.moving_variance, expected.variance, 1e-5)


def test_masked_finite_values_come_out_as_in_keras(rng):
    x, _, mask, _ = masked_case(rng, (12, 7, 5), (12, 7), offset=0.5)
    ours, theirs = built(x.shape), built(x.shape, cls=keras.layers.BatchNormalization)
    for training in (True, False):
        expected = theirs(x, training=training, mask=mask).numpy()
        assert_close(ours(x, training=training, mask=mask), expected, 1e-5)


def test_nan_under_the_mask_in_inference(rng):
    x, dy, mask, whole = masked_case(rng, (12, 7, 5), (12, 7))
    layer = built(x.shape, rng)
    y, dx, dgamma, dbeta = gradients(layer, x, np.where(whole, dy, 0), mask=mask, training=False)
    x[~whole] = np.nan
    found = gradients(layer, x, np.where(whole, dy, 0), mask=mask, training=False)
    assert_close(np.where(whole, found[0], 0), np.where(whole, y, 0), 0)
    assert np.all(np.isfinite(found[0]))
    for part, expected in zip(found[1:], (dx, dgamma, dbeta), strict=True):
        assert_close(part, expected, 1e-6)


def test_one_channel_first_with_a_mask(rng):
    """Keras: IndexError."""
    x = rng.normal(size=(6, 1, 4)).astype("float32")
    y = built(x.shape, axis=1)(x, training=True, mask=np.ones((6, 1), bool))
    assert_close(y, built(x.shape, axis=1)(x, training=True).numpy(), 1e-6)


def test_mask_of_another_rank_is_refused():
    layer = built((4, 6, 6, 3))
    with pytest.raises(ValueError, match=r"mask\.shape=\(4, 6\), inputs\.shape=\(4, 6, 6, 3\)"):
        layer(np.zeros((4, 6, 6, 3), "float32"), training=True, mask=np.ones((4, 6), bool))


def test_mask_of_another_size_is_refused():
    layer = built((4, 6, 3))
    with pytest.raises(ValueError, match=r"broadcastable.*mask\.shape=\(4, 5, 1\), inputs\.shape=\(4, 6, 3\)"):
        layer(np.zeros((4, 6, 3), "float32"), training=True, mask=np.ones((4, 5), bool))


# --- batches that must not count


def nothing_valid(kind, rng):
    if kind == "empty":
        return np.zeros((0, 5), "float32"), None
    x = rng.normal(size=(8, 5)).astype("float32")
    if kind == "masked":
        return x, np.zeros((8,), bool)
    x[3, 2] = np.nan if kind == "nan" else np.inf
    return x, None


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("renorm", [False, True])
@pytest.mark.parametrize("kind", ["empty", "masked", "nan", "inf"])
def test_a_bad_batch_changes_no_average(kind, renorm, mode, static, rng):
    """Keras: one NaN or empty batch makes the averages NaN for good; a masked one pulls them towards 0."""
    layer = built((None, 5), rng, renorm=renorm)
    before = [np.array(weight) for weight in layer.get_weights()]
    x, mask = nothing_valid(kind, rng)
    shape = x.shape if static else (None, 5)

    def step(x):
        return layer(x, training=True, mask=mask)

    if mode != "eager":
        step = tf.function(step, input_signature=[tf.TensorSpec(shape)], jit_compile=mode == "xla")
    y = step(tf.constant(x))
    assert y.shape == x.shape
    if kind in ("empty", "masked"):
        assert np.all(np.isfinite(y))
    for weight, old in zip(layer.get_weights(), before, strict=True):
        assert np.array_equal(weight, old)


@pytest.mark.parametrize("static", [True, False])
def test_an_empty_batch_has_finite_gradients(static):
    layer = built((None, 5))
    shape = (0, 5) if static else (None, 5)

    @tf.function(input_signature=[tf.TensorSpec(shape)])
    def step(x):
        with tf.GradientTape() as tape:
            y = layer(x, training=True)
        return tape.gradient(y, [layer.gamma.value, layer.beta.value])

    for gradient in step(np.zeros((0, 5), "float32")):
        assert np.array_equal(gradient, np.zeros(5))


def test_only_the_channels_without_valid_elements_stay(rng):
    layer = built((8, 3), momentum=0.0)
    mask = np.ones((8, 3), bool)
    mask[:, 1] = False
    x = rng.normal(7.0, 1.0, (8, 3)).astype("float32")
    layer(x, training=True, mask=mask)
    assert layer.moving_mean.numpy()[1] == 0
    assert_close(layer.moving_mean.numpy()[[0, 2]], x.mean(0)[[0, 2]], 1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_batch_of_one_is_finite(mode, rng):
    layer = built((1, 5), rng, momentum=0.5)
    before = layer.moving_variance.numpy()
    x = rng.normal(1e3, 1.0, (1, 5)).astype("float32")
    y, dx, dgamma, _ = gradients(layer, x, rng.normal(size=(1, 5)), mode)
    assert np.array_equal(y, layer.beta.numpy()[None])
    assert np.array_equal(dx, np.zeros((1, 5)))
    assert np.array_equal(dgamma, np.zeros(5))
    assert np.array_equal(layer.moving_variance, before)
    assert layer.skipped_batches == 1


# --- in fit


@pytest.mark.parametrize("jit", [False, True])
def test_fit_learns_the_statistics_of_the_data(jit, rng):
    x = rng.normal([3.0, -50.0, 1e4], [1.0, 0.2, 5.0], (256, 3)).astype("float32")
    model = keras.Sequential([keras.Input((3,)), kbn.BatchNormalization(momentum=0.5), keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=jit)
    model.fit(x, rng.normal(size=(256, 1)), epochs=12, batch_size=256, verbose=0)
    assert_close(model.layers[0].moving_mean, x.mean(0, dtype="float64"), 1e-3)
    assert np.allclose(model.layers[0].moving_variance, x.var(0, dtype="float64"), rtol=1e-2)


class Subclassed(keras.Model):
    """As most people write them: nothing but `call` says how it is built."""

    def __init__(self):
        super().__init__()
        self.inner = [keras.layers.Dense(5), kbn.BatchNormalization(momentum=0.0), keras.layers.Dense(1)]

    def call(self, x, training=None):
        for layer in self.inner:
            x = layer(x, training=training) if isinstance(layer, kbn.BatchNormalization) else layer(x)
        return x


@pytest.mark.parametrize("way", ["fit", "call"])
def test_a_subclassed_model_builds_the_layer(way, rng):
    """Where Keras builds a model by tracing its call, no variable can be given a value."""
    x, model = rng.normal(size=(16, 3)).astype("float32"), Subclassed()
    model.compile("sgd", "mse", run_eagerly=way == "call")
    if way == "call":
        model(x)
    model.fit(x, np.zeros((16, 1)), verbose=0)
    assert np.any(model.inner[1].moving_mean != 0)
    assert model.inner[1].skipped_batches == 0


# --- configs and files

EVERY_ARGUMENT = {
    "axis": 1,
    "momentum": 0.8,
    "epsilon": 1e-4,
    "center": False,
    "scale": True,
    "beta_initializer": "ones",
    "gamma_initializer": {
        "module": "keras.initializers",
        "class_name": "Constant",
        "config": {"value": 0.3},
        "registered_name": None,
    },
    "moving_mean_initializer": "ones",
    "moving_variance_initializer": "zeros",
    "beta_regularizer": "l1",
    "gamma_regularizer": "l2",
    "beta_constraint": "non_neg",
    "gamma_constraint": "max_norm",
    "renorm": True,
    "renorm_clipping": {"rmax": 3.0, "rmin": 0.3, "dmax": 5.0},
    "renorm_momentum": 0.95,
    "synchronized": True,
    "name": "every",
    "dtype": "mixed_bfloat16",
    "trainable": False,
}


@pytest.mark.parametrize(
    "own",
    [
        {},
        {"pivot": False, "debias": True, "unbiased": True, "freeze": "statistics"},
        {"synchronized": False, "virtual_batch_size": 4, "momentum": None, "freeze": "inference"},
    ],
)
def test_config_holds_every_argument(own):
    config = kbn.BatchNormalization(**{**EVERY_ARGUMENT, **own}).get_config()
    again = kbn.BatchNormalization.from_config(config).get_config()
    assert again == config
    default = kbn.BatchNormalization().get_config()
    unchanged = {key for key, value in default.items() if config[key] == value}
    assert unchanged == {"scale"} | ({"synchronized"} & own.keys())
    assert {key: config.get(key) for key in own} == own
    # Keras refuses what it does not know, so what is as by default is not in the config.
    assert set(config) - set(default) == set(own) - {"synchronized", "momentum"}


def test_config_goes_to_keras_and_back():
    ours = kbn.BatchNormalization(**EVERY_ARGUMENT).get_config()
    theirs = keras.layers.BatchNormalization(**EVERY_ARGUMENT).get_config()
    assert ours == theirs
    assert kbn.BatchNormalization.from_config(theirs).get_config() == ours
    assert keras.layers.BatchNormalization.from_config(ours).get_config() == theirs


def test_config_of_tf_keras_2_loads():
    """Keras 3: `int() argument must be ... not 'list'` (keras-team/keras#19649)."""
    config = {**kbn.BatchNormalization().get_config(), "axis": [3]}
    layer = kbn.BatchNormalization.from_config(config)
    assert layer.axis == 3


@pytest.mark.parametrize("order", ["kbn, keras", "keras, kbn"])
def test_file_loads_with_only_import_kbn(order, tmp_path, run_python, rng):
    path = str(tmp_path / "model.keras")
    model = keras.Sequential(
        [keras.Input((6, 6, 3)), kbn.BatchNormalization(name="first"), kbn.BatchNormalization(axis=1, renorm=True)]
    )
    for layer in model.layers:
        randomise(layer, rng)
    x = rng.normal(size=(4, 6, 6, 3)).astype("float32")
    np.save(tmp_path / "x.npy", x)
    model.save(path)
    run_python(
        f"import {order}\n"
        "import sys, numpy as np\n"
        "x, y = (f'{sys.argv[1]}/{name}.npy' for name in 'xy')\n"
        "np.save(y, keras.saving.load_model(f'{sys.argv[1]}/model.keras')(np.load(x)))\n",
        str(tmp_path),
    )
    assert_close(np.load(tmp_path / "y.npy"), model(x).numpy(), 1e-6)


@pytest.mark.parametrize("renorm", [False, True])
def test_weights_go_to_keras_and_back(renorm, tmp_path, rng):
    def model(cls):
        return keras.Sequential([keras.Input((5,)), cls(renorm=renorm, name="bn")])

    ours, theirs = model(kbn.BatchNormalization), model(keras.layers.BatchNormalization)
    randomise(ours.layers[0], rng)
    ours.save_weights(tmp_path / "ours.weights.h5")
    theirs.load_weights(tmp_path / "ours.weights.h5")
    fresh = model(kbn.BatchNormalization)
    theirs.save_weights(tmp_path / "theirs.weights.h5")
    fresh.load_weights(tmp_path / "theirs.weights.h5")
    for found, expected in zip(fresh.get_weights(), ours.get_weights(), strict=True):
        assert np.array_equal(found, expected)


# --- refusals


@pytest.mark.parametrize(
    ("shape", "axis", "message"),
    [
        ((4, 3), 2, r"Axis 2 is out of bounds for input shape \(4, 3\)"),
        ((4, 3), -3, "Axis -3 is out of bounds"),
        ((4, None), -1, r"must have a known size. Received: axis=-1, input_shape=\(4, None\)"),
    ],
)
def test_shapes_that_cannot_be_built(shape, axis, message):
    layer = kbn.BatchNormalization(axis=axis)
    with pytest.raises(ValueError, match=message):
        layer.build(shape)


def test_symbolic_output_shape_and_dtype():
    layer = kbn.BatchNormalization(dtype="mixed_float16")
    y = layer(keras.Input((None, 8)))
    assert y.shape == (None, None, 8)
    assert y.dtype == "float16"
    with pytest.raises(ValueError, match="out of bounds"):
        kbn.BatchNormalization(axis=4).compute_output_shape((None, 8))
