"""Moving maps over several paths: scale and shift apart, slices, all consumers or none, layers that several calls share."""

import keras
import pytest
from keras import layers

from folding_helpers import (
    assert_folds,
    assert_kept,
    assert_same_function,
    assert_settled,
    chain,
    decisions,
    end,
    float64,  # noqa: F401  # a fixture for every test here
    norm,
    with_maps,
)
from kbn.export import fold
from trained_models import randomized


def conv(name, filters=4, **arguments):
    return layers.Conv2D(filters, 3, name=name, **arguments)


def test_the_scale_goes_back_and_the_shift_on():
    model = with_maps(chain((8, 8, 3), conv("before"), layers.ReLU(), norm(), conv("behind")), "positive")
    # Forward alone costs as little, and comes first; a reader that takes no scale leaves the other way.
    assert_folds(model, {"bn": ("behind",)}, rule="forward")
    inputs = keras.Input((8, 8, 3))
    tensor = norm()(conv("before", activation="relu")(inputs))
    sums = layers.Add()([tensor, conv("side", activation="tanh")(inputs)])
    model = with_maps(randomized(keras.Model(inputs, conv("behind")(sums))), "positive")
    assert_folds(model, {"bn": ("before", "behind")}, rule="scale backward, shift forward")
    assert_kept(randomized(model), "only a positive scale without shift passes")


def test_the_shift_goes_back_and_the_scale_on():
    sequence = [conv("before"), norm(), layers.ReLU(), conv("behind", padding="same")]
    model = chain((8, 8, 3), *sequence)
    assert_folds(model, {"bn": ("before",)}, rule="backward")
    # A branch that takes a shift and no scale stands before.
    inputs = keras.Input((8, 8, 3))
    sums = layers.Add()([conv("before")(inputs), conv("side", activation="tanh")(inputs)])
    tensor = conv("behind", padding="same")(layers.ReLU()(norm()(sums)))
    model = with_maps(randomized(keras.Model(inputs, tensor)), "positive")
    assert_folds(model, {"bn": ("before", "behind")}, rule="shift backward, scale forward")


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_of_two_branches_the_one_that_can_takes_the_shift(activation):
    inputs = keras.Input((8, 8, 3))
    sums = layers.Add()([conv("side", activation=activation)(inputs), conv("before")(inputs)])
    model = with_maps(randomized(keras.Model(inputs, end()(norm()(sums)))), "positive")
    assert_folds(model, {"bn": ("side", "before") if activation == "relu" else ("kept", ())})


def _concatenated():
    inputs = keras.Input((8, 8, 3))
    branches = [conv("one")(inputs), conv("stuck", 2, activation="tanh")(inputs), conv("third", 3)(inputs)]
    return randomized(keras.Model(inputs, end()(norm()(layers.Concatenate(name="joined")(branches))), name="whole"))


def test_a_slice_that_cannot_stays_alone():
    model = _concatenated()
    folded, report = fold(model)
    (row,) = report.rows
    assert (row.layer, row.decision, row.into, row.rule) == ("bn", "kept", ("one", "third"), "slices")
    assert folded.name == "whole"
    (left,) = (layer for layer in folded.layers if isinstance(layer, layers.BatchNormalization))
    assert (left.name, left.gamma.shape, left.epsilon) == ("bn", (2,), 0.0)
    assert left.input is folded.get_layer("stuck").output
    assert folded.get_layer("stuck").activation is keras.activations.tanh
    assert_same_function(model, folded)
    assert_settled(folded)


def test_where_no_slice_can_nothing_is_split():
    inputs = keras.Input((8, 8, 3))
    branches = [conv(name, activation="tanh")(inputs) for name in ("one", "other")]
    model = randomized(keras.Model(inputs, end()(norm()(layers.Concatenate(name="joined")(branches)))))
    folded = assert_folds(model, {"bn": ("kept", ())})
    assert folded.get_layer("bn").gamma.shape == (8,)


def test_slices_of_slices():
    inputs = keras.Input((8, 8, 3))
    inner = layers.Concatenate()([conv("one")(inputs), conv("stuck", 2, activation="tanh")(inputs)])
    outer = layers.Concatenate()([layers.Dropout(0.5)(inner), conv("third")(inputs)])
    model = randomized(keras.Model(inputs, end()(norm()(outer))))
    folded = assert_folds(model, {"bn": ("kept", ("one", "third"))}, rule="slices")
    (left,) = (layer for layer in folded.layers if isinstance(layer, layers.BatchNormalization))
    assert left.gamma.shape == (2,)


CONSUMERS = {
    "two": (lambda x: [conv("a")(x), conv("b")(x)], ("a", "b")),
    "behind pooling": (lambda x: [conv("a")(layers.AveragePooling2D(2)(x)), layers.Dense(2, name="b")(x)], ("a", "b")),
    "a branch that ends": (lambda x: [conv("a")(x), end()(x)], None),
    "a branch that is an output": (lambda x: [conv("a")(x), layers.Dropout(0.5)(x)], None),
    "itself an output": (lambda x: [conv("a")(x), x], None),
    "padding in one": (lambda x: [conv("a")(x), layers.Conv2DTranspose(2, 3)(x)], None),
}


@pytest.mark.parametrize("kind", CONSUMERS)
def test_all_consumers_or_none(kind):
    branches, into = CONSUMERS[kind]
    inputs = keras.Input((8, 8, 3))
    model = randomized(keras.Model(inputs, branches(norm()(inputs))))
    assert_folds(model, {"bn": into or ("kept", ())})


PRODUCERS = {
    "read elsewhere": (lambda x: [end()(norm()(x)), layers.ReLU()(x)], "the output of conv is also used by re_lu"),
    "an output": (lambda x: [end()(norm()(x)), x], "the output of conv is also an output of the model, or a mask"),
    "read twice": (lambda x: end()(norm()(layers.Add(name="sum")([x, x]))), "sum reads the output of conv twice"),
}


@pytest.mark.parametrize("kind", PRODUCERS)
def test_what_is_read_elsewhere_stays(kind):
    keras.utils.clear_session(free_memory=False)  # layers are numbered
    tails, reason = PRODUCERS[kind]
    inputs = keras.Input((8, 8, 3))
    assert_kept(randomized(keras.Model(inputs, tails(conv("conv")(inputs)))), reason)


def test_a_gate_and_what_it_gates_take_a_scale():
    """Squeeze and excitation: the map reaches the layer behind by two paths that join."""
    inputs = keras.Input((8, 8, 3))
    tensor = norm()(inputs)
    gate = layers.Dense(3, activation="sigmoid", name="gate")(layers.GlobalAveragePooling2D(keepdims=True)(tensor))
    model = randomized(keras.Model(inputs, conv("behind")(layers.Multiply()([tensor, gate]))))
    assert_folds(with_maps(model, "signed scale"), {"bn": ("gate", "behind")}, rule="forward")


@pytest.mark.parametrize("join", [layers.Multiply, layers.Concatenate], ids=lambda join: join.__name__)
def test_two_paths_that_join_again(join):
    inputs = keras.Input((8, 8, 3))
    tensor = norm()(inputs)
    paths = [layers.Dropout(0.5)(tensor), layers.Identity()(tensor)]
    model = randomized(keras.Model(inputs, conv("behind")(join()(paths))))
    assert_folds(with_maps(model, "signed scale"), {"bn": ("behind",)}, rule="forward")


def _twice(make_tails, shared, shape=(8, 8, 3)):
    inputs = [keras.Input(shape, name=name) for name in ("left", "right")]
    tails = [tail(shared, x) for tail, x in zip(make_tails, inputs, strict=True)]
    return randomized(keras.Model(inputs, tails))


SHARED = {
    "a map behind each": (
        [lambda c, x: norm("one")(c(x)), lambda c, x: norm("other")(c(x))],
        {"one": ("shared",), "other": ("shared_1",)},
    ),
    "a map before each": (
        [lambda c, x: c(norm("one")(x)), lambda c, x: c(norm("other")(x))],
        {"one": ("shared",), "other": ("shared_1",)},
    ),
    "a map behind one": (
        [lambda c, x: norm("one")(c(x)), lambda c, x: layers.ReLU()(c(x))],
        {"one": ("shared_1",)},
    ),
    "before one, behind the other": (
        [lambda c, x: c(norm("one")(x)), lambda c, x: norm("other")(c(x))],
        {"one": ("shared",), "other": ("shared_1",)},
    ),
}


@pytest.mark.parametrize(("kind", "activation"), [*((kind, None) for kind in SHARED), ("a map before each", "relu")])
def test_a_shared_layer_is_untied(kind, activation):
    tails, expected = SHARED[kind]
    model = _twice(tails, conv("shared", activation=activation))
    folded, report = fold(model)
    assert {row.layer: row.decision for row in report.rows} == dict.fromkeys(expected, "folded")
    copies = [layer for layer in folded.layers if isinstance(layer, layers.Conv2D)]
    assert len(copies) == 2
    assert all(layer.activation is keras.activations.get(activation) for layer in copies)
    assert not any(isinstance(layer, layers.BatchNormalization) for layer in folded.layers)
    assert_same_function(model, folded)
    assert_settled(folded)


def test_the_same_map_at_every_call_unties_nothing():
    bn = norm()
    model = _twice([lambda c, x: layers.ReLU()(bn(c(x)))] * 2, conv("shared"))
    folded = assert_folds(model, {"bn": ("shared",)})
    assert len([layer for layer in folded.layers if isinstance(layer, layers.Conv2D)]) == 1


def test_a_nested_model_with_other_neighbours_at_each_call():
    inner = keras.Sequential([keras.Input((8, 8, 4)), norm("inside"), conv("within")], name="inner")
    inputs = keras.Input((8, 8, 4))
    first = layers.ReLU()(norm("behind")(inner(inputs)))
    second = end()(inner(layers.Conv2D(4, 1, activation="tanh", name="other")(inputs)))
    model = randomized(keras.Model(inputs, [first, second]))
    folded, report = fold(model)
    assert {row.layer: row.decision for row in report.rows} == {"inside": "folded", "behind": "folded"}
    assert_same_function(model, folded)
    assert_settled(folded)


def test_of_several_calls_one_folds_and_the_other_stays():
    bn = norm()
    model = _twice([lambda c, x: layers.Softmax()(bn(c(x))), lambda c, x: layers.Softmax()(bn(x))], conv("taker", 3))
    folded, report = fold(model)
    (row,) = report.rows
    assert (row.decision, row.into) == ("kept", ("taker",))
    assert row.reason.startswith("1 of its calls stay; ")
    assert len([layer for layer in folded.layers if isinstance(layer, layers.BatchNormalization)]) == 1
    assert_same_function(model, folded)
    assert_settled(folded)


def test_training_written_into_a_neighbours_call_keeps_the_map():
    inputs = keras.Input((8, 8, 3))
    model = randomized(
        keras.Model(inputs, end()(norm()(layers.Dropout(0.5, name="x")(conv("c")(inputs), training=True))))
    )
    assert_kept(model, "the call of x has training=True written into it")
    model = randomized(keras.Model(inputs, conv("c")(layers.Dropout(0.5, name="x")(norm()(inputs), training=True))))
    assert_kept(model, "the call of x has training=True written into it")


def test_a_map_that_changes_nothing_goes():
    model = chain((3,), layers.Activation("tanh"), lambda x: x * 1.0, end())
    folded, report = fold(model)
    assert [row.decision for row in report.rows] == ["folded"]
    assert len(folded.operations) == 3
    assert_same_function(model, folded)
    assert decisions(report)
