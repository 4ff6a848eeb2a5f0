"""Layers and models whose `call` is made of Keras layers and operations are folded into; what cannot be read is told."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import kbn
from folding_helpers import (
    assert_folds,
    assert_same_function,
    assert_settled,
    decisions,
    end,
    float64,  # noqa: F401  # a fixture for every test here
    norm,
)
from kbn.export import fold
from kbn.export.errors import UnsupportedError
from trained_models import computed, random_inputs, randomized


class Block(layers.Layer):
    """Convolution, normalization, a residual, in Keras layers and operations."""

    def __init__(self, own=False, **arguments):
        super().__init__(**arguments)
        self.conv = layers.Conv2D(3, 3, padding="same", name="conv")
        self.bn = (kbn.BatchNormalization if own else layers.BatchNormalization)(name="bn")

    def build(self, input_shape):
        self.conv.build(input_shape)
        self.bn.build((*input_shape[:-1], 3))

    def call(self, inputs):
        return ops.relu(self.bn(self.conv(inputs))) + inputs


class Blocks(layers.Layer):
    """Two blocks in a list, and one of them again."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.blocks = [Block(name="first"), Block(name="second")]

    def build(self, input_shape):
        for block in self.blocks:
            block.build(input_shape)

    def call(self, inputs):
        for block in (*self.blocks, self.blocks[0]):
            inputs = block(inputs)
        return inputs


class Network(keras.Model):
    """Subclassed all through."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.body = Blocks(name="body")
        self.head = keras.Sequential([layers.GlobalAveragePooling2D(), layers.Dense(2, name="dense"), norm("last")])

    def call(self, inputs, training=False):
        return ops.tanh(self.head(self.body(inputs), training=training))


def functional(layer, shape=(6, 6, 3), calls=1):
    inputs = keras.Input(shape, name="input")
    tensor = inputs
    for _ in range(calls):
        tensor = layer(tensor)
    return randomized(keras.Model(inputs, end()(tensor)))


def built(model, *inputs):
    model(*inputs)
    return randomized(model)


@pytest.mark.parametrize("own", [False, True], ids=["keras", "kbn"])
def test_a_composite_layer(own):
    folded = assert_folds(functional(Block(own, name="block")), {"bn": ("conv",)}, rule="backward")
    assert [type(layer) for layer in folded.layers] == [layers.InputLayer, layers.Conv2D, layers.Activation]


@pytest.mark.parametrize("calls", [1, 2])
def test_blocks_of_blocks_called_again(calls):
    assert_folds(functional(Blocks(), calls=calls), {"bn": ("conv",), "bn_1": ("conv_1",)}, rule="backward")


def _float32():
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


def test_a_subclassed_model_saves_and_loads_as_keras_own(tmp_path):
    _float32()
    model = built(Network(name="network"), keras.Input((6, 6, 3)))
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype("float32")
    folded, report = fold(model)
    assert {row.decision for row in report.rows} == {"folded"}
    assert len(report.rows) == 3
    assert folded.name == "network"
    np.testing.assert_allclose(folded(x), model(x), rtol=1e-5, atol=1e-5)
    assert_settled(folded)
    folded.save(tmp_path / "folded.keras")
    loaded = keras.models.load_model(tmp_path / "folded.keras")
    np.testing.assert_array_equal(loaded(x), folded(x))
    assert all(type(layer).__module__.startswith("keras.") for layer in loaded.layers)


def test_a_subclassed_model_within_a_functional_one():
    model = functional(Network(name="network"))
    folded, report = fold(model)
    assert {row.decision for row in report.rows} == {"folded"}
    assert_same_function(model, folded)
    assert_settled(folded)


class Sum(layers.Layer):
    """Two inputs, in a list, a dictionary or by name."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.dense, self.bn = layers.Dense(4, name="dense"), norm()

    def call(self, inputs, other=None):
        if isinstance(inputs, dict):
            inputs, other = inputs["left"], inputs["right"]
        elif isinstance(inputs, list | tuple):
            inputs, other = inputs
        return self.bn(self.dense(inputs)) - other


CALLS = {
    "list": lambda layer, x, y: layer([x, y]),
    "dictionary": lambda layer, x, y: layer({"right": y, "left": x}),
    "named": lambda layer, x, y: layer(other=y, inputs=x),
    "position": lambda layer, x, y: layer(x, y),
    "twice": lambda layer, x, y: layer([layer([x, y]), x]),
}


@pytest.mark.parametrize("kind", CALLS)
def test_two_inputs(kind):
    x, y = keras.Input((4,), name="x"), keras.Input((4,), name="y")
    model = randomized(keras.Model([x, y], end()(CALLS[kind](Sum(), x, y))))
    assert_folds(model, {"bn": ("dense",)}, rule="backward")


def test_inference_is_what_is_read():
    """The branch that training takes is not."""

    class Either(layers.Layer):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.dense, self.bn = layers.Dense(4, name="dense"), norm()

        def call(self, inputs, training=None):
            hidden = self.bn(self.dense(inputs), training=training)
            return ops.exp(hidden) if training else hidden

    assert_folds(functional(Either(), (4,)), {"bn": ("dense",)}, rule="backward")


def test_a_mask_that_is_made_inside_reaches_what_is_behind():
    class Tokens(layers.Layer):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.table, self.dense = layers.Embedding(5, 4, mask_zero=True), layers.Dense(4, name="dense")

        def call(self, inputs):
            return self.dense(self.table(inputs))

    tokens = keras.Input((6,), dtype="int32")
    model = randomized(keras.Model(tokens, layers.LSTM(3)(norm()(Tokens()(tokens)))))
    assert_folds(model, {"bn": ("dense",)}, rule="backward")


class OwnWeights(Block):
    def build(self, input_shape):
        super().build(input_shape)
        self.factor = self.add_weight(shape=(3,), name="factor")

    def call(self, inputs):
        return super().call(inputs) * self.factor


class TensorFlowInside(Block):
    def call(self, inputs):
        return tf.math.l2_normalize(super().call(inputs), axis=-1)


class OwnCall(Block):
    def __call__(self, *args, **kwargs):
        return super().__call__(*args, **kwargs)


WHOLE = {
    "own weights": (OwnWeights, "it computes with weights of its own"),
    "a TensorFlow function": (TensorFlowInside, "its call is not made of Keras layers and operations alone: "),
    "its own __call__": (OwnCall, "its class has a __call__ of its own"),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_what_cannot_be_read_stays_whole(kind):
    layer_type, reason = WHOLE[kind]
    model = functional(layer_type(name="block"))
    folded, report = fold(model)
    (row,) = report.rows
    assert (row.layer, row.decision) == ("bn", "kept")
    assert f"it is inside block ({layer_type.__name__}), a layer that is kept whole: {reason}" in row.reason
    assert type(folded.layers[1]) is layer_type
    assert_same_function(model, folded)


class Training(Block):
    def call(self, inputs, training=None):
        return super().call(inputs)


def test_training_written_into_the_call_stays_whole():
    model = functional(lambda x: Training(name="block")(x, training=True))
    (row,) = fold(model)[1].rows
    assert (row.decision, row.layer) == ("kept", "bn")
    assert "its call has training=True written into it" in row.reason


def test_a_call_with_a_mask_stays_whole():
    class Masked(layers.Layer):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.supports_masking = True
            self.dense, self.bn = layers.Dense(4), norm()

        def call(self, inputs, mask=None):
            return self.bn(self.dense(inputs), mask=mask)

    tokens = keras.Input((6,), dtype="int32")
    tensor = Masked(name="block")(layers.Embedding(5, 4, mask_zero=True)(tokens))
    model = randomized(keras.Model(tokens, layers.LSTM(3)(tensor)))
    folded, report = fold(model)
    assert "it is called with a mask" in report.rows[0].reason
    assert_same_function(model, folded)


def test_a_subclassed_model_that_cannot_be_read_is_told():
    class Own(keras.Model):
        def __init__(self):
            super().__init__(name="own")
            self.dense, self.bn = layers.Dense(4), norm()

        def call(self, inputs):
            return tf.math.l2_normalize(self.bn(self.dense(inputs)), axis=-1)

    _float32()
    model = Own()
    model(np.zeros((2, 4)))
    with pytest.raises(
        UnsupportedError, match=r"subclass of keras\.Model \(Own\) whose graph of layers cannot be read"
    ):
        fold(model)


@pytest.mark.parametrize("layer_type", [Block, Blocks, TensorFlowInside], ids=lambda layer_type: layer_type.__name__)
def test_reading_leaves_nothing_behind(layer_type):
    model = functional(layer_type(name="block"))

    def nodes():
        return [(each, len(each._inbound_nodes), len(each._outbound_nodes)) for each in model._flatten_layers()]

    before, weights = nodes(), model.get_weights()
    inputs = random_inputs(model)
    expected = computed(model, inputs)
    for _ in range(2):
        fold(model)
    assert nodes() == before
    for old, new in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(computed(model, inputs)[0], expected[0])


class Residual(layers.Layer):
    """Arithmetic alone: neither layers nor weights."""

    def __init__(self, scale, **arguments):
        super().__init__(**arguments)
        self.scale = scale

    def call(self, inputs):
        first, second = inputs
        return first + second * self.scale


def test_the_arithmetic_of_a_layer_that_holds_none_folds():
    inputs = keras.Input((5,), name="input")
    branch = norm()(layers.Dense(5, name="dense")(inputs))
    model = randomized(keras.Model(inputs, layers.Softmax()(Residual(0.17)([inputs, branch]))))
    folded, report = fold(model)
    assert decisions(report)["bn"] == ("folded", ("dense",))
    assert_settled(folded)
    assert [layer.name for layer in folded.layers if layer.weights] == ["dense"]
    assert not any(isinstance(layer, Residual) for layer in folded._flatten_layers())
    assert "Multiply" not in {type(operation).__name__ for operation in folded.operations}
    assert_same_function(model, folded)


class Stops(layers.Layer):
    """Destroys masks, as a layer does that does not say otherwise."""

    def call(self, inputs):
        return inputs * 2.0


class Passes(Stops):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.supports_masking = True


class Makes(Passes):
    def compute_mask(self, inputs, mask=None):
        return ops.any(inputs > 0, axis=-1)


class Drops(Passes):
    def compute_mask(self, inputs, mask=None):
        return None


class Holds(layers.Layer):
    """A layer inside passes the mask on."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.dense = layers.Dense(4, name="dense")

    def build(self, input_shape):
        self.dense.build(input_shape)

    def call(self, inputs):
        return self.dense(inputs)


@pytest.mark.filterwarnings("ignore:.*does not support mask")
@pytest.mark.parametrize(
    "between",
    [lambda: lambda x: x * 2.0, Stops, Passes, Makes, Drops, Holds, lambda: layers.Rescaling(2.0), norm],
    ids=["arithmetic", "stops", "passes", "makes", "drops", "holds", "rescaling", "norm"],
)
@pytest.mark.parametrize("masked", [True, False])
def test_masks_reach_what_they_reached(between, masked):
    tokens = keras.Input((6,), dtype="int32", name="tokens")
    tensor = between()(layers.Embedding(5, 4, mask_zero=masked, name="words")(tokens))
    model = randomized(keras.Model(tokens, layers.Dense(2)(layers.LSTM(3)(tensor))))
    folded, _ = fold(model)
    array = np.array([[1, 2, 0, 0, 3, 0], [0, 4, 1, 0, 0, 0], [3, 2, 1, 4, 1, 2]])
    np.testing.assert_allclose(computed(folded, array)[0], computed(model, array)[0], rtol=0, atol=1e-12)
    assert_settled(folded)
