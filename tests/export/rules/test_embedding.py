"""Embedding: the table takes in a map that comes after."""

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


def _model(*, calls=1, axis=-1, prepare=lambda table: None, **arguments):
    table, bn = layers.Embedding(9, 4, name="taker", **arguments), norm(axis=axis)
    inputs = [keras.Input((6,), dtype="int32", name=f"tokens{i}") for i in range(calls)]
    model = keras.Model(inputs, [layers.Activation("tanh")(bn(table(x))) for x in inputs])
    prepare(table)
    return randomized(model)


@pytest.mark.parametrize("arguments", [{}, {"mask_zero": True}, {"calls": 2}], ids=str)
def test_a_map_after(arguments):
    assert_folds(_model(**arguments), {"bn": ("taker",)}, rule="backward")


def test_what_is_refused():
    assert_kept(_model(axis=1), "the map runs along axis 1, but the output channels of taker lie on axis 2")
    assert_kept(
        _model(prepare=lambda table: table.enable_lora(2)),
        "taker computes with more than its kernel (lora_embeddings_a",
    )
    inputs = keras.Input((6,))  # numbers that are cast to indices
    model = randomized(keras.Model(inputs, end()(layers.Embedding(9, 4, name="x")(norm()(inputs)))))
    assert_kept(model, "a map cannot pass x (Embedding) unchanged")
