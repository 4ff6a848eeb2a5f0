"""LSTM and GRU: one node each with Keras' numbers, whatever the arguments; a loop where ONNX has no such node."""

from __future__ import annotations

from collections import Counter
from typing import Any

import keras
import numpy as np
import onnxruntime as ort
import pytest
from keras import layers

from kbn.export.onnx_conversion import Conversion, convert
from trained_models import computed, random_inputs, randomized

KINDS = pytest.mark.parametrize("kind", [layers.LSTM, layers.GRU], ids=["LSTM", "GRU"])


def converted(inputs: Any, outputs: Any) -> Conversion:
    """The conversion, after its numbers were compared with Keras'."""
    model = randomized(keras.Model(inputs, outputs))
    conversion = convert(model)
    arrays = random_inputs(model, size=6)
    session = ort.InferenceSession(conversion.proto.SerializeToString())
    flat = [array.astype(np.float32) for array in keras.tree.flatten(arrays)]
    feeds = {value.name: array for value, array in zip(conversion.proto.graph.input, flat, strict=True)}
    for found, expected in zip(session.run(None, feeds), computed(model, arrays), strict=True):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    return conversion


def nodes(conversion: Conversion) -> Counter[str]:
    return Counter(node.op_type for node in conversion.proto.graph.node)


OPTIONS: dict[str, dict[str, Any]] = {
    "last": {},
    "sequence": {"return_sequences": True},
    "states": {"return_sequences": True, "return_state": True},
    "backwards": {"go_backwards": True},
    "backwards, sequence": {"go_backwards": True, "return_sequences": True},
    "without bias": {"use_bias": False},
    "unrolled": {"unroll": True},
    "other activations": {"activation": "softsign", "recurrent_activation": "hard_sigmoid"},
    "both hard": {"activation": "hard_sigmoid", "recurrent_activation": "hard_sigmoid"},
}


@KINDS
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_one_node(kind: Any, options: dict[str, Any]) -> None:
    x = keras.Input((5, 3))
    found = nodes(converted(x, kind(4, **options)(x)))
    states = (2 if kind is layers.LSTM else 1) if options.get("return_state") else 0
    expected = {kind.__name__: 1, "Squeeze": 1 + states, "Transpose": 1 + bool(options.get("return_sequences"))}
    if options.get("go_backwards") and options.get("return_sequences"):
        expected["Slice"] = 1  # Keras has the sequence in the order of processing
    assert found == expected


def test_gru_that_resets_before() -> None:
    x = keras.Input((5, 3))
    assert nodes(converted(x, layers.GRU(4, reset_after=False)(x)))["GRU"] == 1


@KINDS
def test_any_length(kind: Any) -> None:
    x = keras.Input((None, 3))
    found = nodes(converted(x, kind(4, return_sequences=True)(x)))
    assert found == {kind.__name__: 1, "Squeeze": 1, "Transpose": 2}


@KINDS
@pytest.mark.parametrize("sequences", [True, False])
def test_bidirectional_reverses_nothing(kind: Any, sequences: bool) -> None:
    x = keras.Input((5, 3))
    found = nodes(converted(x, layers.Bidirectional(kind(4, return_sequences=sequences))(x)))
    assert found[kind.__name__] == 2
    assert not {"Slice", "ReverseSequence", "Loop"} & set(found)


@KINDS
def test_given_initial_state(kind: Any) -> None:
    x, h, c = keras.Input((5, 3)), keras.Input((4,)), keras.Input((4,))
    states = [h, c] if kind is layers.LSTM else [h]
    conversion = converted([x, *states], kind(4)(x, initial_state=states))
    (node,) = [node for node in conversion.proto.graph.node if node.op_type == kind.__name__]
    assert len([name for name in node.input if name]) == 4 + len(states)


@KINDS
def test_encoder_and_decoder(kind: Any) -> None:
    source, target = keras.Input((5, 3)), keras.Input((4, 2))
    _, *states = kind(4, return_state=True)(source)
    conversion = converted([source, target], kind(4, return_sequences=True)(target, initial_state=states))
    assert nodes(conversion)[kind.__name__] == 2


@KINDS
def test_weights_are_no_constants_of_the_conversion_and_keep_their_names(kind: Any) -> None:
    x = keras.Input((5, 3))
    conversion = converted(x, kind(4, name="layer")(x))
    assert (conversion.path, conversion.notes) == ("skeleton", ())
    names = {tensor.name for tensor in conversion.proto.graph.initializer}
    cell = f"layer/{kind.__name__.lower()}_cell"
    assert {f"{cell}/kernel", f"{cell}/recurrent_kernel"} <= names


@KINDS
@pytest.mark.parametrize("case", ["mask", "activation", "recurrent dropout"])
def test_a_loop_where_onnx_has_no_such_node(kind: Any, case: str) -> None:
    x = keras.Input((5, 3))
    options = {"activation": {"activation": "selu"}, "recurrent dropout": {"recurrent_dropout": 0.5}}
    y = kind(4)(layers.Masking(0.5)(x)) if case == "mask" else kind(4, **options[case])(x)
    found = nodes(converted(x, y))
    assert found[kind.__name__] == 0
    assert found["Loop"] == 1
