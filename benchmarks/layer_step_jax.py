"""kbn.BatchNormalization beside Keras' own on the JAX backend, on the device that JAX finds: a training step and inference.

    python benchmarks/layer_step_jax.py [--rounds 10] [--calls 10] [--dtypes float32 bfloat16]

One jitted function is the layer's forward, its new averages and its gradient, as Keras' own trainer makes it. A turn is a
number of calls, which wait for the device at its end. The ratios are Keras' time over kbn's, on data that is centred and on
data with a mean of 50 deviations. TensorFlow is measured by layer_step.py.
"""

import argparse
import os

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np
from alternating import RatioTable, console, quartiles, shown

import kbn

LAYERS = {"Keras": keras.layers.BatchNormalization, "kbn": kbn.BatchNormalization}
SHAPES = [
    (256, 28, 28, 256),
    (256, 7, 7, 1024),
    (65536, 1024),
    (128, 512, 256),
    (16, 16, 28, 28, 64),
    (32, 112, 112, 32),
    (64, 28, 28, 256),
    (64, 7, 7, 1024),
    (32, 512, 256),
    (4, 16, 28, 28, 64),
    (4096, 256),
]


def step(way, shape, dtype, mean, training, calls):
    """A function of no arguments that runs `calls` steps on fixed data, and waits for them."""
    random = np.random.default_rng(0)
    layer = LAYERS[way](dtype="mixed_bfloat16" if dtype == "bfloat16" else dtype)
    layer.build(shape)
    x = jax.numpy.asarray(random.normal(mean, 1, shape), dtype)
    upstream = jax.numpy.asarray(random.normal(0, 1, shape), dtype)
    weights = [variable.value for variable in layer.trainable_variables]
    state = [variable.value for variable in layer.non_trainable_variables]

    def train(x, weights, state):
        def loss(x, weights):
            y, updated = layer.stateless_call(weights, state, x, training=True)
            return (y * upstream).astype("float32").sum(), updated

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(x, weights)

    def infer(x, weights, state):
        return layer.stateless_call(weights, state, x, training=False)[0]

    call = jax.jit(train if training else infer)

    def run():
        for _ in range(calls):
            found = call(x, weights, state)
        jax.block_until_ready(found)

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--calls", type=int, default=10)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    options = parser.parse_args()
    console.print(f"JAX {jax.__version__} on {jax.devices()[0].device_kind}, Keras {keras.__version__}")
    for dtype in options.dtypes:
        columns = [f"{what}, {data}" for what in ("training", "inference") for data in ("centred", "mean 50")]
        table = RatioTable(f"{dtype}: Keras' time over kbn's", columns)
        for shape in SHAPES:
            cells = []
            for training in (True, False):
                for mean in (0, 50):
                    ways = {way: step(way, shape, dtype, mean, training, options.calls) for way in LAYERS}
                    cells.append(quartiles(ways, "Keras", options.rounds)["kbn"])
            table.add(shown(shape), cells)
        table.show()


if __name__ == "__main__":
    main()
