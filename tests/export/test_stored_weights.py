"""Stored weights: rounded once they pass, in any order of the axes; a unit in the last place off they do not."""

import numpy as np
import pytest
from keras import layers

from kbn.export.stored_weights import weight_error


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def built(layer, shape, random):
    layer.build((None, *shape))
    layer.set_weights([random.normal(0, 10.0 ** random.uniform(-3, 3), weight.shape) for weight in layer.weights])
    return layer


def stored(layer, change=lambda name, array: array):
    return [change(weight.name, np.asarray(weight).astype(np.float32)) for weight in layer.weights]


LAYERS = {
    "conv": (lambda: layers.Conv2D(4, (3, 2), name="x", dtype="float64"), (6, 6, 3), (3, 2, 0, 1)),
    "conv1d": (lambda: layers.Conv1D(4, 3, name="x", dtype="float64"), (6, 3), (2, 1, 0)),
    "dense": (lambda: layers.Dense(4, name="x", dtype="float64"), (3,), (1, 0)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_rounded_once_in_any_order(kind, rng):
    make, shape, order = LAYERS[kind]
    layer = built(make(), shape, rng)
    assert weight_error(layer, stored(layer)) <= 0.5
    turned = stored(layer, lambda name, array: array.transpose(order) if name == "kernel" else array)
    assert weight_error(layer, turned) <= 0.5
    wider = stored(layer, lambda name, array: array[:, None])
    assert weight_error(layer, wider) <= 0.5


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("name", ["kernel", "bias"])
def test_one_unit_off_is_seen(kind, name, rng):
    make, shape, _ = LAYERS[kind]
    layer = built(make(), shape, rng)

    def off(which, array):
        if which == name:
            index = rng.integers(array.size)
            array.flat[index] = np.nextafter(array.flat[index], np.float32(np.inf))
        return array

    assert weight_error(layer, stored(layer, off)) > 0.5


def test_subnormal_numbers_may_be_zero(rng):
    layer = built(layers.Dense(4, name="x", dtype="float64"), (3,), rng)
    kernel, bias = layer.get_weights()
    kernel[0, 0], bias[1] = 1e-40, -1e-39
    layer.set_weights([kernel, bias])
    zero = stored(layer, lambda name, array: np.where(np.abs(array) < 1e-38, 0, array).astype(np.float32))
    assert weight_error(layer, zero) <= 0.5
    kernel[0, 0] = 1e-37
    layer.set_weights([kernel, bias])
    assert weight_error(layer, zero) > 1000


def test_what_the_file_does_not_have_is_not_judged(rng):
    layer = built(layers.Dense(4, name="x", dtype="float64"), (3,), rng)
    assert weight_error(layer, []) is None
    assert weight_error(layer, [np.zeros((5, 5), np.float32), np.zeros((3, 4), np.int64)]) is None
    assert weight_error(layer, [layer.bias.numpy().astype("float32")]) <= 0.5


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["kernel", "bias"])
def test_what_is_not_finite_is_no_weight(bad, name, rng):
    layer = built(layers.Dense(4, name="x", dtype="float64"), (3,), rng)

    def broken(which, array):
        if which == name:
            array.flat[1] = bad
        return array

    assert weight_error(layer, stored(layer, broken)) == float("inf")


def test_the_channels_of_a_depthwise_kernel_on_one_axis(rng):
    layer = built(layers.DepthwiseConv2D((3, 2), depth_multiplier=2, name="x", dtype="float64"), (6, 6, 3), rng)
    kernel, bias = stored(layer)
    turned = kernel.reshape(3, 2, 1, 6).transpose(3, 2, 0, 1)
    assert weight_error(layer, [turned, bias]) <= 0.5
    turned = turned.copy()
    turned[4, 0, 1, 1] = np.nextafter(turned[4, 0, 1, 1], np.float32(np.inf))
    assert weight_error(layer, [turned, bias]) > 0.5
