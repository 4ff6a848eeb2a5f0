"""Integer lookups: every key, none, and the settings of Keras' layer."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import onnxruntime as ort
import pytest
from keras import layers

from both_ways import EVERY_OPSET, both_ways
from kbn.export import export


@pytest.mark.parametrize("opset", EVERY_OPSET)
@pytest.mark.parametrize(
    "options",
    [{}, {"num_oov_indices": 0, "mask_token": 7}, {"num_oov_indices": 3}, {"output_mode": "one_hot"}],
    ids=["plain", "mask", "three out of vocabulary", "one hot"],
)
def test_integer_lookup(opset: int, options: dict[str, Any]) -> None:
    known = np.random.default_rng(0).permutation(np.arange(-40, 60, 3))
    array = known[:5] if options.get("num_oov_indices") == 0 else np.arange(-50, 70)
    layer = layers.IntegerLookup(vocabulary=known, **options)
    found, expected, operators = both_ways(layer, array.astype("int64")[:, None], opset)
    np.testing.assert_array_equal(found, expected)
    assert operators["LabelEncoder"] == 1


def test_a_model_behind_a_lookup_is_exported(tmp_path: Any) -> None:
    inputs = keras.Input((3,), dtype="int64", name="ids")
    index = layers.IntegerLookup(vocabulary=[4, 2, 9])(inputs)
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(layers.Embedding(4, 5)(index))))
    report = export(model, tmp_path / "m.onnx")
    assert report.check.passed
    assert ort.InferenceSession(tmp_path / "m.onnx").get_inputs()[0].type == "tensor(int64)"
