"""The error of a right file beside that of its own model: the ratio for which the check's factor of 4 must leave room.

    python benchmarks/error_ratio.py [--networks 40] [--seeds 5] [MODEL.keras ...]

Each random network (those of mutants.py) and each model file is exported and checked with so many seeds. Each output and kind
of inputs gives one ratio E_file / E_model, and one use: E_file over what is allowed.
"""

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
from alternating import console
from mutants import network
from rich.table import Table

from kbn.export.quiet import import_quietly

os.environ["KERAS_BACKEND"] = "tensorflow"
import_quietly("tensorflow", "tf2onnx")

from kbn.export import check, export
from kbn.export.archive import load_model

PERCENTS = (1, 50, 95, 99, 100)


def cases(model, seeds):
    """What the check measured on each output, kind of inputs and seed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        export(model, path)
        for seed in range(seeds):
            for output in check(model, path, seed=seed).outputs:
                yield from (errors for errors in output.cases.values() if not errors.proves_nothing)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--networks", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    found = [errors for seed in range(options.networks) for errors in cases(network(seed), options.seeds)]
    for path in options.models:
        found += cases(load_model(path), options.seeds)
    ratios = np.array([errors.file_error / errors.model_error for errors in found if errors.model_error])
    uses = np.array([errors.use for errors in found])
    table = Table(f"percentiles of {len(found)} cases", *map(str, PERCENTS), box=None)
    for name, values in (("E_file / E_model", ratios), ("E_file / allowed", uses)):
        table.add_row(name, *(f"{value:.2f}" for value in np.percentile(values, PERCENTS)))
    console.print(table)
    console.print(f"E_model is 0 in {len(found) - len(ratios)} cases; the ratio is above 4 in {(ratios > 4).sum()}.")


if __name__ == "__main__":
    main()
