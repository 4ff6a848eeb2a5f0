"""Faults that random and hostile models brought to light, each with the smallest model that showed it."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from folding_helpers import (
    asked,
    assert_same_function,
    chain,
    end,
    float64,  # noqa: F401  # a fixture for every test here
    norm,
    with_maps,
)
from kbn.export import fold, inspect
from kbn.export.affine import Affine
from kbn.export.errors import UnsupportedError, UsageError
from kbn.export.rules.rule import Refusal
from trained_models import randomized


def conv(filters=4, **arguments):
    return layers.Conv2D(filters, 3, **arguments)


WRONG_NUMBERS = {
    # The ones channel is 0 in the zeros that ZeroPadding puts around, and max(0, s x + t) is not s max(0, x) + t max(0, 1).
    "ones channel: BN, ZeroPadding, MaxPooling, padded conv": lambda: with_maps(
        chain(
            (8, 8, 3),
            conv(activation="tanh"),
            norm(),
            layers.ZeroPadding2D(1),
            layers.MaxPooling2D(3, 2),
            conv(padding="same"),
        ),
        "positive",
    ),
    # The map stands behind the zeros, so that its shift reaches them; the channel is 0 there.
    "ones channel: ZeroPadding, BN, padded conv": lambda: chain(
        (None, None, 3), conv(activation="tanh"), layers.ZeroPadding2D(1), norm(), conv(padding="same")
    ),
}


@pytest.mark.parametrize("kind", WRONG_NUMBERS)
def test_zero_padding_within_the_reach_of_a_ones_channel(kind):
    model = WRONG_NUMBERS[kind]()
    assert_same_function(model, fold(model)[0])


@pytest.mark.parametrize("where", ["behind the input", "behind Dense", "with dropout between"])
def test_a_normalization_called_on_its_own_output(where):
    """One call takes the map of the other in, and then goes with it: a map is lost."""
    inputs, bn = keras.Input((5,)), norm()
    tensor = layers.Dense(5)(inputs) if where == "behind Dense" else inputs
    tensor = bn(tensor)
    tensor = layers.Dropout(0.5)(tensor) if where == "with dropout between" else tensor
    behind = end() if where == "behind Dense" else layers.Dense(3)
    model = randomized(keras.Model(inputs, behind(bn(tensor))))
    assert_same_function(model, fold(model)[0])


def test_a_bound_behind_two_paths_that_join():
    """Two maps of scale s arrive at ReLU(m): each answers m / s, though both together make m / s^2."""
    inputs = keras.Input((5,))
    tensor = layers.Rescaling(4.0)(layers.Dense(4, activation="tanh")(inputs))
    product = layers.Multiply()([layers.Dropout(0.5)(tensor), layers.Identity()(tensor)])
    model = randomized(keras.Model(inputs, layers.Dense(3)(layers.ReLU(1.0)(product))))
    assert_same_function(model, fold(model)[0])


def test_a_custom_layer_of_a_known_name_inside_time_distributed():
    """The class inside is taken from keras.layers by its name alone."""

    class Dense(layers.Dense):
        def call(self, inputs):
            return 2.0 * super().call(inputs) + 1.0

    model = chain((4, 3), layers.TimeDistributed(Dense(5)), norm(), end())
    assert inspect(model).rows[0].decision == "kept"


def test_layer_normalization_over_axes_of_mixed_signs():
    """Keras sorts [-1, 2] as they are written and lays gamma out (5, 3), which it then reshapes to (3, 5)."""
    model = chain((4, 3, 5), layers.LayerNormalization(axis=[-1, 2]), norm(axis=2), end())
    assert_same_function(model, fold(model)[0])


@keras.saving.register_keras_serializable("kbn_tests")
def mixing(x):
    return x / ops.sum(ops.abs(x), axis=-1, keepdims=True)


@pytest.mark.parametrize("builtin", [False, True])
@pytest.mark.parametrize("activation", [lambda: mixing, lambda: layers.LeakyReLU(0.25), lambda: layers.Softmax()])
def test_an_activation_that_is_no_name(activation, builtin):
    """config["activation"] is a dictionary: unhashable. What it does to a channel of ones is not known, either."""
    before = [conv(activation=activation())] if builtin else [conv(), layers.Activation(activation())]
    model = chain((8, 8, 3), *before, norm(), conv(padding="same"))
    assert_same_function(model, fold(model)[0])


def test_one_rescaling_for_inputs_of_several_shapes():
    """The map is taken from the first call's shape: here 3 channels, where the second has 4."""
    inputs = [keras.Input((4, 4, 3)), keras.Input((4, 4, 4))]
    rescaling = layers.Rescaling(2.0, 0.5)
    model = keras.Model(inputs, [layers.Dense(2)(layers.Flatten()(rescaling(x))) for x in inputs])
    assert_same_function(randomized(model), fold(model)[0])


@pytest.mark.parametrize("layer_type", [layers.ConvLSTM1D, layers.ConvLSTM2D])
def test_conv_lstm_of_channels_first_has_them_on_axis_2(layer_type):
    """Axis 1 holds the steps."""
    shape = (3, 3, 6, 6)[: 3 + (layer_type is layers.ConvLSTM2D)]
    layer = layer_type(2, 3, data_format="channels_first", name="x")
    rows = inspect(chain(shape, norm("steps", axis=1), layer)).rows
    assert rows[0].decision == "kept"
    again = layer_type(2, 3, data_format="channels_first", name="x")
    assert inspect(chain(shape, norm("channels", axis=2), again)).rows[0].decision == "folded"


def test_conv_lstm_of_channels_first_and_one_number_for_all():
    """Spread over the 4 steps in place of the 3 channels, which does not fit the kernel: fold raises."""
    model = chain((4, 3, 6, 6), layers.Rescaling(2.0, 0.5), layers.ConvLSTM2D(2, 3, data_format="channels_first"))
    fold(model)


def test_a_model_with_a_call_of_its_own_is_not_inlined():
    """`__call__` is looked at in layers, not in models."""

    class Doubled(keras.Model):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.dense, self.bn = layers.Dense(4), norm()

        def call(self, inputs):
            return self.bn(self.dense(inputs))

        def __call__(self, *args, **kwargs):
            return super().__call__(*args, **kwargs) * 2.0

    inputs = keras.Input((5,))
    model = randomized(keras.Model(inputs, layers.Dense(2)(Doubled()(inputs))))
    assert_same_function(model, fold(model)[0])


def test_dropout_that_drops_makes_no_channel_of_ones():
    inputs = keras.Input((16, 16, 3))
    x = layers.Dropout(0.5)(layers.Conv2D(8, 3, activation="relu")(inputs), training=True)
    model = randomized(keras.Model(inputs, layers.Conv2D(9, 3, padding="same")(norm()(x))))
    assert inspect(model).rows[0].decision == "kept"


def test_a_function_that_has_the_name_of_keras_own_is_told():
    def relu(x):
        return ops.maximum(x, -0.5)

    with pytest.raises(UnsupportedError, match="function of your own that is saved as 'relu'"):
        inspect(chain((5,), layers.Dense(4, activation=relu), norm()))
    model = chain((5,), norm(), layers.Dense(4, activation=ops.relu))  # another function, but the same one in effect
    assert_same_function(model, fold(model)[0])


@pytest.mark.parametrize("kind", ["training", "functions", "none"])
def test_a_subclassed_model_that_does_more_than_call_layers(kind):
    class Odd(keras.Model):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.dense, self.bn, self.other = layers.Dense(4), norm(), layers.Dense(4)

        def call(self, x):
            y = self.bn(self.dense(x), **({"training": True} if kind == "training" else {}))
            if kind == "functions":
                return ops.cond(ops.sum(x) > 0, lambda: self.other(y), lambda: y)
            return (self.other(y), None) if kind == "none" else self.other(y)

    model = Odd()
    model(np.ones((2, 5)))
    told = {"training": "has training=True written", "functions": "passes functions", "none": "must return tensors"}
    with pytest.raises(UnsupportedError, match=told[kind]):
        fold(model)


def test_a_subclass_of_a_normalization_has_a_row():
    class Squared(layers.BatchNormalization):
        def call(self, inputs, training=None, mask=None):
            return super().call(inputs, training=training, mask=mask) ** 2

    model = chain((5,), layers.Dense(4), Squared(name="squared"), layers.Dense(3))
    folded, report = fold(model)
    assert "Squared is a subclass of BatchNormalization" in report.rows[0].reason
    assert_same_function(model, folded)


def test_what_is_no_model_is_told():
    with pytest.raises(UsageError, match="not NoneType"):
        fold(None)


def test_what_draws_random_numbers_is_not_frozen():
    class Noisy(layers.Layer):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.dense, self.bn = layers.Dense(4), norm("inside")

        def call(self, inputs):
            return self.bn(self.dense(inputs) + keras.random.normal((4,)))

    (row,) = inspect(chain((5,), Noisy(name="noisy"))).rows
    assert row.decision == "kept"
    assert "its call comes out differently each time" in row.reason


def test_an_output_that_is_not_used_keeps_nothing_from_folding():
    inner_in = keras.Input((5,))
    hidden = layers.Dense(4, name="dense")(inner_in)
    inner = keras.Model(inner_in, [hidden, ops.tanh(hidden)])
    inputs = keras.Input((5,))
    model = randomized(keras.Model(inputs, end()(norm()(inner(inputs)[0]))))
    assert inspect(model).rows[0].rule == "backward"


def test_every_row_is_of_a_layer_that_was_there():
    inputs = keras.Input((32, 32, 3))
    branches = [layers.Conv2D(64, 1)(inputs), ops.tanh(inputs), ops.tanh(inputs)]
    model = randomized(keras.Model(inputs, end()(norm()(layers.Concatenate()(branches)))))
    folded, report = fold(model)
    assert (
        sum(isinstance(layer, layers.BatchNormalization) for layer in folded.layers) == 2
    )  # one on each slice of a tanh
    assert [(row.layer, row.decision) for row in report.rows] == [("bn", "kept")]
    assert report.rows[0].reason.startswith("a slice of its channels stays; backward: ")
    assert_same_function(model, folded)


def test_resizing_lets_maps_pass():
    """Keras writes training=True into every call of it, its default, which does nothing."""
    model = chain((4, 4, 3), layers.Dense(4, name="taker"), layers.Resizing(6, 6, "nearest"), norm(), end())
    assert inspect(model).rows[0].into == ("taker",)


def test_resizing_with_a_fill_value_keeps_a_scale():
    """The rule lets a scale pass what is padded, with whatever number."""
    spec, rule = asked(layers.Resizing(6, 6, pad_to_aspect_ratio=True, fill_value=1.5), (4, 8, 3))
    assert isinstance(rule.pass_forward(spec, Affine.uniform(2.0, 0.0, 3, 3), (0,)), Refusal)


def test_bidirectional_with_a_backward_layer_of_its_own():
    """Its weights are under its own name, not under one that begins with backward_."""
    both = layers.Bidirectional(layers.GRU(2), backward_layer=layers.GRU(2, go_backwards=True), name="taker")
    assert inspect(chain((6, 3), norm(), both)).rows[0].into == ("taker",)


class Two(keras.Model):
    def __init__(self):
        super().__init__(name="two")
        self.dense, self.bn = layers.Dense(4, name="dense"), norm()

    def call(self, inputs):
        left, right = inputs.values() if isinstance(inputs, dict) else inputs
        return ops.tanh(self.bn(self.dense(left)) + right)


@pytest.mark.parametrize("kind", ["list", "dictionary"])
def test_a_subclassed_model_of_two_inputs(kind):
    """A list: 'The name "input" is used 2 times in the model'. A dictionary: a warning that names do not match keys."""
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    given = list(np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32"))
    given = given if kind == "list" else dict(zip(("left", "right"), given, strict=True))
    model = Two()
    model(given)
    folded, report = fold(randomized(model))
    assert report.rows[0].into == ("dense",)
    np.testing.assert_allclose(folded(given), model(given), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("policy", ["float64", "mixed_float16"])
def test_a_subclassed_model_of_another_precision(policy):
    """It is wrapped with float32 inputs, then refused since it casts them."""
    keras.config.set_dtype_policy(policy)

    class Own(keras.Model):
        def __init__(self):
            super().__init__(name="own")
            self.dense, self.bn = layers.Dense(4, name="dense"), norm()

        def call(self, inputs):
            return ops.tanh(self.bn(self.dense(inputs)))

    model = Own()
    model(np.zeros((2, 4)))
    assert fold(randomized(model))[1].rows[0].into == ("dense",)


def test_a_constant_of_a_wider_dtype_keeps_the_dtype_of_the_output():
    inputs = keras.Input((5,), dtype="float32")
    model = keras.Model(inputs, layers.Dense(4, dtype="float32")(inputs) * np.arange(1.0, 5.0))
    assert fold(model)[0].outputs[0].dtype == model.outputs[0].dtype == "float64"


def test_a_nested_model_of_dynamic_size_called_on_a_static_one():
    """The graph has the sizes that the nested model was built with, None; what is rebuilt has those of the call.

    So a constant behind the convolution is refused the first time and made the second: folding twice changes more.
    """
    reader = layers.Conv2D(2, 3, strides=3, padding="same", name="taker")
    inner = keras.Sequential([keras.Input((None, None, 3)), reader])
    folded, report = fold(chain((60, 60, 3), norm(), inner))
    again = fold(folded)[1]
    assert [row.decision for row in again.rows] == ["kept"] * report.count("kept")
