"""Every pattern alone, in float64, where a wrong fold stands out by ten orders of magnitude; every refusal with its reason."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kbn
from folding_helpers import (
    assert_same_function,
    chain,
    decisions,
    float64,  # noqa: F401  # a fixture for every test here
    norm,
)
from kbn.export import fold, inspect
from kbn.export.errors import UnsupportedError
from trained_models import computed, random_inputs, randomized

BACKWARD = {
    "Conv1D": ((8, 3), lambda: layers.Conv1D(4, 3, padding="same", name="taker")),
    "Conv1D causal, no bias": ((8, 3), lambda: layers.Conv1D(4, 3, padding="causal", use_bias=False, name="taker")),
    "Conv1D groups": ((8, 6), lambda: layers.Conv1D(4, 3, groups=2, name="taker")),
    "Conv2D": ((7, 6, 3), lambda: layers.Conv2D(4, 3, strides=2, padding="same", name="taker")),
    "Conv2D no bias": ((7, 6, 3), lambda: layers.Conv2D(4, 3, use_bias=False, name="taker")),
    "Conv2D dilated": ((9, 9, 3), lambda: layers.Conv2D(4, 3, dilation_rate=2, name="taker")),
    "Conv2D groups": ((7, 6, 6), lambda: layers.Conv2D(9, 3, groups=3, name="taker")),
    "Conv2D dynamic size": ((None, None, 3), lambda: layers.Conv2D(4, 3, padding="same", name="taker")),
    "Conv3D": ((5, 6, 4, 2), lambda: layers.Conv3D(3, 2, name="taker")),
    "DepthwiseConv1D": ((8, 3), lambda: layers.DepthwiseConv1D(3, depth_multiplier=2, name="taker")),
    "DepthwiseConv2D": ((7, 6, 3), lambda: layers.DepthwiseConv2D(3, padding="same", name="taker")),
    "DepthwiseConv2D x3": ((7, 6, 4), lambda: layers.DepthwiseConv2D(3, depth_multiplier=3, name="taker")),
    "SeparableConv1D": ((8, 3), lambda: layers.SeparableConv1D(5, 3, depth_multiplier=2, name="taker")),
    "SeparableConv2D": ((7, 6, 3), lambda: layers.SeparableConv2D(5, 3, use_bias=False, name="taker")),
    "Conv1DTranspose": ((8, 3), lambda: layers.Conv1DTranspose(5, 3, strides=2, name="taker")),
    "Conv2DTranspose": ((5, 4, 3), lambda: layers.Conv2DTranspose(6, 3, strides=2, padding="same", name="taker")),
    "Conv2DTranspose square": ((5, 4, 3), lambda: layers.Conv2DTranspose(3, 3, use_bias=False, name="taker")),
    "Conv3DTranspose": ((3, 4, 3, 2), lambda: layers.Conv3DTranspose(3, 2, name="taker")),
    "Dense": ((5,), lambda: layers.Dense(4, name="taker")),
    "Dense square, no bias": ((5,), lambda: layers.Dense(5, use_bias=False, name="taker")),
    "Dense rank 4": ((2, 3, 5), lambda: layers.Dense(5, name="taker")),
    "EinsumDense": ((5,), lambda: layers.EinsumDense("ab,bc->ac", 4, bias_axes="c", name="taker")),
    "EinsumDense no bias": ((6, 5), lambda: layers.EinsumDense("abc,cd->abd", (6, 4), name="taker")),
    "EinsumDense ellipsis": ((6, 5), lambda: layers.EinsumDense("...x,xy->...y", 4, bias_axes="y", name="taker")),
    "EinsumDense two axes": (
        (6, 5),
        lambda: layers.EinsumDense("abc,cde->abde", (6, 2, 4), bias_axes="de", name="taker"),
    ),
    "EinsumDense other bias": (
        (6, 5),
        lambda: layers.EinsumDense("abc,cde->abde", (6, 2, 4), bias_axes="d", name="taker"),
    ),
    "EinsumDense outer bias": (
        (6, 5),
        lambda: layers.EinsumDense("abc,cde->abde", (6, 2, 4), bias_axes="be", name="taker"),
    ),
}


@pytest.mark.parametrize("kind", BACKWARD)
@pytest.mark.parametrize("layer_type", [layers.BatchNormalization, kbn.BatchNormalization], ids=["keras", "kbn"])
def test_folds_into_what_comes_before(kind, layer_type):
    shape, taker = BACKWARD[kind]
    model = chain(shape, taker(), layer_type(name="bn"), layers.Activation("tanh", name="end"))
    folded, report = fold(model)
    assert decisions(report) == {"bn": ("folded", ("taker",))}
    assert report.rows[0].direction == "backward"
    assert [layer.name for layer in folded.layers] == ["input", "taker", "end"]
    assert_same_function(model, folded)


FORWARD = {
    "Conv1D": ((8, 3), lambda: layers.Conv1D(4, 3, name="taker")),
    "Conv1D groups": ((8, 6), lambda: layers.Conv1D(4, 3, groups=2, use_bias=False, name="taker")),
    "Conv2D": ((7, 6, 3), lambda: layers.Conv2D(4, 3, activation="relu", name="taker")),
    "Conv2D groups": ((7, 6, 6), lambda: layers.Conv2D(9, 3, groups=3, name="taker")),
    "Conv2D same, window of one": ((7, 6, 3), lambda: layers.Conv2D(4, 1, padding="same", strides=2, name="taker")),
    "Conv3D": ((5, 6, 4, 2), lambda: layers.Conv3D(3, 2, name="taker")),
    "DepthwiseConv2D": ((7, 6, 3), lambda: layers.DepthwiseConv2D(3, depth_multiplier=2, name="taker")),
    "SeparableConv2D": ((7, 6, 3), lambda: layers.SeparableConv2D(5, 3, depth_multiplier=2, name="taker")),
    "Dense": ((5,), lambda: layers.Dense(4, use_bias=False, activation="sigmoid", name="taker")),
    "Dense rank 3": ((6, 5), lambda: layers.Dense(5, name="taker")),
}


@pytest.mark.parametrize("kind", FORWARD)
@pytest.mark.parametrize("layer_type", [layers.BatchNormalization, kbn.BatchNormalization], ids=["keras", "kbn"])
def test_folds_into_what_comes_after(kind, layer_type):
    shape, taker = FORWARD[kind]
    model = chain(shape, layer_type(name="bn"), taker())
    folded, report = fold(model)
    assert decisions(report) == {"bn": ("folded", ("taker",))}
    assert report.rows[0].direction == "forward"
    assert_same_function(model, folded)


LINEAR_FORWARD = {
    "Conv2D same": ((7, 6, 3), lambda: layers.Conv2D(4, 3, padding="same", name="taker")),
    "Conv2DTranspose": ((5, 4, 3), lambda: layers.Conv2DTranspose(6, 3, strides=2, name="taker")),
}


@pytest.mark.parametrize("kind", LINEAR_FORWARD)
def test_a_scale_alone_folds_into_padding(kind):
    shape, taker = LINEAR_FORWARD[kind]
    model = chain(shape, norm(center=False), taker())
    model.get_layer("bn").moving_mean.assign(np.zeros(shape[-1]))
    folded, report = fold(model)
    assert decisions(report) == {"bn": ("folded", ("taker",))}
    assert_same_function(model, folded)


@pytest.mark.parametrize("shape", [(4, 5, 6), (3, 8)], ids=["2D", "1D"])
def test_folds_channels_first(shape):
    conv = layers.Conv2D if len(shape) == 3 else layers.Conv1D
    model = chain(
        shape,
        conv(5, 3, data_format="channels_first", name="taker"),
        norm(axis=1),
        layers.Activation("relu", name="end"),
    )
    folded, report = fold(model)
    assert decisions(report) == {"bn": ("folded", ("taker",))}
    # TensorFlow has no channels-first convolution on a CPU that could be run, so the algebra is compared.
    inside = [w.numpy() for w in folded.get_layer("taker").weights]
    last = chain((*shape[1:], shape[0]), conv(5, 3, name="taker"), norm(), layers.Activation("relu", name="end"))
    last.set_weights(model.get_weights())
    for found, expected in zip(inside, fold(last)[0].get_layer("taker").get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


PASSES = {
    "Dropout": (lambda: [layers.Dropout(0.5)], True),
    "GaussianNoise": (lambda: [layers.GaussianNoise(0.5)], True),
    "SpatialDropout2D": (lambda: [layers.SpatialDropout2D(0.5)], True),
    "linear Activation": (lambda: [layers.Activation("linear")], True),
    "AveragePooling2D": (lambda: [layers.AveragePooling2D(2)], True),
    "AveragePooling2D same": (lambda: [layers.AveragePooling2D(3, 2, padding="same")], True),
    "GlobalAveragePooling2D": (lambda: [layers.GlobalAveragePooling2D()], True),
    "GlobalAveragePooling2D keepdims": (lambda: [layers.GlobalAveragePooling2D(keepdims=True)], True),
    "Dropout, AveragePooling2D": (lambda: [layers.Dropout(0.5), layers.AveragePooling2D(2)], True),
}


@pytest.mark.parametrize("kind", PASSES)
def test_a_map_passes_backward(kind):
    between, _ = PASSES[kind]
    model = chain((8, 8, 3), layers.Conv2D(4, 3, name="taker"), *between(), norm(), layers.Activation("tanh"))
    folded, report = fold(model)
    assert decisions(report) == {"bn": ("folded", ("taker",))}
    assert_same_function(model, folded)


@pytest.mark.parametrize("kind", [*PASSES, "Flatten", "GlobalMaxPooling2D"])
def test_a_map_passes_forward(kind):
    between = {"Flatten": [layers.Flatten()], "GlobalMaxPooling2D": [layers.GlobalMaxPooling2D()]}.get(kind) or PASSES[
        kind
    ][0]()
    model = chain((8, 8, 3), norm(), *between, layers.Dense(4, name="taker"))
    model.get_layer("bn").gamma.assign([0.5, 1.5, 0.7])
    folded, report = fold(model)
    assert decisions(report) == {"bn": ("folded", ("taker",))}
    assert_same_function(model, folded)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_flatten_lays_the_channels_out_as_keras_does(data_format):
    axis = 1 if data_format == "channels_first" else -1
    model = chain((4, 5, 6), norm(axis=axis), layers.Flatten(data_format=data_format), layers.Dense(3, name="taker"))
    folded, report = fold(model)
    assert decisions(report) == {"bn": ("folded", ("taker",))}
    assert_same_function(model, folded)


@pytest.mark.parametrize(
    "activation", [lambda: layers.ReLU(), lambda: layers.LeakyReLU(), lambda: layers.Activation("relu")]
)
def test_a_positive_scale_passes_relu(activation):
    model = chain((5,), layers.Dense(4, name="taker"), activation(), norm(center=False), layers.Activation("tanh"))
    bn = model.get_layer("bn")
    bn.moving_mean.assign(np.zeros(4))
    bn.gamma.assign(np.abs(bn.gamma))
    folded, report = fold(model)
    assert decisions(report) == {"bn": ("folded", ("taker",))}
    assert_same_function(model, folded)
    bn.gamma.assign(-np.abs(bn.gamma))
    assert inspect(model).rows[0].decision == "kept"


def test_maximum_is_passed_by_positive_scales_alone():
    model = chain(
        (8, 8, 3), layers.Conv2D(4, 3, name="taker"), layers.MaxPooling2D(2), norm(), layers.Activation("tanh")
    )
    bn = model.get_layer("bn")
    bn.gamma.assign(np.abs(bn.gamma))
    folded, report = fold(model)
    assert decisions(report) == {"bn": ("folded", ("taker",))}
    assert_same_function(model, folded)
    bn.gamma.assign([1.0, 1.0, -1.0, 1.0])
    (row,) = inspect(model).rows
    assert row.decision == "kept"
    assert "not positive in 1 of 4 channels" in row.reason


def test_normalizations_in_a_row_become_one_fold():
    model = chain(
        (5,), layers.Dense(4, name="taker"), norm("first"), norm("second", epsilon=1e-5), layers.Activation("tanh")
    )
    folded, report = fold(model)
    assert decisions(report) == {"first": ("folded", ("taker",)), "second": ("folded", ("taker",))}
    assert_same_function(model, folded)


@pytest.mark.parametrize("arguments", [{}, {"scale": False}, {"center": False}, {"scale": False, "center": False}])
def test_what_cannot_fold_merges(arguments):
    model = chain((5,), norm("first", **arguments), norm("second", **arguments), layers.Activation("tanh"))
    folded, report = fold(model)
    assert decisions(report) == {"first": ("merged", ("second",)), "second": ("kept", ())}
    assert_same_function(model, folded)


def test_folds_before_and_after_the_same_layer():
    model = chain(
        (8, 8, 3), norm("first"), layers.Conv2D(4, 3, name="taker"), norm("second"), layers.Activation("tanh")
    )
    folded, report = fold(model)
    assert decisions(report) == {"first": ("folded", ("taker",)), "second": ("folded", ("taker",))}
    assert_same_function(model, folded)


def test_forward_into_every_consumer():
    inputs = keras.Input((8, 8, 3))
    tensor = norm()(inputs)
    branches = [layers.Conv2D(4, 3, name="one")(tensor), layers.Conv2D(4, 3, use_bias=False, name="other")(tensor)]
    model = randomized(keras.Model(inputs, layers.Add()(branches)))
    folded, report = fold(model)
    assert decisions(report) == {"bn": ("folded", ("one", "other"))}
    assert_same_function(model, folded)


def test_forward_into_none_where_one_consumer_cannot():
    inputs = keras.Input((8, 8, 3))
    tensor = norm()(inputs)
    model = randomized(
        keras.Model(inputs, [layers.Conv2D(4, 3, name="one")(tensor), layers.Activation("tanh")(tensor)])
    )
    folded, report = fold(model)
    assert decisions(report) == {"bn": ("kept", ())}
    assert_same_function(model, folded)


def test_a_shared_layer_with_a_shared_normalization_folds_once():
    conv, bn = layers.Conv2D(4, 3, name="taker"), norm()
    inputs = [keras.Input((8, 8, 3), name=name) for name in ("left", "right")]
    model = randomized(keras.Model(inputs, layers.Subtract()([bn(conv(x)) for x in inputs])))
    folded, report = fold(model)
    assert decisions(report) == {"bn": ("folded", ("taker",))}
    assert_same_function(model, folded)


def test_a_shared_layer_with_two_normalizations_is_untied():
    conv = layers.Conv2D(4, 3, activation="relu", name="shared")
    inputs = [keras.Input((8, 8, 3), name=name) for name in ("left", "right")]
    hidden = [norm(name)(x) for name, x in zip(("one", "other"), inputs, strict=True)]
    model = randomized(keras.Model(inputs, [layers.Activation("tanh")(conv(x)) for x in hidden]))
    folded, report = fold(model)
    assert decisions(report) == {"one": ("folded", ("shared",)), "other": ("folded", ("shared_1",))}
    assert_same_function(model, folded)


def test_a_shared_nested_model_folds_once():
    encoder = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(4, 3, name="conv"), norm(), layers.ReLU()], name="encoder"
    )
    inputs = [keras.Input((8, 8, 3), name=name) for name in ("left", "right")]
    model = randomized(keras.Model(inputs, layers.Subtract()([encoder(x) for x in inputs])))
    folded, report = fold(model)
    assert decisions(report) == {"bn": ("folded", ("conv",))}
    assert_same_function(model, folded)


def test_folds_across_the_boundary_of_nested_models():
    head = keras.Sequential([keras.Input((4,)), norm("inner"), layers.Dense(3, name="dense")], name="head")
    trunk_in = keras.Input((5,))
    trunk = keras.Model(trunk_in, layers.Dense(4, name="dense")(trunk_in), name="trunk")
    inputs = keras.Input((5,), name="input")
    model = randomized(keras.Model(inputs, head(norm("outer")(trunk(inputs))), name="whole"))
    folded, report = fold(model)
    assert decisions(report) == {"outer": ("folded", ("dense",)), "inner": ("folded", ("dense",))}
    assert [layer.name for layer in folded.layers] == ["input", "dense", "dense_1", "head"]
    assert folded.output_names == model.output_names == ["head"]
    assert_same_function(model, folded)


def test_nested_structures_and_names_are_kept():
    inputs = {"b": keras.Input((5,), name="b"), "a": keras.Input((5,), name="a")}
    hidden = norm()(layers.Dense(4, name="dense")(layers.Add(name="sum")([inputs["a"], inputs["b"]])))
    outputs = {"normalized": hidden, "rest": [layers.Dense(2, name="tail")(inputs["a"])]}
    model = randomized(keras.Model(inputs, outputs, name="named"))
    folded, report = fold(model)
    assert report.count("folded") == 1
    assert (folded.name, folded.output_names) == ("named", model.output_names)
    assert keras.tree.map_structure(lambda x: x.name, folded.input) == {"a": "a", "b": "b"}
    assert set(folded.output) == {"normalized", "rest"}
    assert_same_function(model, folded)


def test_a_tensor_that_is_also_an_output_is_not_folded_into():
    inputs = keras.Input((5,))
    hidden = layers.Dense(4, name="dense")(inputs)
    model = randomized(keras.Model(inputs, [hidden, layers.Activation("tanh")(norm()(hidden))]))
    folded, report = fold(model)
    assert "the output of dense is also an output of the model" in report.rows[0].reason
    assert_same_function(model, folded)


def test_operations_and_constants_in_the_graph_survive():
    inputs = keras.Input((6, 6, 3))
    tensor = ops.relu(norm()(layers.Conv2D(4, 3, name="taker")(ops.tanh(inputs) * np.ones((6, 6, 3)))))
    model = randomized(keras.Model(inputs, ops.mean(tensor, axis=(1, 2))[:, 1:]))
    folded, report = fold(model)
    assert decisions(report) == {"bn": ("folded", ("taker",))}
    assert_same_function(model, folded)


def test_a_rebuilt_sequential_counts_its_live_calls_alone():
    model = keras.Sequential([keras.Input((5,)), layers.Dense(4, name="dense")])
    for index in range(3):  # each add rebuilds the graph and leaves the nodes of the last build behind
        model.add(norm(f"bn{index}"))
        model.add(layers.Activation("tanh"))
        model.add(layers.Dense(4, name=f"dense{index}"))
    assert len(model.get_layer("bn0")._inbound_nodes) > 1
    folded, report = fold(randomized(model))
    assert report.count("folded") == 3
    assert_same_function(model, folded)


def test_layers_with_state_and_wrappers_are_copied_whole():
    inputs = keras.Input((6,), dtype="int64", name="tokens")
    tensor = layers.Embedding(9, 5)(inputs)
    tensor = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(tensor)
    tensor = layers.MultiHeadAttention(2, 4)(tensor, tensor)
    tensor = layers.Normalization(mean=[0.1] * 6, variance=[2.0] * 6, name="normalization")(
        norm()(layers.Dense(6, name="taker")(tensor))
    )
    model = randomized(keras.Model(inputs, tensor))
    folded, report = fold(model)
    assert decisions(report) == {"bn": ("folded", ("taker",)), "normalization": ("folded", ("taker",))}
    assert_same_function(model, folded)


def test_an_adapted_normalization_keeps_its_statistics():
    adapted = layers.Normalization(name="adapted")
    adapted.adapt(np.random.default_rng(5).normal(3, 2, (50, 5)))
    inputs = keras.Input((5,))
    model = keras.Model(inputs, layers.Dense(4)(adapted(inputs)))
    folded, _ = fold(model)
    assert_same_function(model, folded)


REFUSALS = {
    "activation inside": ([lambda: layers.Dense(4, activation="relu", name="x")], "the activation x_activation stands"),
    "no weights": ([lambda: layers.Dense(4), lambda: layers.Softmax(name="x")], "a map cannot pass x (Softmax)"),
    "activation between": ([lambda: layers.Dense(4), lambda: layers.ReLU(name="x")], "the activation x stands between"),
    "clipped relu": ([lambda: layers.Dense(4), lambda: layers.ReLU(6.0, name="x")], "the activation x stands between"),
    "other axis": ([lambda: layers.Reshape((5, 1)), lambda: layers.Dense(5, name="x")], "the map runs along axis 1"),
    "model input": ([], "it follows the model's input"),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_what_stands_before_is_refused_with_the_reason(kind):
    sequence, reason = REFUSALS[kind]
    axis = 1 if kind == "other axis" else -1
    model = chain((5,), *(make() for make in sequence), norm(axis=axis), layers.Softmax(name="end"))
    folded, report = fold(model)
    assert report.rows[0].decision == "kept"
    assert reason in report.rows[0].reason
    assert "a map cannot pass end (Softmax)" in report.rows[0].reason
    assert_same_function(model, folded)


PADDED = {
    "same": lambda: layers.Conv2D(4, 3, padding="same", name="x"),
    "depthwise same": lambda: layers.DepthwiseConv2D(3, padding="same", name="x"),
    "separable same": lambda: layers.SeparableConv2D(4, 3, padding="same", name="x"),
    "transposed": lambda: layers.Conv2DTranspose(4, 3, name="x"),
}


@pytest.mark.parametrize("kind", PADDED)
def test_a_shift_is_not_folded_into_padding(kind):
    model = chain((7, 6, 3), norm(), PADDED[kind]())
    folded, report = fold(model)
    assert report.rows[0].decision == "kept"
    assert "shift of the map" in report.rows[0].reason
    assert_same_function(model, folded)


def test_lora_kernels_are_refused():
    model = chain((5,), layers.Dense(4, name="x"), norm(), layers.Activation("tanh"))
    model.get_layer("x").enable_lora(2)
    randomized(model)
    report = inspect(model)
    assert report.rows[0].decision == "kept"
    assert "lora_kernel_a" in report.rows[0].reason


def test_training_written_into_the_call_is_refused_unless_frozen():
    inputs = keras.Input((5,))
    bn = norm()
    model = randomized(
        keras.Model(inputs, layers.Activation("tanh")(bn(layers.Dense(4, name="taker")(inputs), training=True)))
    )
    assert "training=True" in inspect(model).rows[0].reason
    bn.trainable = False
    assert decisions(inspect(model)) == {"bn": ("folded", ("taker",))}


def test_inference_written_into_the_call_folds():
    base = keras.Sequential([keras.Input((5,)), layers.Dense(4, name="taker"), norm(), layers.ReLU()], name="base")
    inputs = keras.Input((5,))
    model = randomized(keras.Model(inputs, layers.Dense(2)(base(inputs, training=False))))
    folded, report = fold(model)
    assert decisions(report) == {"bn": ("folded", ("taker",))}
    assert_same_function(model, folded)


def test_a_subclass_of_a_known_layer_is_not_taken_for_it():
    class Doubled(layers.Dense):
        def call(self, inputs):
            return 2.0 * super().call(inputs) + 1.0

    model = chain((5,), Doubled(4, name="x"), norm(), layers.Activation("tanh"))
    folded, report = fold(model)
    assert report.rows[0].decision == "kept"
    assert_same_function(model, folded)


def test_normalizations_inside_a_composite_layer_are_reported():
    class Block(layers.Layer):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.inner = norm("inside")

        def build(self, input_shape):
            self.factor = self.add_weight(shape=(input_shape[-1],))

        def call(self, inputs):
            return self.inner(inputs * self.factor)

    model = chain((5,), Block(name="block"))
    folded, report = fold(model)
    (row,) = report.rows
    assert (row.layer, row.decision) == ("inside", "kept")
    assert "inside block (Block), a layer that is kept whole: it computes with weights of its own" in row.reason
    assert_same_function(model, folded)


def test_a_folded_model_is_not_changed_again():
    model = chain((8, 8, 3), norm("a"), layers.Conv2D(4, 3), norm("b"), layers.ReLU(), norm("c"), layers.Softmax())
    once, _ = fold(model)
    twice, report = fold(once)
    assert {row.decision for row in report.rows} == {"kept"}
    for first, second in zip(once.get_weights(), twice.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_the_original_is_left_alone_and_the_plan_is_deterministic():
    model = chain((5,), layers.Dense(4), norm(), layers.Activation("tanh"))
    before = [w.copy() for w in model.get_weights()]
    assert fold(model)[1].to_dict() == inspect(model).to_dict()
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_folded_model_holds_only_keras_layers_and_loads_without_kbn(tmp_path):
    model = chain(
        (5,),
        layers.Dense(4),
        kbn.BatchNormalization(name="a"),
        layers.ReLU(),
        kbn.BatchNormalization(name="kept"),
        layers.Softmax(),
    )
    folded, _ = fold(model)
    assert type(folded.get_layer("kept")) is layers.BatchNormalization
    assert all(type(layer).__module__.startswith("keras.") for layer in folded.layers)
    folded.save(tmp_path / "folded.keras")
    assert_same_function(folded, keras.models.load_model(tmp_path / "folded.keras"))


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "float16", "bfloat16"])
def test_other_precisions_fold_up_to_their_rounding(policy):
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy(policy)
    model = chain((8, 8, 3), layers.Conv2D(4, 3, name="taker"), norm(), layers.Activation("tanh"))
    folded, report = fold(model)
    assert report.count("folded") == 1
    assert folded.get_layer("taker").kernel.dtype == model.get_layer("taker").kernel.dtype
    assert folded.dtype_policy.name == model.dtype_policy.name
    exact = {"float32": 1e-6, "mixed_float16": 5e-3, "float16": 5e-3, "bfloat16": 5e-2}[policy]
    inputs = random_inputs(model)
    for expected, found in zip(computed(model, inputs), computed(folded, inputs), strict=True):
        np.testing.assert_allclose(found.astype("float64"), expected.astype("float64"), atol=exact)


def test_models_without_a_graph_are_refused():
    class Subclassed(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(UnsupportedError, match="does not say what shape"):
        fold(Subclassed(name="own"))
    model = Subclassed(name="own")
    model(np.zeros((2, 3)))
    with pytest.raises(UnsupportedError, match=r"subclass of keras\.Model .* it holds no layers"):
        fold(model)
    with pytest.raises(UnsupportedError, match="without an input shape"):
        fold(keras.Sequential([layers.Dense(3)]))


def test_a_model_without_normalization_is_copied():
    model = chain((5,), layers.Dense(4), layers.ReLU())
    folded, report = fold(model)
    assert report.rows == []
    assert report.summary() == "no batch normalization in this model"
    assert_same_function(model, folded)


def masked(kind):
    tokens = keras.Input((6,), dtype="int32", name="tokens")
    if kind == "embedding":
        return tokens, layers.Embedding(9, 4, mask_zero=True)(tokens)
    steps = keras.Input((6, 4), name="steps")
    return steps, layers.Masking()(steps)


@pytest.mark.parametrize("kind", ["embedding", "masking"])
@pytest.mark.parametrize("layer_type", [layers.BatchNormalization, kbn.BatchNormalization], ids=["keras", "kbn"])
def test_a_mask_does_not_stand_in_the_way(kind, layer_type):
    inputs, tensor = masked(kind)
    tensor = layer_type(name="bn")(layers.Dense(4, name="taker")(tensor))
    model = randomized(
        keras.Model(inputs, layers.GlobalAveragePooling1D()(layers.LSTM(3, return_sequences=True)(tensor)))
    )
    folded, report = fold(model)
    assert decisions(report) == {"bn": ("folded", ("taker",))}
    assert_same_function(model, folded)


@pytest.mark.parametrize("end", ["bn", "relu"])
def test_a_model_called_twice_may_give_both_outputs(end):
    encoder = keras.Sequential([keras.Input((5,)), layers.Dense(4, name="taker"), norm()], name="encoder")
    if end == "relu":
        encoder.add(layers.ReLU(name="relu"))
    inputs = [keras.Input((5,), name=name) for name in ("left", "right")]
    model = randomized(keras.Model(inputs, [encoder(x) for x in inputs]))
    folded, report = fold(model)
    assert decisions(report) == {"bn": ("folded", ("taker",))}
    assert_same_function(model, folded)


def test_the_outer_models_names_win():
    inner = keras.Sequential([keras.Input((5,)), layers.Dense(5, name="dense"), layers.ReLU(name="x")], name="inner")
    inputs = keras.Input((5,), name="x")
    model = randomized(keras.Model(inputs, layers.Dense(2, name="dense")(inner(inputs))))
    folded, _ = fold(model)
    assert (folded.inputs[0].name, folded.output_names) == ("x", ["dense"])
    assert folded.get_layer("dense").units == 2
    assert_same_function(model, folded)


def test_kbn_layers_inside_layers_that_stay_whole_become_keras_own():
    each = layers.TimeDistributed(kbn.BatchNormalization(name="inside"), name="each")
    model = chain((6, 4), each, layers.Softmax())
    folded, report = fold(model)
    assert decisions(report) == {"each": ("kept", ())}
    assert not any(isinstance(layer, kbn.BatchNormalization) for layer in folded._flatten_layers())
    assert_same_function(model, folded)


def test_layers_of_other_precisions_do_not_take_the_map_in():
    model = chain((5,), layers.Dense(4, dtype="float32", name="x"), norm(), layers.Activation("tanh"))
    folded, report = fold(model)
    assert "it turns float32 into float64" in report.rows[0].reason
    assert_same_function(model, folded)


def test_weights_that_do_not_fit_their_dtype_are_told():
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float16")
    model = chain((5,), layers.Dense(4, name="taker"), kbn.BatchNormalization(name="bn", epsilon=1e-9), layers.ReLU())
    model.get_layer("bn").moving_variance.assign([1e-9] * 4)
    model.get_layer("bn").gamma.assign([50.0] * 4)
    folded, report = fold(model)
    assert "taker cannot hold what it would take in: its kernel would be past float16's range" in report.rows[0].reason
    assert "bn" in [layer.name for layer in folded.layers]


def test_a_layer_that_cannot_be_copied_is_told():
    class Secret(layers.Layer):
        def __init__(self, secret, **arguments):
            super().__init__(**arguments)
            self.secret = secret
            self.shift = self.add_weight(shape=())

        def call(self, inputs):
            return inputs + self.shift

        def get_config(self):
            return super().get_config()

    model = chain((5,), layers.Dense(4), norm(), Secret(1, name="secret"))
    assert inspect(model).count("folded") == 1
    with pytest.raises(UnsupportedError, match="'secret'"):
        fold(model)


def test_a_map_along_the_batch_is_left_alone():
    inputs = keras.Input(batch_shape=(3, 2, 2))
    model = randomized(keras.Model(inputs, layers.Dense(2)(layers.Flatten()(norm(axis=0)(inputs)))))
    folded, report = fold(model)
    assert report.rows[0].decision == "kept"
    assert_same_function(model, folded)


def test_weights_that_a_layer_did_not_name_are_copied():
    class Scale(layers.Layer):
        def build(self, input_shape):
            self.factor = self.add_weight(shape=(input_shape[-1],))

        def call(self, inputs):
            return inputs * self.factor

    model = chain((5,), Scale(), layers.Dense(4, name="taker"), norm(), Scale())
    folded, report = fold(model)
    assert decisions(report) == {"bn": ("folded", ("taker",))}
    assert_same_function(model, folded)


@pytest.mark.parametrize(
    "arguments",
    [
        {"momentum": None},
        {"debias": True, "renorm": True},
        {"virtual_batch_size": 4, "unbiased": True},
        {"freeze": "inference"},
        {"freeze": "statistics", "pivot": False},
    ],
)
@pytest.mark.parametrize("kept", [False, True])
def test_what_kbn_alone_can_do_in_training_changes_no_fold(arguments, kept, tmp_path):
    """Also where the normalization stays, as behind an activation, and where the file is checked."""
    rng = np.random.default_rng(8)
    inputs = keras.Input((6, 6, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu" if kept else None)(inputs)
    model = keras.Model(inputs, kbn.BatchNormalization(**arguments)(x))
    layer = model.layers[-1]
    for weight in layer.weights:
        weight.assign(
            rng.uniform(0.5, 2.0, 4) * rng.choice([-1.0, 1.0], 4) ** (weight.name in ("gamma", "moving_mean"))
        )
    x = rng.normal(size=(5, 6, 6, 3)).astype("float32")
    folded, report = fold(model)
    assert [row.decision for row in report.rows] == ["kept" if kept else "folded"]
    assert np.allclose(folded(x), model(x), atol=1e-5)
    report = kbn.export.export(model, tmp_path / "model.onnx")
    assert report.check.passed
