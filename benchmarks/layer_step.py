"""kbn.BatchNormalization beside Keras' own: time of a training step of the layer alone, and the error at a large mean.

    python benchmarks/layer_step.py [--rounds 40]

Inputs are centred, or have a mean of 50 deviations, where kbn makes one more pass over them to subtract a pivot. A step is
forward and backward in one `tf.function` on the CPU, without XLA. The layers take turns in one process, so that whatever else
the machine does falls on both; the ratio is taken within each turn, and its quartiles are given. The error is the largest
|y - truth|, with the truth in float64.
"""

import argparse
import os
import time

from kbn.export.quiet import import_quietly

os.environ["KERAS_BACKEND"] = "tensorflow"
import_quietly("tensorflow")

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

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


def training_step(layer_type, shape, mean):
    """A function of no arguments that runs one step on fixed data."""
    layer = layer_type()
    layer.build(shape)
    random = np.random.default_rng(0)
    x, upstream = (tf.constant(random.normal(mean, 1, shape), tf.float32) for mean in (mean, 0))

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return tape.gradient(y, [x, layer.gamma, layer.beta], output_gradients=upstream)

    return lambda: [gradient.numpy() for gradient in step(x)[1:]]


def time_ratios(shape, mean, rounds):
    """Keras' time over kbn's, one ratio per round."""
    steps = {name: training_step(layer_type, shape, mean) for name, layer_type in LAYERS.items()}
    for step in steps.values():
        for _ in range(3):
            step()
    ratios = []
    for _ in range(rounds):
        spent = {}
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            spent[name] = time.perf_counter() - start
        ratios.append(spent["Keras"] / spent["kbn"])
    return ratios


def error_at_large_mean(layer_type, shape):
    x = np.random.default_rng(1).normal(1e4, 1, shape).astype("float32")
    exact = x.astype("float64")
    truth = (exact - exact.mean((0, 1, 2))) / np.sqrt(exact.var((0, 1, 2)) + 1e-3)
    return np.abs(layer_type()(x, training=True).numpy() - truth).max()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    table = Table(title="Training step of the layer alone: Keras' time over kbn's", title_justify="left", box=None)
    for head in ("shape", "centred", "quartiles", "mean 50", "quartiles"):
        table.add_column(head, justify="right" if head != "shape" else "left")
    medians = []
    for shape in SHAPES:
        cells = []
        for mean in (0, 50):
            low, median, high = np.percentile(time_ratios(shape, mean, rounds), (25, 50, 75))
            cells += [f"{median:.2f}", f"{low:.2f} to {high:.2f}"]
            medians.append(median)
        table.add_row(" x ".join(map(str, shape)), *cells)
    centred, far = (np.exp(np.mean(np.log(medians[start::2]))) for start in (0, 1))
    table.add_row("geometric mean", f"{centred:.2f}", "", f"{far:.2f}", "")
    console = Console(width=110)
    console.print(table)
    console.print("\nLargest error at mean 1e4, deviation 1:")
    for shape in ((16, 12, 12, 8), (32, 28, 28, 64)):
        errors = {name: error_at_large_mean(layer_type, shape) for name, layer_type in LAYERS.items()}
        shown = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
        console.print(
            f"  {' x '.join(map(str, shape))}: {shown}; Keras' is {errors['Keras'] / errors['kbn']:.0f} times as large"
        )


if __name__ == "__main__":
    main()
