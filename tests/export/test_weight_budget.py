"""A configuration cannot make Keras allocate far more than the file holds."""

import keras
import pytest

from kbn.export.errors import BrokenModelError
from kbn.export.weight_budget import weight_budget


def test_what_fits_is_built():
    with weight_budget("file", 3_000_000):
        layer = keras.layers.Dense(1000)
        layer.build((None, 3000))
    assert layer.kernel.shape == (3000, 1000)


def test_the_layer_that_asks_for_too_much_is_named():
    with pytest.raises(BrokenModelError, match=r"^file: layer 'wide' asks for a weight of shape \(5000, 5000\)"):
        build_watched(keras.layers.Dense(5000, name="wide"), (None, 5000))


def test_many_weights_add_up():
    # 4 002 000 numbers each: the fifth kernel is beyond the allowance of 16 777 216.
    chain = keras.Sequential([keras.layers.Dense(2000) for _ in range(5)])
    with pytest.raises(BrokenModelError, match="the model has 20008000 weights where the file stores 1"):
        build_watched(chain, (None, 2000))


def test_a_shape_may_come_first():
    class Positional(keras.layers.Layer):
        def build(self, _):
            self.table = self.add_weight((5000, 5000), "zeros")

    with pytest.raises(BrokenModelError, match=r"shape \(5000, 5000\)"):
        build_watched(Positional(), (None, 1))


def test_scalars_count_one():
    class Scalar(keras.layers.Layer):
        def build(self, _):
            self.gain = self.add_weight(name="gain")

    with weight_budget("file", 1):
        layer = Scalar()
        layer.build((None, 1))
    assert layer.gain.shape == ()


def test_the_watch_ends_with_the_block_whatever_happens():
    create = keras.Layer.add_weight
    with pytest.raises(ZeroDivisionError), weight_budget("file", 1):
        raise ZeroDivisionError
    assert keras.Layer.add_weight is create


def build_watched(layer: keras.Layer, shape: tuple) -> None:
    with weight_budget("file", 1):
        layer.build(shape)
