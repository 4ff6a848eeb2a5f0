"""Watch the same network train with batch normalization and without: how far the distributions inside shift.

    python examples/watch_training.py [FOLDER] [--epochs 8]

A CNN of six layers on scikit-learn's digits. Written to FOLDER, shift/ where none is given: a page for each, the drift of each
layer's input against its depth, both in one picture, and a heat map of it.
"""

import argparse
import os
from pathlib import Path

from kbn.export.quiet import import_quietly

os.environ["KERAS_BACKEND"] = "tensorflow"
import_quietly("tensorflow")

import keras
from keras import layers
from sklearn.datasets import load_digits

import kbn


def digits_model(normalized):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8, 8, 1))
    for number, filters in enumerate((16, 16, 32, 32, 32, 32), 1):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=not normalized, name=f"conv_{number}")(x)
        if normalized:
            x = kbn.BatchNormalization(name=f"norm_{number}")(x)
        x = layers.ReLU(name=f"relu_{number}")(x)
    model = keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("shift"))
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    x, y = load_digits(return_X_y=True)
    x = (x.reshape(-1, 8, 8, 1) / 16).astype("float32")
    monitors = {}
    for name, normalized in (("with", True), ("without", False)):
        # The training is short, so samples are taken at fixed steps; for a long one the default sampling does.
        monitor = kbn.diagnostics.ShiftMonitor(x[:256], batch_size=64, every=15)
        digits_model(normalized).fit(x, y, batch_size=64, epochs=options.epochs, verbose=0, callbacks=[monitor])
        monitor.report(options.folder / f"{name}.html")
        monitors[name] = monitor
    others = {"without batch normalization": monitors["without"]}
    monitors["with"].plot("depth", options.folder / "depth.png", others=others)
    monitors["with"].plot("drift", options.folder / "drift.png")
    print(f"{options.folder}: depth.png, drift.png, with.html, without.html")


if __name__ == "__main__":
    main()
