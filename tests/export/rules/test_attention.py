"""Attention: a map on the query, the value or the key, and after the output."""

import keras
import pytest
from keras import layers

from folding_helpers import (
    assert_folds,
    assert_kept,
    end,
    norm,
)
from trained_models import randomized

KINDS = {
    "MHA": lambda **k: layers.MultiHeadAttention(2, 3, name="taker", **k),
    "MHA, no bias, other sizes": lambda **k: layers.MultiHeadAttention(
        2, 3, value_dim=2, use_bias=False, output_shape=5, name="taker", **k
    ),
    "GQA": lambda **k: layers.GroupQueryAttention(3, 4, 2, name="taker", **k),
    "GQA, no bias": lambda **k: layers.GroupQueryAttention(3, 4, 2, use_bias=False, name="taker", **k),
}
CALLS = {
    "self": lambda attention, x, y: attention(x, x),
    "self, three times": lambda attention, x, y: attention(x, x, x),
    "query": lambda attention, x, y: attention(x, y),
    "value and key": lambda attention, x, y: attention(y, x),
    "value": lambda attention, x, y: attention(y, x, key=y),
    "key": lambda attention, x, y: attention(y, y, x),
    "query and key, named": lambda attention, x, y: attention(key=x, value=y, query=x),
}


@pytest.mark.parametrize(
    ("kind", "call"),
    [*((kind, "self") for kind in KINDS), *(("MHA, no bias, other sizes", call) for call in CALLS if call != "self")],
)
def test_a_map_before(kind, call):
    inputs = [keras.Input((4, 3), name="x"), keras.Input((4, 3), name="y")]
    tensor = CALLS[call](KINDS[kind](), norm()(inputs[0]), inputs[1])
    assert_folds(randomized(keras.Model(inputs, tensor)), {"bn": ("taker",)}, rule="forward")


@pytest.mark.parametrize("kind", KINDS)
def test_a_map_after(kind):
    inputs = keras.Input((4, 3))
    model = keras.Model(inputs, end()(norm()(KINDS[kind]()(inputs, inputs))))
    assert_folds(randomized(model), {"bn": ("taker",)}, rule="backward")


def test_attention_over_two_axes():
    inputs = keras.Input((2, 4, 3))
    tensor = norm("before")(inputs)
    tensor = layers.MultiHeadAttention(2, 3, attention_axes=(1, 2), name="taker")(tensor, tensor)
    model = randomized(keras.Model(inputs, end()(norm("after")(tensor))))
    assert_folds(model, {"before": ("taker",), "after": ("taker",)})


def _model(call, shape=(4, 3), axis=-1, prepare=lambda attention: None):
    inputs = keras.Input(shape)
    attention = layers.MultiHeadAttention(2, 3, name="x")
    tensor = call(attention, norm(axis=axis)(inputs), inputs)
    prepare(attention)
    return randomized(keras.Model(inputs, tensor))


REFUSED = {
    "mask": (
        lambda: _model(lambda a, x, y: a(y, y, attention_mask=x), (3, 3)),
        "the map would reach the attention_mask of x",
    ),
    "steps": (lambda: _model(lambda a, x, y: a(x, x), axis=1), "does not run along the features of x"),
    "LoRA": (
        lambda: _model(lambda a, x, y: a(x, x), prepare=lambda attention: attention.query_dense.enable_lora(2)),
        "x computes with other weights than four projections",
    ),
    "scores": (
        lambda: _model(lambda a, x, y: norm()(a(y, y, return_attention_scores=True)[1])),
        "x (MultiHeadAttention) has several outputs",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused(kind):
    make, reason = REFUSED[kind]
    assert_kept(make(), reason)
