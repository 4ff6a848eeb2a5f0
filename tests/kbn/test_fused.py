"""The fused path: where it applies, that it is taken, and what it saves."""

import numpy as np
import pytest
import tensorflow as tf

import kbn
from kbn import fused


def operations(layer, x, training, jit=False):
    """The operations in the graph of a call, with those in its branches."""
    step = tf.function(lambda x: layer(x, training=training), jit_compile=jit)
    graph = step.get_concrete_function(x).graph
    nodes = list(graph.as_graph_def().node)
    for function in graph.as_graph_def().library.function:
        nodes += function.node_def
    return [node.op for node in nodes]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(4, 3), (4, 5, 3), (4, 5, 6, 3), (4, 2, 5, 6, 3)])
def test_the_kernel_is_used(shape, training, dtype):
    layer = kbn.BatchNormalization(dtype=dtype)
    layer.build(shape)
    found = operations(layer, tf.zeros(shape, dtype), training)
    assert found.count("FusedBatchNormV3") == 1


@pytest.mark.parametrize("shape", [(4, 3, 5), (4, 3, 6, 7), (4, 3, 2, 5, 6)])
def test_the_kernel_is_used_for_channels_first(shape):
    layer = kbn.BatchNormalization(axis=1)
    layer.build(shape)
    assert operations(layer, tf.zeros(shape), True).count("FusedBatchNormV3") == 1


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (tf.zeros([2, 3]), True),
        (tf.zeros([2, 3], "float64"), False),
        (tf.zeros([0, 3]), False),
        (tf.zeros([3]), False),
        (tf.zeros([2, 3, 4, 5, 6], "bfloat16"), True),
    ],
)
def test_applies(x, expected):
    assert fused.applies(x) is expected


@pytest.mark.parametrize(
    ("shape", "jit", "branches"),
    [((8, 8, 8, 4), False, False), ((32, 32, 32, 4), False, True), ((32, 32, 32, 4), True, False)],
)
def test_branches_only_where_that_saves_a_pass(shape, jit, branches):
    """And never under XLA, which subtracts for nothing and whose own variance needs the pivot everywhere."""
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("with a GPU nothing branches: the host would wait for the device")
    layer = kbn.BatchNormalization()
    layer.build(shape)
    found = operations(layer, tf.zeros(shape), True, jit)
    assert any(op in ("If", "StatelessIf") for op in found) is branches


def test_no_pivot_no_sampling():
    layer = kbn.BatchNormalization(pivot=False)
    layer.build((32, 32, 32, 4))
    assert not {"If", "StatelessIf", "StridedSlice"} & set(operations(layer, tf.zeros((32, 32, 32, 4)), True))


@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
@pytest.mark.parametrize("jit", [True, False])
def test_both_layouts_of_the_sample(data_format, jit, rng):
    x = np.arange(6 * 40 * 30 * 3, dtype="float32").reshape(6, 40, 30, 3)
    packed = x if data_format == "NHWC" else np.moveaxis(x, -1, 1)
    signature = [tf.TensorSpec([None] * 4)]
    known = fused._sample(tf.constant(packed), data_format).numpy()
    assert 16 <= len(known) <= 100
    assert set(map(tuple, known)) <= set(map(tuple, x.reshape(-1, 3)))

    @tf.function(input_signature=signature, jit_compile=jit)
    def sample(packed):
        shape = [None, None, None, 3] if data_format == "NHWC" else [None, 3, None, None]
        return fused._sample(tf.ensure_shape(packed, shape), data_format)

    assert np.array_equal(sample(packed), known)
