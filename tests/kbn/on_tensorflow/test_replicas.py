"""Statistics over the replicas of a strategy, each against one batch on one device."""

import socket
import subprocess
import sys
from itertools import product

import numpy as np
import pytest

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
        theirs = keras.layers.BatchNormalization(synchronized=True, momentum=0.0)
        theirs.build((None, *x.shape[1:]))
    layer.gamma.assign(case["gamma"])
    layer.beta.assign(case["beta"])
    parts = [slice(0, split), slice(split, None)]

    def distribute(array):
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(array[parts[context.replica_id_in_sync_group]])
        )

    def keras_forward(x, mask):
        return theirs(x, training=True, mask=mask if use_mask else None)

    tf.function(lambda x, mask: strategy.run(keras_forward, (x, mask)))(distribute(x), distribute(mask))

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
        "keras_means": [value.numpy() for value in theirs.moving_mean.value.values],
        "keras_variances": [value.numpy() for value in theirs.moving_variance.value.values],
    }


for path in Path(sys.argv[1]).glob("given*.npz"):
    np.savez(path.with_name(path.name.replace("given", "found")), **run(np.load(path)))
"""


def test_replicas_share_their_statistics(tmp_path, run_python, rng, reference):
    """As one batch on one device: uneven replicas, an empty one, masks, NaN under them, and a mean of 1e4.

    Keras' `E[x^2] - E[x]^2` has no correct digit left there, and with a mask it does not synchronise at all.
    """
    shape = (32, 6, 5)
    expectations, given_of = {}, {}
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
        given_of[number] = given
        np.savez(tmp_path / f"given{number}.npz", **given)
    run_python(SYNCHRONISED, str(tmp_path))
    for number, (expected, whole) in expectations.items():
        found = np.load(tmp_path / f"found{number}.npz")
        assert found["reductions_per_replica"] == 1
        if not given_of[number]["use_mask"] and expected.mean[0] > 1e3:
            # Keras: E[x^2] - E[x]^2 in float32.
            assert np.max(np.abs(found["keras_variances"] / expected.variance - 1)) > 0.5
        if given_of[number]["use_mask"] and given_of[number]["split"]:
            # Keras drops the synchronisation, and what is masked is NaN.
            assert not np.allclose(*found["keras_means"], equal_nan=True)
        assert np.all(np.isfinite(found["y"]))
        assert np.max(np.abs(np.where(whole, found["y"] - expected.y, 0))) < 1e-5
        for name in ("dx", "dgamma", "dbeta"):
            exact = getattr(expected, name)
            assert np.max(np.abs(found[name] - exact)) < 1e-5 * max(1, np.max(np.abs(exact)))
        for mean, variance in zip(found["means"], found["variances"], strict=True):
            assert np.allclose(mean, expected.mean, rtol=1e-6, atol=1e-6)
            assert np.allclose(variance, expected.variance, rtol=1e-5)


APART = """
import os
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import sys
import numpy as np
import keras
import tensorflow as tf
import kbn

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
given = np.load(sys.argv[1])
found = {}


def copies(variable):
    return np.stack([copy.numpy() for copy in variable.value.values])


for name, layer_type in (("kbn", kbn.BatchNormalization), ("keras", keras.layers.BatchNormalization)):
    with strategy.scope():
        layer = layer_type(momentum=0.0)
        model = keras.Sequential([keras.Input((6, 5)), layer, keras.layers.Flatten(), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    # One batch of 32: examples 0 to 15 go to the first replica.
    model.fit(given["x"], given["target"], batch_size=32, shuffle=False, verbose=0)
    found[f"{name}_mean"], found[f"{name}_variance"] = copies(layer.moving_mean), copies(layer.moving_variance)

with strategy.scope():
    layer = kbn.BatchNormalization(momentum=0.0)
    layer.build((None, 6, 5))
parts = strategy.experimental_distribute_values_from_function(
    lambda context: tf.constant(given["bad"][context.replica_id_in_sync_group])
)
tf.function(lambda x: strategy.run(lambda x: layer(x, training=True), (x,)))(parts)
found["bad_mean"] = copies(layer.moving_mean)
found["skipped"] = copies(layer._unsaved.skipped)


def sometimes(x):
    return tf.cond(tf.reduce_sum(x) > -1e9, lambda: layer(x, training=True), lambda: x)


layer.momentum = 0.0
tf.function(lambda x: strategy.run(sometimes, (x,)))(parts)
found["cond_mean"] = copies(layer.moving_mean)
np.savez(sys.argv[2], **found)
"""


def test_without_synchronisation_the_averages_of_all_replicas_agree_all_the_same(tmp_path, run_python, rng):
    """Keras: those of each replica follow its own batches (keras-team/keras#20568), and one of them is saved."""
    x = rng.normal(3.0, 1.0, (32, 6, 5)).astype("float32")
    x[:16] -= 5
    bad = x.reshape(2, 16, 6, 5).copy()
    bad[0, 3, 2, 1] = np.nan
    np.savez(tmp_path / "given.npz", x=x, target=rng.normal(size=(32, 1)), bad=bad)
    run_python(APART, str(tmp_path / "given.npz"), str(tmp_path / "found.npz"))
    found = np.load(tmp_path / "found.npz")
    halves = x.reshape(2, -1, 5).astype("float64")
    assert np.array_equal(*found["kbn_mean"])
    assert np.allclose(found["kbn_mean"][0], halves.mean((0, 1)), atol=1e-6)
    # What each replica normalised with, as for ghost batches: the distance of the halves is not in it.
    assert np.array_equal(*found["kbn_variance"])
    assert np.allclose(found["kbn_variance"][0], halves.var(1).mean(0), rtol=1e-5)
    assert not np.allclose(*found["keras_mean"], atol=1.0)
    # A replica whose batch is not finite is left out, and spoils nothing.
    assert np.allclose(found["bad_mean"], halves[1].mean(0), atol=1e-6)
    assert np.array_equal(found["skipped"], [0, 0])
    # In control flow, where replicas cannot meet, each follows its own, as in Keras; the first has nothing to follow.
    assert np.allclose(found["cond_mean"], halves[1].mean(0), atol=1e-6)


WORKER = """
import json
import os
import sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
index, ports, given, folder = int(sys.argv[1]), sys.argv[2].split(","), sys.argv[3], sys.argv[4]
workers = [f"127.0.0.1:{port}" for port in ports]
os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}})
import numpy as np
import tensorflow as tf

strategy = tf.distribute.MultiWorkerMirroredStrategy()
import kbn

given = np.load(given)
part = slice(0, 10) if index == 0 else slice(10, None)
x, dy, mask = (tf.constant(given[name][part]) for name in ("x", "dy", "mask"))
found = {}
for synchronized in (True, False):
    with strategy.scope():
        layer = kbn.BatchNormalization(synchronized=synchronized, momentum=0.0)
        layer.build((None, 6, 5))

    @tf.function
    def step(x, dy, mask):
        def replica(x, dy, mask):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x, training=True, mask=mask)
            return y, tape.gradient(y, x, dy)

        return strategy.run(replica, (x, dy, mask))

    y, dx = step(x, dy, mask)
    suffix = "together" if synchronized else "apart"
    found |= {f"y_{suffix}": y, f"dx_{suffix}": dx}
    found |= {f"mean_{suffix}": layer.moving_mean.numpy(), f"variance_{suffix}": layer.moving_variance.numpy()}
np.savez(f"{folder}/worker{index}.npz", **found)
"""


@pytest.mark.slow
def test_two_processes_share_their_statistics(tmp_path, rng, reference):
    """MultiWorkerMirroredStrategy over loopback, uneven, masked, at a mean of 1e4."""
    x = rng.normal(1e4, 1.0, (32, 6, 5))
    x[:10] += 3
    x, dy = x.astype("float32"), rng.normal(size=x.shape).astype("float32")
    mask = rng.random((32, 6)) < 0.6
    whole = np.broadcast_to(mask[..., None], x.shape)
    dy[~whole] = 0
    np.savez(tmp_path / "given.npz", x=np.where(whole, x, np.nan), dy=dy, mask=mask)
    ports = ",".join(str(free_port()) for _ in range(2))
    arguments = [ports, str(tmp_path / "given.npz"), str(tmp_path)]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(index), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for index in range(2)
    ]
    try:
        for worker in workers:
            _, errors = worker.communicate(timeout=240)
            assert worker.returncode == 0, errors[-4000:].decode()
    finally:
        for worker in workers:
            worker.kill()
    found = [np.load(tmp_path / f"worker{index}.npz") for index in range(2)]
    expected = reference(x, dy, np.ones(5), np.zeros(5), mask=whole)
    y, dx = (np.concatenate([part[f"{name}_together"] for part in found]) for name in ("y", "dx"))
    assert np.max(np.abs(np.where(whole, y - expected.y, 0))) < 1e-5
    assert np.max(np.abs(dx - expected.dx)) < 1e-5
    own = [
        reference(x[part], dy[part], np.ones(5), np.zeros(5), mask=whole[part]) for part in (slice(10), slice(10, 32))
    ]
    y = np.concatenate([part["y_apart"] for part in found])
    assert np.max(np.abs(np.where(whole, y - np.concatenate([each.y for each in own]), 0))) < 1e-5
    counts = [mask[:10].sum(), mask[10:].sum()]
    for part in found:
        assert np.allclose(part["mean_together"], expected.mean, rtol=1e-7)
        assert np.allclose(part["variance_together"], expected.variance, rtol=1e-5)
        assert np.allclose(part["mean_apart"], expected.mean, rtol=1e-7)
        assert np.allclose(part["variance_apart"], np.average([e.variance for e in own], 0, counts), rtol=1e-5)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
