"""kbn.BatchNormalization beside Keras' own and TensorFlow's bare kernel: time and error of the layer alone.

    python benchmarks/layer_step.py [--rounds 40] [--xla] [--small] [--only training|inference|errors]

A training step is forward and backward in one `tf.function`, without XLA unless asked for, on data that is centred, or
has a mean of 50 deviations, where kbn makes one more pass over it to subtract a pivot. The bare kernel is
`FusedBatchNormV3`, without pivot, moving averages or guards. The ratios are Keras' time over that of the other. The error
is the largest |y - truth| at mean 1e4, deviation 1, with the truth in float64.
"""

import argparse
import os

from kbn.export.quiet import import_quietly

os.environ["KERAS_BACKEND"] = "tensorflow"
import_quietly("tensorflow")

import keras
import numpy as np
import tensorflow as tf
from alternating import RatioTable, console, quartiles, shown

import kbn

LAYERS = {"kbn": kbn.BatchNormalization, "Keras": keras.layers.BatchNormalization}
SHAPES = [
    (32, 56, 56, 64),
    (32, 28, 28, 256),
    (32, 7, 7, 1024),
    (8, 112, 112, 32),
    (4096, 256),
    (32, 512, 64),
    (4, 16, 28, 28, 32),
]
# Where the number of operations tells more than the passes over the data.
SMALL_SHAPES = [(32, 64), (128, 256), (32, 8, 8, 32), (512, 256)]
# Channel axis, shape, dtype.
TO_INFER = [
    *((-1, shape, "float32") for shape in SHAPES),
    (1, (32, 256, 28, 28), "float32"),
    (1, (8, 32, 112, 112), "float32"),
    (-1, (32, 28, 28, 64), "bfloat16"),
    (-1, (32, 28, 28, 64), "float64"),
    (-1, (128, 64), "float32"),
]


def data(shape, mean, dtype="float32"):
    return tf.constant(np.random.default_rng(0).normal(mean, 1, shape), dtype)


def bare_kernel(x, gamma, beta):
    packed = x if x.shape.rank == 4 else tf.reshape(x, [x.shape[0], -1, 1, x.shape[-1]])
    y, *_ = tf.raw_ops.FusedBatchNormV3(
        x=packed, scale=gamma, offset=beta, mean=[], variance=[], epsilon=1e-3, is_training=True
    )
    return tf.reshape(y, x.shape)


def training_step(way, shape, mean, xla):
    """A function of no arguments that runs one step on fixed data."""
    x, upstream = data(shape, mean), data(shape, 0)
    if way in LAYERS:
        layer = LAYERS[way]()
        layer.build(shape)
        gamma, beta = layer.gamma.value, layer.beta.value
    else:
        gamma, beta = tf.Variable(tf.ones(shape[-1:])), tf.Variable(tf.zeros(shape[-1:]))

    @tf.function(jit_compile=xla)
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True) if way in LAYERS else bare_kernel(x, gamma, beta)
        return tape.gradient(y, [x, gamma, beta], output_gradients=upstream)

    return lambda: [gradient.numpy() for gradient in step(x)[1:]]


def inference(way, axis, shape, dtype, mean, xla):
    layer = LAYERS[way](axis=axis, dtype=dtype)
    layer.build(shape)
    layer.moving_mean.assign(tf.fill(layer.moving_mean.shape, float(mean)))
    x = data(shape, mean, dtype)
    call = tf.function(lambda x: layer(x, training=False), jit_compile=xla)
    return lambda: call(x)


def show_training(shapes, rounds, xla):
    ways = ["Keras", "kbn", "bare kernel"]
    table = RatioTable(
        "Training step: Keras' time over that of",
        ["kbn, centred", "bare kernel, centred", "kbn, mean 50", "bare kernel, mean 50"],
    )
    for shape in shapes:
        cells = []
        for mean in (0, 50):
            found = quartiles({way: training_step(way, shape, mean, xla) for way in ways}, "Keras", rounds)
            cells += [found["kbn"], found["bare kernel"]]
        table.add(shown(shape), cells)
    table.show()


def show_inference(rounds, xla):
    table = RatioTable("Inference: Keras' time over kbn's", ["centred", "mean 50"])
    for axis, shape, dtype in TO_INFER:
        cells = [
            quartiles({way: inference(way, axis, shape, dtype, mean, xla) for way in LAYERS}, "Keras", rounds)["kbn"]
            for mean in (0, 50)
        ]
        table.add(f"{shown(shape)}, axis {axis}, {dtype}", cells)
    table.show()


def show_errors():
    console.print("Largest error at mean 1e4, deviation 1")
    for shape in SHAPES:
        x = np.random.default_rng(1).normal(1e4, 1, shape).astype("float32")
        axes = tuple(range(len(shape) - 1))
        truth = x - x.mean(axes, dtype="float64")
        truth /= np.sqrt((truth**2).mean(axes) + 1e-3)
        errors = {name: np.abs(layer()(x, training=True) - truth).max() for name, layer in LAYERS.items()}
        each = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
        console.print(f"  {shown(shape)}: {each}; Keras' is {errors['Keras'] / errors['kbn']:.0f} times as large")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--xla", action="store_true")
    parser.add_argument("--small", action="store_true", help="training on small data in place of large")
    parser.add_argument("--only", choices=["training", "inference", "errors"])
    options = parser.parse_args()
    if options.only in (None, "training"):
        show_training(SMALL_SHAPES if options.small else SHAPES, options.rounds, options.xla)
    if options.only in (None, "inference"):
        show_inference(options.rounds, options.xla)
    if options.only in (None, "errors"):
        show_errors()


if __name__ == "__main__":
    main()
