"""Names: unique ones, and the layer of a TensorFlow scope."""

from __future__ import annotations

import pytest

from kbn.export.naming import unique
from kbn.export.onnx_names import layer_path


def test_unique() -> None:
    assert unique(["a", "b", "a", "a_1", "a"], taken=["b"]) == ["a", "b_1", "a_1", "a_1_1", "a_2"]


@pytest.mark.parametrize(
    ("scope", "path"),
    [
        ("model_1/conv_1/BiasAdd", "conv"),
        ("model_1/conv_1_1/BiasAdd", "conv_1"),
        ("model_1/conv_3/BiasAdd__12", "conv"),
        ("model_1/model_1/block_1/conv_1/Conv2D", "block/conv"),
        ("model_1/block_1__7", "block"),
        ("Transpose__53", ""),
        ("model_1/Relu", ""),
        ("other/conv_1/Relu", ""),
    ],
)
def test_layer_path(scope: str, path: str) -> None:
    assert layer_path(scope, {"model", "conv", "conv_1", "block"}, "model") == path
