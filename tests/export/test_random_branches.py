"""Random small networks with branches that join, activations of every kind, constants, and sequences: same function.

test_random_networks.py has the plain ones. Here every network has what joins, widens, crops, rearranges or recurs, and is
folded twice: the second time nothing moves and no bit changes.
"""

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from keras import layers, ops

import kbn
from folding_helpers import assert_settled, with_maps
from kbn.export import fold
from trained_models import computed, random_inputs, randomized

# Numbers that float32 holds exactly: Keras puts the arguments of its layers through it.
FACTORS = np.array([0.5, -2.0, 0.75, 1.5])
C = len(FACTORS)
LIMITS = {"deadline": None, "phases": [Phase.generate], "derandomize": True, "suppress_health_check": list(HealthCheck)}


@pytest.fixture(autouse=True, scope="module")
def _float64():
    keras.config.set_dtype_policy("float64")
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


def _norm(draw):
    layer_type = draw(st.sampled_from([layers.BatchNormalization, layers.BatchNormalization, kbn.BatchNormalization]))
    return layer_type(center=draw(st.booleans()), scale=draw(st.booleans()))


def _constant(draw):
    """An affine map that is no normalization."""
    return draw(
        st.sampled_from(
            [
                lambda x: layers.Rescaling(2.0, 0.5)(x),
                lambda x: layers.Rescaling(FACTORS.tolist())(x),
                lambda x: layers.Normalization(mean=FACTORS.tolist(), variance=[4.0] * C)(x),
                lambda x: x * FACTORS + 1.0,
                lambda x: 1.0 - x,
                lambda x: (x - FACTORS) / 2.0,
            ]
        )
    )


def _convolution(draw):
    padding = draw(st.sampled_from(["same", "same", "valid"]))
    activation = draw(st.sampled_from([None, None, None, "relu", "sigmoid", "leaky_relu", "tanh", "relu6"]))
    arguments = {"padding": padding, "use_bias": draw(st.booleans()), "activation": activation}
    kind = draw(st.sampled_from(["full", "full", "full", "strided", "grouped", "depthwise", "separable", "pointwise"]))
    if kind == "depthwise":
        return layers.DepthwiseConv2D(3, **arguments)
    if kind == "separable":
        return layers.SeparableConv2D(C, 3, **arguments)
    if kind == "strided":
        return layers.Conv2D(C, 3, strides=2, **{**arguments, "padding": "same"})
    return layers.Conv2D(C, 1 if kind == "pointwise" else 3, groups=2 if kind == "grouped" else 1, **arguments)


ACTIVATIONS = [
    lambda: layers.ReLU(),
    lambda: layers.PReLU(shared_axes=[1, 2]),
    lambda: layers.ReLU(6.0),
    lambda: layers.ReLU(0.5, negative_slope=0.25),
    lambda: layers.LeakyReLU(0.25),
    lambda: layers.Activation("sigmoid"),
    lambda: layers.Activation("tanh"),
]
SHAPING = [
    lambda: layers.UpSampling2D(2),
    lambda: layers.Cropping2D(1),
    lambda: layers.ZeroPadding2D(((1, 0), (0, 2))),
    lambda: layers.MaxPooling2D(2, strides=1, padding="same"),
    lambda: layers.MaxPooling2D(2),
    lambda: layers.AveragePooling2D(2),
    lambda: layers.AveragePooling2D(3, strides=1, padding="same"),
    lambda: layers.Permute((2, 1, 3)),
    lambda: layers.Dropout(0.5),
]
JOINS = [
    lambda x: layers.Add()(x),
    lambda x: layers.Subtract()(x),
    lambda x: layers.Average()(x),
    lambda x: layers.Maximum()(x),
    lambda x: layers.Minimum()(x),
    lambda x: layers.Multiply()(x),
    lambda x: x[0] + x[1],
    lambda x: x[0] - x[1],
    lambda x: ops.maximum(x[0], x[1]),
]


def _large(tensor):
    return min(tensor.shape[1:3]) > 2


def _joined(draw, tensors, tensor):
    """The tensor with another of its shape, or with a branch of its own."""
    alike = [other for other in tensors if other.shape == tensor.shape and other is not tensor]
    if not alike or draw(st.booleans()):
        branch = layers.Conv2D(C, 1, activation=draw(st.sampled_from([None, None, "tanh"])))(tensors[0])
        if branch.shape != tensor.shape:
            branch = layers.Dense(C)(tensor)
        alike = [branch]
    return [tensor, alike[draw(st.integers(0, len(alike) - 1))]]


def _concatenated(draw, pair):
    joined = layers.Concatenate()(pair)
    joined = _norm(draw)(joined) if draw(st.booleans()) else joined
    joined = draw(st.sampled_from(ACTIVATIONS))()(joined) if draw(st.booleans()) else joined
    return layers.Conv2D(C, 3, padding="same", use_bias=draw(st.booleans()))(joined)


def _gated(draw, tensor):
    squeezed = layers.GlobalAveragePooling2D(keepdims=True)(tensor)
    gate = layers.Dense(draw(st.sampled_from([1, C])), activation="sigmoid")(squeezed)
    return layers.Multiply()([tensor, gate])


def _nested(draw, shape):
    within = [_convolution(draw), _norm(draw), draw(st.sampled_from(ACTIVATIONS))()]
    return keras.Sequential([keras.Input(shape), *within])


STEPS = ["norm"] * 4 + ["convolution"] * 3 + ["activation"] * 2 + ["shape", "shape", "join", "join", "concatenate"]
STEPS += ["constant", "gate", "again", "nested"]


def _branching(draw):
    """A model of up to nine steps on images of four channels; each step reads one of the last tensors."""
    inputs = keras.Input((8, 8, C))
    tensors, shared = [inputs], []
    for _ in range(draw(st.integers(3, 9))):
        tensor = tensors[draw(st.integers(max(0, len(tensors) - 2), len(tensors) - 1))]
        step = draw(st.sampled_from(STEPS))
        if step == "norm":
            shared.append(_norm(draw))
            tensors.append(shared[-1](tensor))
        elif step == "convolution" and _large(tensor):
            shared.append(_convolution(draw))
            tensors.append(shared[-1](tensor))
        elif step == "activation":
            tensors.append(draw(st.sampled_from(ACTIVATIONS))()(tensor))
        elif step == "shape" and _large(tensor) and max(tensor.shape[1:3]) < 12:
            tensors.append(draw(st.sampled_from(SHAPING))()(tensor))
        elif step == "join":
            tensors.append(draw(st.sampled_from(JOINS))(_joined(draw, tensors, tensor)))
        elif step == "concatenate":
            tensors.append(_concatenated(draw, _joined(draw, tensors, tensor)))
        elif step == "constant":
            tensors.append(_constant(draw)(tensor))
        elif step == "gate":
            tensors.append(_gated(draw, tensor))
        elif step == "again" and shared and _large(tensor):
            layer = shared[draw(st.integers(0, len(shared) - 1))]
            if not isinstance(layer, keras.Sequential) or layer.input_shape == tensor.shape:
                tensors.append(layer(tensor))
        elif step == "nested" and _large(tensor):
            shared.append(_nested(draw, tensor.shape[1:]))
            tensors.append(shared[-1](tensor))
    outputs = [tensors[-1], *(tensor for tensor in tensors[1:-1] if draw(st.integers(0, 9)) == 0)]
    tail = draw(st.sampled_from(["none", "average", "maximum", "flatten", "reshape"]))
    if tail in ("average", "maximum"):
        pooling = layers.GlobalAveragePooling2D if tail == "average" else layers.GlobalMaxPooling2D
        outputs[0] = layers.Dense(2)(pooling()(outputs[0]))
    if tail == "flatten":
        outputs[0] = layers.Dense(2)(_norm(draw)(layers.Dense(3)(layers.Flatten()(outputs[0]))))
    if tail == "reshape":
        outputs[0] = layers.Conv1D(2, 2, padding="causal")(layers.Reshape((-1, C))(outputs[0]))
    return keras.Model(inputs, outputs)


RECURRENT = [
    lambda: layers.LSTM(C, return_sequences=True),
    lambda: layers.GRU(C, return_sequences=True),
    lambda: layers.GRU(C, return_sequences=True, reset_after=False, use_bias=False),
    lambda: layers.Bidirectional(layers.SimpleRNN(C, return_sequences=True), merge_mode="sum"),
    lambda: layers.Bidirectional(layers.LSTM(2, return_sequences=True, use_bias=False)),
]
ALONG = [
    lambda: layers.Conv1D(C, 3, padding="same"),
    lambda: layers.Conv1D(C, 2, padding="causal", activation="relu"),
    lambda: layers.Dense(C),
    lambda: layers.Dense(C, activation="relu"),
    lambda: layers.TimeDistributed(layers.Dense(C)),
    lambda: layers.EinsumDense("abc,cd->abd", (None, C)),
    lambda: layers.LayerNormalization(),
    lambda: layers.Activation("tanh"),
    lambda: layers.AveragePooling1D(2, strides=1, padding="same"),
    lambda: layers.MaxPooling1D(2, strides=1, padding="same"),
    lambda: layers.ZeroPadding1D(1),
]


def _sequential(draw):
    """A model of up to six steps on sequences, from tokens or numbers, of a fixed length or any."""
    if draw(st.booleans()):
        inputs = keras.Input((5,), dtype="int32")
        tensor = layers.Embedding(6, C, mask_zero=draw(st.booleans()))(inputs)
    else:
        inputs = tensor = keras.Input((draw(st.sampled_from([5, None])), C))
    recurred = False
    for _ in range(draw(st.integers(2, 6))):
        step = draw(
            st.sampled_from(["norm", "norm", "norm", "along", "along", "recurrent", "attention", "add", "each"])
        )
        if step == "norm":
            tensor = _norm(draw)(tensor)
        elif step == "along":
            tensor = draw(st.sampled_from(ALONG))()(tensor)
        elif step == "recurrent" and not recurred:
            recurred, tensor = True, draw(st.sampled_from(RECURRENT))()(tensor)
        elif step == "attention":
            other = layers.Dense(C)(tensor) if draw(st.booleans()) else tensor
            tensor = layers.MultiHeadAttention(2, 2, use_bias=draw(st.booleans()))(tensor, other)
        elif step == "add":
            tensor = layers.Add()([tensor, layers.Dense(C)(tensor)])
        elif step == "each":
            tensor = layers.TimeDistributed(_norm(draw))(tensor)
    if draw(st.booleans()):
        tensor = layers.Dense(2)(layers.GlobalAveragePooling1D()(_norm(draw)(tensor)))
    return keras.Model(inputs, tensor)


def _assert_folds(model, draw):
    model = randomized(model, seed=draw(st.integers(0, 99)))
    model = with_maps(model, draw(st.sampled_from(["any", "any", "positive", "scale"])))
    folded, _ = fold(model)
    inputs = random_inputs(model, batch=2, size=5)
    for expected, found in zip(computed(model, inputs), computed(folded, inputs), strict=True):
        size = max(1, np.abs(expected).max())
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 * size)
    assert_settled(folded)
    assert not any(isinstance(layer, kbn.BatchNormalization) for layer in folded._flatten_layers())


@settings(max_examples=50, **LIMITS)
@given(st.data())
def test_networks_that_branch(data):
    keras.utils.clear_session(free_memory=False)
    _assert_folds(_branching(data.draw), data.draw)


@settings(max_examples=20, **LIMITS)
@given(st.data())
@pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask attached to it")
def test_networks_along_sequences(data):
    keras.utils.clear_session(free_memory=False)
    _assert_folds(_sequential(data.draw), data.draw)
