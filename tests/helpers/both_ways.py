"""One layer through the conversion: what the file gives beside what Keras gives."""

from __future__ import annotations

from collections import Counter
from typing import Any

import keras
import numpy as np
import onnxruntime as ort
from keras import ops

from kbn.export.onnx_conversion import convert

EVERY_OPSET = [13, 18, 21]


def both_ways(layer: Any, array: np.ndarray, opset: int = 18) -> tuple[np.ndarray, np.ndarray, Counter[str]]:
    """What the file gives, what Keras gives, and the file's operators."""
    inputs = keras.Input(array.shape[1:], dtype=str(array.dtype))
    model = keras.Model(inputs, layer(inputs))
    proto = convert(model, opset=opset).proto
    (found,) = ort.InferenceSession(proto.SerializeToString()).run(None, {proto.graph.input[0].name: array})
    expected = ops.convert_to_numpy(model(array))
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    return found, expected, Counter(node.op_type for node in proto.graph.node)
