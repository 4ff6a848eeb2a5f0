"""Which models may be merged: those for which two rows together give what they give alone."""

import numpy as np
import pytest

from kbn.export.serve.model import load
from kbn.export.serve.warming import warm_up
from serving import write, write_rows

W = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
APART = {
    "fixed": ("(float[1, 4] x) => (float[1, 4] y) { y = Relu(x) }", "the first axis of input 'x' is fixed"),
    "scalar": ("(float[N, 4] x) => (float y) { y = ReduceMean<keepdims=0>(x) }", "no axis of examples"),
    "softmax over the batch": ("(float[N, 4] x) => (float[N, 4] y) { y = Softmax<axis=0>(x) }", "depends on what else"),
    "reversed": (
        "(float[N, 4] x) => (float[N, 4] y) { t = Transpose(x)  y = Reshape(t, like) }",
        "depends on what else",
    ),
    "rows of data": ("(float[N, 4] x) => (int64[M, K] y) { i = NonZero(x)  y = Transpose(i) }", "output 'y'"),
    "outer": ("(float[N, 4] x) => (float[N, M] y) { t = Transpose(x)  y = MatMul(x, t) }", "has not the shape"),
    "dynamic quantisation": (
        """(float[N, 4] x) => (float[N, 4] y) {
            q, s, z = DynamicQuantizeLinear(x)  y = DequantizeLinear(q, s, z) }""",
        "depends on what else",
    ),
    "less the mean of the batch": (
        "(float[N, 4] x) => (float[N, 4] y) { a = ReduceMean<keepdims=1>(x, zero)  y = Sub(x, a) }",
        "depends on what else",
    ),
}


@pytest.mark.parametrize("name", APART)
def test_models_that_look_across_the_batch_are_never_merged(name, tmp_path):
    body, why = APART[name]
    constants = {"like": np.array([-1, 4]), "zero": np.array([0])}
    path = write(tmp_path / "m.onnx", body, **{key: value for key, value in constants.items() if key in body})
    warm = warm_up(load(path, 1), 16)
    assert warm.ran
    assert not warm.merges
    assert why in warm.why


@pytest.mark.parametrize(
    "body",
    [
        "(float[N, 4] x) => (float[N, 4] y) { y = MatMul(x, w) }",
        "(float[N, H, W, 3] x) => (float[N, H, W, 3] y) { y = Sigmoid(x) }",
        "(float[N, 4] x, int64[M] i) => (float[N, 4] y, int64[M] j) { y = Log(x)  j = Abs(i) }",
        "(string[N, 2] x) => (string[N, 2] y) { y = Identity(x) }",
    ],
)
def test_others_are(body, tmp_path):
    path = write(tmp_path / "m.onnx", body, **({"w": W} if "w)" in body else {}))
    warm = warm_up(load(path, 1), 16)
    assert (warm.ran, warm.merges, warm.why) == (True, True, "")


def test_a_largest_batch_of_one_merges_nothing(tmp_path):
    assert not warm_up(load(write_rows(tmp_path / "m.onnx"), 1), 1).merges


def test_a_model_that_takes_no_guess_is_served_unmerged(tmp_path):
    path = write(
        tmp_path / "m.onnx", "(float[N, M] x) => (float[N, 3] y) { y = MatMul(x, w) }", w=np.zeros((77, 3), np.float32)
    )
    warm = warm_up(load(path, 1), 16)
    assert (warm.ran, warm.merges) == (False, False)
    assert "did not run on made-up inputs" in warm.why
