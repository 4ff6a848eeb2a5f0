"""Marked operations: one node, or the form that onnxruntime makes one of, with Keras' numbers, at every opset."""

from __future__ import annotations

from collections import Counter
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from keras import layers

from kbn.export.onnx_conversion import convert
from trained_models import computed, randomized


def nodes(proto: Any) -> Counter[str]:
    return Counter(node.op_type for node in proto.graph.node)


def converted(layer: Any, shape: tuple[int | None, ...], opset: int = 18) -> Any:
    """The ONNX model of one layer, after its numbers were compared with Keras'."""
    x = keras.Input(shape)
    model = randomized(keras.Model(x, layer(x)))
    proto = convert(model, opset=opset).proto
    array = np.random.default_rng(1).normal(0, 3, (2, *(size or 5 for size in shape))).astype(np.float32)
    (expected,) = computed(model, array)
    (found,) = ort.InferenceSession(proto.SerializeToString()).run(None, {proto.graph.input[0].name: array})
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    return proto


@pytest.mark.parametrize(
    ("activation", "opset", "expected"),
    [
        ("hard_sigmoid", 13, {"HardSigmoid": 1}),
        ("hard_silu", 13, {"HardSigmoid": 1, "Mul": 1}),
        ("hard_silu", 14, {"HardSwish": 1}),
        ("hard_silu", 22, {"HardSwish": 1}),
        ("gelu", 13, {"Div": 1, "Erf": 1, "Add": 1, "Mul": 2}),
    ],
)
def test_activation(activation: str, opset: int, expected: dict[str, int]) -> None:
    assert nodes(converted(layers.Activation(activation), (7,), opset)) == expected


def test_onnxruntime_makes_one_node_of_gelu(tmp_path: Any) -> None:
    proto = converted(layers.Activation("gelu"), (7,))
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(proto.SerializeToString(), options)
    assert nodes(onnx.load(tmp_path / "optimised.onnx")) == {"Gelu": 1}


def test_approximate_gelu_stays_what_it_is() -> None:
    found = nodes(converted(layers.Activation(lambda x: keras.ops.gelu(x, approximate=True)), (7,)))
    assert found["Tanh"] == 1
    assert "Erf" not in found


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("shape", [(6,), (None, 6), (4, 5, 6)])
def test_layer_normalization_is_one_node(shape: Any, center: bool, scale: bool) -> None:
    proto = converted(layers.LayerNormalization(epsilon=0.5, center=center, scale=scale), shape)
    assert nodes(proto) == {"LayerNormalization": 1}


@pytest.mark.parametrize("shape", [(1, 1), (4, 1), (4, 6)])
def test_a_gamma_that_is_broadcast(shape: Any) -> None:
    class Normalized(layers.Layer):
        def call(self, x: Any) -> Any:
            return keras.ops.layer_normalization(x, gamma=keras.ops.ones((1, *shape)) * 2)

    # The helper compares the numbers; whatever the nodes, none is left of the marker.
    assert "Print" not in nodes(converted(Normalized(), (4, 6)))


@pytest.mark.parametrize("axis", [(2, 3), (-2, -1), (1, 2, 3)])
def test_layer_normalization_over_the_last_axes_is_one_node(axis: Any) -> None:
    assert nodes(converted(layers.LayerNormalization(axis=axis), (4, 5, 6))) == {"LayerNormalization": 1}


@pytest.mark.parametrize(
    ("options", "shape", "opset"),
    [
        ({"axis": 1}, (4, 6), 18),
        ({"axis": (1, 3)}, (4, 5, 6), 18),
        ({}, (4, 6), 16),  # the operator came with opset 17
    ],
)
def test_layer_normalization_that_onnx_has_no_node_for(options: Any, shape: Any, opset: int) -> None:
    assert "LayerNormalization" not in nodes(converted(layers.LayerNormalization(**options), shape, opset))


def test_the_operations_are_keras_again_afterwards() -> None:
    before = keras.src.ops.nn._layer_normalization, keras.src.backend.nn.gelu, keras.src.backend.nn.hard_silu
    converted(layers.LayerNormalization(), (6,))
    after = keras.src.ops.nn._layer_normalization, keras.src.backend.nn.gelu, keras.src.backend.nn.hard_silu
    assert after == before
