"""Statistics over the replicas of a strategy, each against one batch on one device."""

from itertools import product

import numpy as np

SYNCHRONISED = """
import os
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import sys
from pathlib import Path
import numpy as np
import keras
import tensorflow as tf
import kbn

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

reductions = []
all_reduce = tf.distribute.ReplicaContext.all_reduce
tf.distribute.ReplicaContext.all_reduce = lambda *args, **kw: (reductions.append(1), all_reduce(*args, **kw))[1]


def run(case):
    x, dy, mask, split, use_mask = (case[name] for name in ("x", "dy", "mask", "split", "use_mask"))
    with strategy.scope():
        layer = kbn.BatchNormalization(synchronized=True, momentum=0.0)
        layer.build((None, *x.shape[1:]))
    layer.gamma.assign(case["gamma"])
    layer.beta.assign(case["beta"])
    parts = [slice(0, split), slice(split, None)]

    def distribute(array):
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(array[parts[context.replica_id_in_sync_group]])
        )

    def forward(x, mask):
        return layer(x, training=True, mask=mask if use_mask else None)

    @tf.function
    def count(x, mask):
        return strategy.run(forward, (x, mask))

    @tf.function
    def step(x, dy, mask):
        def replica(x, dy, mask):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = forward(x, mask)
            return y, *tape.gradient(y, [x, layer.gamma.value, layer.beta.value], dy)

        return strategy.run(replica, (x, dy, mask))

    reductions.clear()
    count(distribute(x), distribute(mask))
    counted = len(reductions)
    y, dx, dgamma, dbeta = (value.values for value in step(distribute(x), distribute(dy), distribute(mask)))
    return {
        "reductions_per_replica": counted / 2,
        "y": np.concatenate(y),
        "dx": np.concatenate(dx),
        "dgamma": sum(dgamma),
        "dbeta": sum(dbeta),
        "means": [value.numpy() for value in layer.moving_mean.value.values],
        "variances": [value.numpy() for value in layer.moving_variance.value.values],
    }


for path in Path(sys.argv[1]).glob("given*.npz"):
    np.savez(path.with_name(path.name.replace("given", "found")), **run(np.load(path)))
"""


def test_replicas_share_their_statistics(tmp_path, run_python, rng, reference):
    """As one batch on one device: uneven replicas, an empty one, masks, NaN under them, and a mean of 1e4.

    Keras' `E[x^2] - E[x]^2` has no correct digit left there, and with a mask it does not synchronise at all.
    """
    shape = (32, 6, 5)
    expectations = {}
    for number, (offset, split, use_mask) in enumerate(product([0.0, 1e4], [10, 0], [False, True])):
        # Each replica has a mean of its own, so local statistics would show.
        x = rng.normal(offset, 1.0, shape) + np.where(np.arange(32) < 10, 3.0, 0.0)[:, None, None]
        x, dy, mask = x.astype("float32"), rng.normal(size=shape).astype("float32"), rng.random(shape[:2]) < 0.6
        whole = np.broadcast_to(mask[..., None] if use_mask else True, shape)
        dy[~whole] = 0
        gamma, beta = rng.normal(size=(2, 5)).astype("float32")
        expectations[number] = reference(x, dy, gamma, beta, mask=whole), whole
        x[~whole] = np.nan
        given = {"x": x, "dy": dy, "mask": mask, "split": split, "use_mask": use_mask, "gamma": gamma, "beta": beta}
        np.savez(tmp_path / f"given{number}.npz", **given)
    run_python(SYNCHRONISED, str(tmp_path))
    for number, (expected, whole) in expectations.items():
        found = np.load(tmp_path / f"found{number}.npz")
        assert found["reductions_per_replica"] == 1
        assert np.all(np.isfinite(found["y"]))
        assert np.max(np.abs(np.where(whole, found["y"] - expected.y, 0))) < 1e-5
        for name in ("dx", "dgamma", "dbeta"):
            exact = getattr(expected, name)
            assert np.max(np.abs(found[name] - exact)) < 1e-5 * max(1, np.max(np.abs(exact)))
        for mean, variance in zip(found["means"], found["variances"], strict=True):
            assert np.allclose(mean, expected.mean, rtol=1e-6, atol=1e-6)
            assert np.allclose(variance, expected.variance, rtol=1e-5)
