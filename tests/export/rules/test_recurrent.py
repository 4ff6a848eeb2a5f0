"""Recurrent layers: the kernel through which each step sees the input takes in a map that comes before."""

import keras
import pytest
from keras import layers

from folding_helpers import (
    assert_folds,
    assert_kept,
    chain,
    end,
    norm,
    with_maps,
)
from trained_models import randomized

SEQUENCE, FRAMES, LINES = (3, 2), (2, 5, 4, 2), (2, 5, 2)
TAKERS = {
    "LSTM": (SEQUENCE, lambda **k: layers.LSTM(3, **k)),
    "LSTM, no bias": (SEQUENCE, lambda **k: layers.LSTM(3, use_bias=False, return_sequences=True, **k)),
    "LSTM, backwards": (SEQUENCE, lambda **k: layers.LSTM(3, go_backwards=True, unit_forget_bias=False, **k)),
    "LSTM, dynamic": ((None, 2), lambda **k: layers.LSTM(3, dropout=0.5, recurrent_dropout=0.5, **k)),
    "GRU": (SEQUENCE, lambda **k: layers.GRU(3, **k)),
    "GRU, no bias": (SEQUENCE, lambda **k: layers.GRU(3, use_bias=False, **k)),
    "GRU, reset before": (SEQUENCE, lambda **k: layers.GRU(3, reset_after=False, **k)),
    "GRU, reset before, no bias": (SEQUENCE, lambda **k: layers.GRU(3, reset_after=False, use_bias=False, **k)),
    "SimpleRNN": (SEQUENCE, lambda **k: layers.SimpleRNN(3, activation="relu", **k)),
    "SimpleRNN, no bias": (SEQUENCE, lambda **k: layers.SimpleRNN(3, use_bias=False, **k)),
    "ConvLSTM1D": (LINES, lambda **k: layers.ConvLSTM1D(3, 2, strides=2, **k)),
    "ConvLSTM1D same, window of one": (LINES, lambda **k: layers.ConvLSTM1D(3, 1, padding="same", **k)),
    "ConvLSTM2D": (FRAMES, lambda **k: layers.ConvLSTM2D(3, 2, use_bias=False, return_sequences=True, **k)),
    "Bidirectional LSTM": (SEQUENCE, lambda **k: layers.Bidirectional(layers.LSTM(3), **k)),
    "Bidirectional LSTM, no bias": (
        SEQUENCE,
        lambda **k: layers.Bidirectional(layers.LSTM(3, use_bias=False, return_sequences=True), **k),
    ),
    "Bidirectional GRU, no bias": (SEQUENCE, lambda **k: layers.Bidirectional(layers.GRU(3, use_bias=False), **k)),
    "Bidirectional GRU, reset before": (
        SEQUENCE,
        lambda **k: layers.Bidirectional(layers.GRU(3, reset_after=False), merge_mode="sum", **k),
    ),
    "Bidirectional SimpleRNN": (
        SEQUENCE,
        lambda **k: layers.Bidirectional(layers.SimpleRNN(3, use_bias=False, name="own"), **k),
    ),
}


@pytest.mark.parametrize("kind", TAKERS)
def test_a_map_before(kind):
    shape, taker = TAKERS[kind]
    assert_folds(chain(shape, norm(), taker(name="taker")), {"bn": ("taker",)}, rule="forward")


def test_a_scale_before_zero_padding():
    model = chain(FRAMES, norm(), layers.ConvLSTM2D(3, 3, padding="same", name="taker"))
    assert_kept(model, "taker pads its input with zeros (padding='same')")
    assert_folds(with_maps(model, "signed scale"), {"bn": ("taker",)}, rule="forward")


def test_a_map_before_with_a_state_that_comes_without():
    inputs, state = keras.Input(SEQUENCE), keras.Input((3,))
    model = keras.Model([inputs, state], layers.GRU(3, name="taker")(norm()(inputs), initial_state=state))
    assert_folds(randomized(model), {"bn": ("taker",)}, rule="forward")


def _on_the_state(layer, states):
    inputs, state = keras.Input(SEQUENCE), keras.Input((3,))
    return randomized(keras.Model([inputs, state], layer(inputs, initial_state=[norm()(state)] * states)))


REFUSED = {
    "LSTM state": lambda: _on_the_state(layers.LSTM(3, name="x"), 2),
    "GRU state": lambda: _on_the_state(layers.GRU(3, name="x"), 1),
    "Bidirectional state": lambda: _on_the_state(layers.Bidirectional(layers.GRU(3), name="x"), 2),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_map_on_the_initial_state_is_refused(kind):
    assert_kept(REFUSED[kind](), "the map would reach the initial state of x")


def test_what_else_is_refused():
    assert_kept(
        chain((3, 2), norm(axis=1), layers.LSTM(3, name="x")), "the map runs along axis 1, but the input channels"
    )
    assert_kept(
        chain((3, 2), norm(axis=1), layers.Bidirectional(layers.LSTM(3), name="x")), "the map runs along axis 1"
    )
    assert_kept(chain((3, 2), layers.LSTM(3, name="x"), norm(), end()), "x (LSTM)")
    assert_kept(chain((3, 2), norm(), layers.RNN(layers.LSTMCell(3), name="x")), "x (RNN)")
