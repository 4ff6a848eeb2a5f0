"""oneDNN's gradient kernel: when it is used, and that refusing it is heeded."""

from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

from kbn.on_tensorflow import onednn

ASK = """
import os
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
from kbn.on_tensorflow import onednn
print(onednn.enabled(), onednn.available())
"""


@pytest.mark.parametrize("word", ["0", "false"])
def test_the_users_refusal_is_heeded(word, run_python, monkeypatch):
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", word)
    assert run_python(ASK).split()[-2:] == ["False", "False"]


WHICH = """
import os
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow as tf
from kbn.on_tensorflow import onednn
specs = [tf.TensorSpec([None, 6])] * 2 + [tf.TensorSpec([6])] * 3
gradient = tf.function(lambda *args: onednn.gradient(*args, 1e-3)).get_concrete_function(*specs)
kinds = {node.op for node in gradient.graph.as_graph_def().node}
print(onednn.enabled(), bool(kinds & {"FusedBatchNormGradV3"}), any(kind.startswith("_Mkl") for kind in kinds))
"""


@pytest.mark.parametrize("word", ["0", "1"])
def test_the_private_operation_is_taken_only_where_the_public_one_is_eigens(word, run_python, monkeypatch):
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", word)
    enabled, public, private = (said == "True" for said in run_python(WHICH).split()[-3:])
    assert (public, private) == (enabled, not enabled)


def test_a_kernel_that_differs_or_fails_is_not_used(monkeypatch):
    public = onednn._public
    assert not _agrees(monkeypatch, lambda *args, **options: [2 * part for part in public(*args, **options)])

    for error in (
        tf.errors.NotFoundError(None, None, "No registered kernel"),
        RuntimeError("no such op"),
        ImportError(),
    ):
        assert not _agrees(monkeypatch, mock.Mock(side_effect=error))


def _agrees(monkeypatch, kernel):
    monkeypatch.setattr(onednn, "_in_graph", kernel)
    return onednn._agrees_with_the_public_kernel()


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("shape", [(60, 7), (4, 7, 15)])
def test_gradient(shape, graph, rng, reference):
    if not onednn.available():
        pytest.skip("this TensorFlow has no oneDNN")
    x, dy, gamma = rng.normal(1.0, 2.0, shape), rng.normal(size=shape), rng.normal(size=7)
    expected = reference(x, dy, gamma, np.zeros(7), axis=1)
    arguments = [tf.constant(a, tf.float32) for a in (dy, x, gamma, expected.mean, expected.variance)]
    gradient = tf.function(onednn.gradient) if graph else onednn.gradient
    for part, exact in zip(gradient(*arguments, 1e-3), (expected.dx, expected.dgamma, expected.dbeta), strict=True):
        assert np.allclose(part, exact, rtol=1e-4, atol=1e-4)
