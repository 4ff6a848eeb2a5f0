"""Which way is taken when, and that each gives the same numbers."""

import numpy as np
import pytest
import tensorflow as tf

import kbn
from kbn import normalize
from kbn.on_tensorflow import engine, fused, layout, reductions

WAYS = {"train": (fused, reductions, normalize), "infer": (fused, normalize)}

pytestmark = pytest.mark.skipif(layout.has_gpu(), reason="with a GPU the kernel does it all")


def ways_taken(monkeypatch, layer, x, training, jit=False):
    """The modules that a call goes through."""
    taken = []

    def recording(module, name, original):
        def call(*args, **options):
            taken.append(module.__name__.rpartition(".")[2])
            return original(*args, **options)

        return call

    for name, modules in WAYS.items():
        for module in modules:
            monkeypatch.setattr(module, name, recording(module, name, getattr(module, name)))
    affine = engine.affine
    monkeypatch.setattr(engine, "affine", lambda *args: taken.append("affine") or affine(*args))
    tf.function(lambda x: layer(x, training=training), jit_compile=jit).get_concrete_function(x)
    return taken[:1]


SMALL, LARGE, LARGE_FIRST = (8, 6, 3), (32, 24, 24, 16), (64, 4, 32, 32)


@pytest.mark.parametrize(
    ("shape", "axis", "dtype", "jit", "to_train", "to_infer"),
    [
        (SMALL, -1, "float32", False, "fused", "normalize"),
        (SMALL, 1, "float32", False, "fused", "normalize"),
        (LARGE, -1, "float32", False, "reductions", "fused"),
        (LARGE, -1, "float32", True, "reductions", "normalize"),
        (SMALL, -1, "bfloat16", True, "reductions", "normalize"),
        (LARGE_FIRST, 1, "float32", False, "reductions", "affine"),
        ((40000, 16), -1, "float32", False, "reductions", "fused"),
        ((40000, 4), -1, "float32", False, "reductions", "affine"),
        ((8, 16, 8, 32, 16), -1, "float32", False, "reductions", "fused"),
        (LARGE, -1, "float16", False, "fused", "fused"),
        (LARGE_FIRST, 1, "bfloat16", False, "fused", "fused"),
        (LARGE, -1, "float64", False, "normalize", "affine"),
    ],
)
def test_which_way(shape, axis, dtype, jit, to_train, to_infer, monkeypatch):
    monkeypatch.setattr(engine.onednn, "enabled", lambda: False)
    for training, expected in ((True, to_train), (False, to_infer)):
        layer = kbn.BatchNormalization(axis=axis, dtype=dtype)
        layer.build(shape)
        with monkeypatch.context() as patch:
            assert ways_taken(patch, layer, tf.TensorSpec(shape, dtype), training, jit) == [expected]


def test_with_onednn_on_its_kernel_is_not_taken_for_inference(monkeypatch):
    monkeypatch.setattr(engine.onednn, "enabled", lambda: True)
    layer = kbn.BatchNormalization()
    layer.build(LARGE)
    assert ways_taken(monkeypatch, layer, tf.TensorSpec(LARGE), False) == ["affine"]


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
def test_what_trains(x, expected):
    assert engine.trains(x) is expected


@pytest.mark.parametrize("offset", [0.0, 3.0, 500.0, 1e4])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("scale", "center"), [(True, True), (False, True), (True, False), (False, False)])
@pytest.mark.parametrize(("shape", "axis"), [((64, 5, 40, 40), 1), ((512, 300, 5), -1)])
def test_affine_is_exact_however_large_the_mean(shape, axis, scale, center, dtype, offset, rng):
    x = rng.normal(offset, 2.0, shape).astype(dtype)
    mean, variance = rng.normal(offset, 1.0, 5).astype("float32"), rng.uniform(0.5, 4.0, 5).astype("float32")
    gamma = rng.normal(size=5).astype("float32") if scale else None
    beta = rng.normal(size=5).astype("float32") if center else None
    found = engine.affine(tf.constant(x), mean, variance, gamma, beta, 1e-3, axis)
    assert found.dtype == dtype
    others = [other for other in range(len(shape)) if other != axis % len(shape)]
    m, v, g, b = (
        np.expand_dims(part.astype("float64"), others)
        for part in (mean, variance, np.ones(5) if gamma is None else gamma, np.zeros(5) if beta is None else beta)
    )
    expected = (x.astype("float64") - m) / np.sqrt(v + 1e-3) * g + b
    assert np.max(np.abs(found - expected)) < (1e-12 if dtype == "float64" else 6e-6)
