"""What the report warns of: dead channels, scales far apart, nearly no variance, weights past float16."""

import keras
import numpy as np
import pytest
from keras import layers

from kbn.export import inspect
from trained_models import randomized

CASES = {
    "dead": ("gamma", [0.0, 1.0, -2.0, 0.0], "2 of 4 channels have scale 0 and are constant"),
    "spread": ("gamma", [1.0, -1.0, 1.0, 1e4], "times the median: quantise per channel"),
    "variance": ("moving_variance", [1.0, 2.0, 1e-9, 1.0], "1 of 4 channels have nearly no variance"),
    "float16": ("gamma", [1e6, 1e6, -1e6, 1e6], "weights of conv are past float16's range now"),
    "none": ("gamma", [1.0, -1.0, 2.0, 0.5], None),
}


@pytest.mark.parametrize("kind", CASES)
def test_warnings(kind):
    name, values, told = CASES[kind]
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, layers.BatchNormalization(name="bn")(layers.Conv2D(4, 3, name="conv")(inputs)))
    randomized(model)
    bn = model.get_layer("bn")
    bn.moving_variance.assign([0.5, 1.0, 2.0, 1.5])
    getattr(bn, name).assign(np.array(values))
    (row,) = inspect(model).rows
    assert row.decision == "folded"
    if told is None:
        assert row.warnings == ()
    else:
        assert any(told in warning for warning in row.warnings)
