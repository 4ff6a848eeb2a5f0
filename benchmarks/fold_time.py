"""How long folding takes and how much memory it needs, for models of keras.applications with random weights. Linux only.

    python benchmarks/fold_time.py [ResNet50 MobileNetV2 ...] [--rounds 5]

Each model is folded in a process of its own, the model already in memory. The time is of `kbn.export.fold`: reading, planning,
building the folded model. `keras.models.clone_model`, which builds the same layers and folds nothing, takes turns with it. The
memory is what the first fold needs above what was resident, the folded model included, in multiples of the model's weights.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from alternating import console
from layer_memory import resident
from rich.table import Table

MODELS = ["ResNet50", "MobileNetV2", "EfficientNetB0", "DenseNet121", "InceptionV3", "NASNetMobile"]


def measure(name, rounds):
    """Median seconds of a fold, of a clone, the quartiles of the fold, and the peak over the size of the weights."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    from kbn.export.quiet import import_quietly

    import_quietly("tensorflow")
    import keras

    from kbn.export import fold

    fold(keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(3, 3), keras.layers.BatchNormalization()]))
    model = getattr(keras.applications, name)(weights=None)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_variance.assign(np.random.default_rng(0).uniform(0.5, 2.0, layer.moving_variance.shape))
    size = sum(int(np.prod(weight.shape)) * 4 for weight in model.weights)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark is what is resident now
    before = resident("VmHWM")
    folded, _ = fold(model)
    peak = resident("VmHWM") - before
    del folded
    spent = {fold: [], keras.models.clone_model: []}
    for _ in range(rounds):
        for step, times in spent.items():
            start = time.perf_counter()
            step(model)
            times.append(time.perf_counter() - start)
    folds, clones = (np.percentile(times, (25, 50, 75)) for times in spent.values())
    return [*folds, clones[1], peak / size, size / 2**20]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(*measure(options.one, options.rounds))
        return
    table = Table("model", "fold, seconds", "clone_model", "peak / weights", "weights, MiB", box=None)
    for name in options.models:
        command = [sys.executable, __file__, "--one", name, "--rounds", str(options.rounds)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        low, median, high, clone, peak, size = map(float, done.stdout.split("\n")[-2].split())
        cells = f"{median:.2f} ({low:.2f} to {high:.2f})", f"{clone:.2f}", f"{peak:.1f}", f"{size:.0f}"
        table.add_row(name, *cells)
    console.print(table)


if __name__ == "__main__":
    main()
