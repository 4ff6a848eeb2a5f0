"""One battery for every Keras backend: run in a process of its own, it saves the numbers that the tests compare.

KERAS_BACKEND=jax python tests/helpers/backend_battery.py given.npz found.npz
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import kbn
from kbn import statistics

# name: the layer's arguments, what of the data it is called with
CASES = {
    "plain": ({}, "x"),
    "first": ({"axis": 1}, "x"),
    "far": ({}, "far"),
    "masked": ({}, "masked"),
    "weighted": ({}, "weighted"),
    "renorm": ({"renorm": True, "renorm_clipping": {"rmax": 2.0, "rmin": 0.5, "dmax": 1.0}}, "x"),
    "ghost": ({"virtual_batch_size": 5}, "x"),
    "ghost_masked": ({"virtual_batch_size": 5}, "masked"),
    "unbiased": ({"unbiased": True}, "x"),
    "debias": ({"debias": True, "momentum": 0.9}, "x"),
    "cumulative": ({"momentum": None}, "x"),
    "frozen": ({"freeze": "statistics"}, "x"),
    "bare": ({"scale": False, "center": False, "pivot": False}, "x"),
}


def gradients(layer, x, dy, mask):
    """y and the gradients of sum(y * dy) for x and the trainable weights, as numpy."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        x = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True, mask=mask)
        found = tape.gradient(y, [x, *(weight.value for weight in layer.trainable_weights)], tf.constant(dy))
        return [np.asarray(part) for part in (y, *found)]
    if backend == "torch":
        import torch

        x = torch.tensor(x, requires_grad=True)
        y = layer(x, training=True, mask=mask)
        y.backward(torch.tensor(dy))
        found = [x.grad, *(weight.value.grad for weight in layer.trainable_weights)]
        return [part.detach().numpy() for part in (y, *found)]
    import jax

    def forward(x, trainable):
        y, state = layer.stateless_call(
            trainable, [variable.value for variable in layer.non_trainable_variables], x, training=True, mask=mask
        )
        return y, state

    trainable = [variable.value for variable in layer.trainable_variables]
    # Under jit, so that a value which only a trace can hold would show.
    y, pull, state = jax.vjp(jax.jit(forward), jax.numpy.asarray(x), trainable, has_aux=True)
    for variable, value in zip(layer.non_trainable_variables, state, strict=True):
        variable.assign(value)
    dx, rest = pull(jax.numpy.asarray(dy))
    return [np.asarray(part) for part in (y, dx, *rest)]


def run_case(arguments, kind, given):
    x = given["far" if kind == "far" else "x"].copy()
    mask = None
    if kind == "masked":
        mask = given["mask"]
        x[~mask] = np.nan
    elif kind == "weighted":
        mask = given["weights"]
    layer = kbn.BatchNormalization(**{"momentum": 0.7, **arguments})
    layer.build(x.shape)
    for weight in layer.weights:
        if weight.name in ("gamma", "beta", "moving_mean", "moving_variance"):
            weight.assign(given[weight.name][: weight.shape[0]])
    results = gradients(layer, x, given["dy"] if mask is None else np.where(mask[..., None] > 0, given["dy"], 0), mask)
    layer(x, training=True, mask=mask)
    inferred = layer(x, training=False, mask=mask)
    state = {weight.name: keras.ops.convert_to_numpy(weight) for weight in layer.weights}
    return results, keras.ops.convert_to_numpy(inferred), state


class ChangeMomentum(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.model.layers[0].momentum = [0.5, 0.0][epoch]


def fit(given):
    """Two epochs of one batch each: one that is not finite, at which nothing moves, and one with another momentum."""
    layer = kbn.BatchNormalization(name="bn")
    model = keras.Sequential([keras.Input(given["x"].shape[1:]), layer, keras.layers.Flatten(), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    target = np.zeros((len(given["x"]), 1), "float32")
    spoiled = given["x"].copy()
    spoiled[0, 0, 0] = np.nan
    model.fit(spoiled, target, batch_size=64, epochs=1, verbose=0)
    mean_then, skipped_then = keras.ops.convert_to_numpy(layer.moving_mean), layer.skipped_batches
    for weight in model.trainable_weights:
        weight.assign(np.zeros(weight.shape))
    model.fit(given["x"], target, batch_size=64, epochs=2, verbose=0, callbacks=[ChangeMomentum()])
    return {
        "fit_mean_then": mean_then,
        "fit_skipped": np.array([skipped_then, layer.skipped_batches]),
        "fit_mean": keras.ops.convert_to_numpy(layer.moving_mean),
        "fit_weights": np.array(len(layer.weights)),
        "fit_momentum": np.array(layer.momentum),
    }


def convert(given):
    """The outputs of a model before and after its converted copy was trained."""
    model = keras.Sequential([keras.Input(given["x"].shape[1:]), kbn.BatchNormalization(), keras.layers.Dense(1)])
    before = keras.ops.convert_to_numpy(model(given["x"]))
    copy = kbn.convert_model(model, to="keras")
    copy.compile("sgd", "mse")
    copy.fit(given["x"], np.zeros((*given["x"].shape[:2], 1), "float32"), verbose=0)
    return {"original_before": before, "original_after": keras.ops.convert_to_numpy(model(given["x"]))}


def double(given):
    """A training step of layers in float64, which JAX must be told to have."""
    if keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)
    x, found = given["far"].astype("float64"), {}
    for name, arguments in {
        "double": {},
        "double_debiased": {"debias": True},
        "double_renorm": {"renorm": True},
    }.items():
        layer = kbn.BatchNormalization(dtype="float64", momentum=0.0, **arguments)
        layer(x, training=True)
        found[f"{name}_mean"], found[f"{name}_variance"] = map(
            keras.ops.convert_to_numpy, (layer.moving_mean, layer.moving_variance)
        )
        found[f"{name}_inferred"] = keras.ops.convert_to_numpy(layer(x, training=False))
    clipped = statistics.clip(keras.ops.convert_to_tensor(np.array([0.0, 1.0, 2.0, np.nan])), 0.1, 1.1)
    found["double_clipped"] = keras.ops.convert_to_numpy(clipped)
    return found


def main():
    given = dict(np.load(sys.argv[1]))
    keras.utils.set_random_seed(0)
    found = fit(given)
    converted = convert(given)
    found["original_moved"] = np.max(np.abs(converted["original_after"] - converted["original_before"]))
    for name, (arguments, kind) in CASES.items():
        results, inferred, state = run_case(arguments, kind, given)
        found |= {f"{name}_{index}": part for index, part in enumerate(results)}
        found |= {f"{name}_inferred": inferred} | {f"{name}_{weight}": value for weight, value in state.items()}
    np.savez(sys.argv[2], **found, **double(given))  # last, as it changes what JAX does


if __name__ == "__main__":
    main()
