"""kbn.BatchNormalization beside Keras' own: time of a training step of the layer alone, and the error at a large mean.

    python benchmarks/layer_step.py [--rounds 40]

A step is forward and backward in one `tf.function` on the CPU, without XLA. The layers take turns in one process, so that
whatever else the machine does falls on both; the ratio is taken within each turn, and its quartiles are given. The error is
the largest |y - truth| over inputs of mean 1e4 and deviation 1, with the truth in float64.
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


def training_step(layer_type, shape):
    """A function of no arguments that runs one step on fixed data."""
    layer = layer_type()
    layer.build(shape)
    random = np.random.default_rng(0)
    x, upstream = (tf.constant(random.normal(2, 3, shape), tf.float32) for _ in range(2))

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return tape.gradient(y, [x, layer.gamma, layer.beta], output_gradients=upstream)

    return lambda: [gradient.numpy() for gradient in step(x)[1:]]


def time_ratios(shape, rounds):
    """Keras' time over kbn's, one ratio per round."""
    steps = {name: training_step(layer_type, shape) for name, layer_type in LAYERS.items()}
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


def error_at_large_mean(layer_type):
    x = np.random.default_rng(1).normal(1e4, 1, (64, 16, 16, 8)).astype("float32")
    exact = x.astype("float64")
    truth = (exact - exact.mean((0, 1, 2))) / np.sqrt(exact.var((0, 1, 2)) + 1e-3)
    return np.abs(layer_type()(x, training=True).numpy() - truth).max()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    table = Table(title="Training step of the layer alone: Keras' time over kbn's", title_justify="left", box=None)
    for head in ("shape", "quartile", "median", "quartile"):
        table.add_column(head, justify="right" if head != "shape" else "left")
    medians = []
    for shape in SHAPES:
        quartiles = np.percentile(time_ratios(shape, rounds), (25, 50, 75))
        medians.append(quartiles[1])
        table.add_row(" x ".join(map(str, shape)), *(f"{value:.2f}" for value in quartiles))
    table.add_row("geometric mean", "", f"{np.exp(np.mean(np.log(medians))):.2f}", "")
    errors = {name: error_at_large_mean(layer_type) for name, layer_type in LAYERS.items()}
    console = Console()
    console.print(table)
    shown = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
    console.print(
        f"\nError at mean 1e4, deviation 1: {shown}; Keras' is {errors['Keras'] / errors['kbn']:.0f} times as large."
    )


if __name__ == "__main__":
    main()
