"""Random small networks of many layers, with branches, sharing and nesting: each folds to the same function."""

import keras
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import layers

import kbn
from kbn.export import fold
from trained_models import computed, random_inputs, randomized

CHANNELS = 4
STEPS = ["norm", "norm", "norm", "convolution", "convolution", "between", "add", "again", "nested"]


def _norm(draw):
    layer_type = draw(st.sampled_from([layers.BatchNormalization, kbn.BatchNormalization]))
    return layer_type(
        center=draw(st.booleans()), scale=draw(st.booleans()), epsilon=draw(st.sampled_from([1e-5, 1e-3]))
    )


def _convolution(draw):
    arguments = {
        "padding": draw(st.sampled_from(["same", "same", "valid"])),
        "use_bias": draw(st.booleans()),
    }
    kind = draw(st.sampled_from(["full", "full", "grouped", "depthwise", "separable", "transposed", "pointwise"]))
    activation = draw(st.sampled_from([None, None, None, "relu"]))
    if kind == "depthwise":
        return layers.DepthwiseConv2D(3, activation=activation, **arguments)
    if kind == "separable":
        return layers.SeparableConv2D(CHANNELS, 3, activation=activation, **arguments)
    if kind == "transposed":
        return layers.Conv2DTranspose(CHANNELS, 3, activation=activation, **arguments)
    groups = 2 if kind == "grouped" else 1
    return layers.Conv2D(CHANNELS, 1 if kind == "pointwise" else 3, groups=groups, activation=activation, **arguments)


def _between(draw):
    make = st.sampled_from(
        [
            layers.ReLU,
            layers.LeakyReLU,
            lambda: layers.ReLU(6.0),
            lambda: layers.Activation("tanh"),
            lambda: layers.Dropout(0.5),
            lambda: layers.MaxPooling2D(2, strides=1, padding="same"),
            lambda: layers.AveragePooling2D(2, strides=1, padding="same"),
            lambda: layers.Dense(CHANNELS),
        ]
    )
    return draw(make)()


def _network(draw):
    """A model of up to eight steps on tensors of four channels; each step reads any tensor that is there."""
    keras.utils.clear_session(free_memory=False)
    inputs = keras.Input((9, 9, CHANNELS))
    tensors, shared = [inputs], []
    for _ in range(draw(st.integers(2, 8))):
        tensor = tensors[draw(st.integers(max(0, len(tensors) - 3), len(tensors) - 1))]
        step = draw(
            st.sampled_from(["norm", "norm", "norm", "convolution", "convolution", "between", "add", "again", "nested"])
        )
        if step == "norm":
            shared.append(_norm(draw))
            tensors.append(shared[-1](tensor))
        elif step == "convolution" and min(tensor.shape[1:3]) > 2:
            shared.append(_convolution(draw))
            tensors.append(shared[-1](tensor))
        elif step == "between":
            tensors.append(_between(draw)(tensor))
        elif step == "add":
            alike = [other for other in tensors if other.shape == tensor.shape]
            tensors.append(layers.Add()([tensor, alike[draw(st.integers(0, len(alike) - 1))]]))
        elif step == "again" and shared and min(tensor.shape[1:3]) > 2:
            tensors.append(shared[draw(st.integers(0, len(shared) - 1))](tensor))
        elif step == "nested" and min(tensor.shape[1:3]) > 2:
            inner = [keras.Input((None, None, CHANNELS)), _convolution(draw), _norm(draw), _between(draw)]
            tensors.append(keras.Sequential(inner)(tensor))
    outputs = [tensors[-1], *(t for t in tensors[1:-1] if draw(st.integers(0, 9)) == 0)]
    if draw(st.booleans()):
        outputs[0] = layers.Dense(2)(layers.GlobalAveragePooling2D()(outputs[0]))
    model = randomized(keras.Model(inputs, outputs), seed=draw(st.integers(0, 99)))
    if draw(st.booleans()):
        _make_linear(model)
    return model


def _make_linear(model):
    """Normalizations without shift and with positive scale, which pass what others do not: padding, ReLU, maximum."""
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization | kbn.BatchNormalization):
            for weight in layer.weights:
                if weight.name in ("moving_mean", "beta"):
                    weight.assign(weight * 0.0)
                if weight.name == "gamma":
                    weight.assign(abs(weight))


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_folding_keeps_the_function(data):
    keras.config.set_dtype_policy("float64")
    keras.config.set_floatx("float64")
    try:
        model = _network(data.draw)
        folded, report = fold(model)
        twice, again = fold(folded)
        inputs = random_inputs(model, batch=2)
        for expected, found in zip(computed(model, inputs), computed(folded, inputs), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11 * max(1, np.abs(expected).max()))
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
    kept = report.count("kept")
    normalizations = [x for x in folded._flatten_layers() if isinstance(x, layers.BatchNormalization)]
    assert len(normalizations) == kept == len(again.rows)
    assert {row.decision for row in again.rows} <= {"kept"}
    assert not any(isinstance(layer, kbn.BatchNormalization) for layer in twice._flatten_layers())
