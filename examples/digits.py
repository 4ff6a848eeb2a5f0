"""What the examples with pictures share: the data, its batches, the accuracy, and the look of the pictures.

Real data, nothing downloaded: the 1797 handwritten digits of 8 x 8 pixels that come with scikit-learn, a quarter of them
for the test. Keras is imported here, quietly and with TensorFlow below it, so import this module first.
"""

import argparse
import os
import time
from pathlib import Path

from kbn.export.quiet import import_quietly

os.environ["KERAS_BACKEND"] = "tensorflow"
import_quietly("tensorflow")

import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

INK, GRID = "#24292f", "#e4e7eb"
# Two networks in one picture differ in colour, in line and in grey.
NORMALIZED = {"color": "#1f6feb", "linestyle": "-"}
PLAIN = {"color": "#24292f", "linestyle": "--"}
SHADES = "Blues"  # white is the least, and the darker the more: it reads in grey


def load():
    """(1347, 64) and (450, 64) pixels from 0 to 1, and their classes."""
    x, y = load_digits(return_X_y=True)
    return train_test_split((x / 16).astype("float32"), y, test_size=0.25, stratify=y, random_state=0)


def batches(x, y, size, seed):
    """Batches without end, each epoch in an order of its own."""
    data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=seed).repeat()
    return data.batch(size, drop_remainder=True).prefetch(2)


def accuracy(model, x, y, training=False):
    """Percent of `x` that the model classifies rightly, all in one batch."""
    return 100 * float(np.mean(keras.ops.convert_to_numpy(model(x, training=training)).argmax(1) == y))


def begin_anew(model, fresh, seed, scale=1.0):
    """The weights of a new network, so that one that is compiled serves for all; `fresh` are those that it was made with.

    Kernels, the matrices among them, are Gaussian with `scale` times He's deviation, sqrt(2 / inputs). The others, those of
    batch normalization too, begin as they did.
    """
    random = np.random.default_rng(seed)
    model.set_weights([scale * random.normal(0, np.sqrt(2 / w.shape[0]), w.shape) if w.ndim == 2 else w for w in fresh])


def options(description, picture, seeds):
    """The arguments that all of these scripts take, to add to and to parse."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("pictures"), help=f"where {picture} goes")
    parser.add_argument("--seeds", type=int, default=seeds, help=f"trainings of each kind, {seeds} unless told")
    return parser


def figure(width, height):
    """An empty figure of so many inches, with letters of 9 points."""
    return Figure((width, height), dpi=150, layout="constrained")


def dress(axes, title, x, y):
    """Titles, labels and a light grid, without the box."""
    axes.set_title(title, fontsize=10, loc="left", fontweight="bold", color=INK)
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8.5)


def plain_numbers(axis):
    """Ticks of a logarithmic axis at 1, 2 and 5 of each power of ten, as they are spoken: 0.05, 0.1, 0.2."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def band(axes, x, rows, label, style, **more):
    """The mean over seeds as a line, and from the least to the most as a shade; `rows` is (seeds, points)."""
    axes.plot(x, np.mean(rows, 0), label=label, **style, **more)
    axes.fill_between(x, np.min(rows, 0), np.max(rows, 0), color=style["color"], alpha=0.15, linewidth=0)


def spread(values):
    """Mean, least and most: '97.1 (96.4 to 97.8)'."""
    return f"{np.mean(values):.1f} ({np.min(values):.1f} to {np.max(values):.1f})"


def save(drawn, folder, name, started):
    """Writes the picture, and says where it is and how long all took."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn.savefig(folder / name, pil_kwargs={"optimize": True})
    print(f"\n{folder / name}, after {time.monotonic() - started:.0f} s")
