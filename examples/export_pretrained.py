"""Take a model of keras.applications, which holds Keras' own BatchNormalization, through `kbn export`.

    python examples/export_pretrained.py [NAME] [FOLDER]

The weights are random, as nothing is downloaded, and so are the statistics: a fresh normalization (mean 0, variance 1) would
hide a wrong fold. Put `weights="imagenet"` in their place for the trained model.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from kbn.export.quiet import import_quietly

os.environ["KERAS_BACKEND"] = "tensorflow"  # which tf2onnx converts from
import_quietly("tensorflow")

import keras
import numpy as np
from keras.layers import BatchNormalization


def with_random_statistics(model: keras.Model, seed: int = 0) -> keras.Model:
    """Gives every normalization of the model the statistics of a layer that has seen data."""
    random = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, BatchNormalization):
            shape = layer.moving_mean.shape
            layer.moving_mean.assign(random.normal(0, 0.3, shape))
            layer.moving_variance.assign(random.uniform(0.3, 2.0, shape))
            if layer.scale:
                layer.gamma.assign(random.uniform(0.5, 1.5, shape))
            if layer.center:
                layer.beta.assign(random.normal(0, 0.3, shape))
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", default="MobileNetV2", help="a function of keras.applications")
    parser.add_argument("folder", nargs="?", default="demo", type=Path)
    parser.add_argument("--size", type=int, default=224, help="height and width of the input")
    arguments = parser.parse_args()
    build = getattr(keras.applications, arguments.name, None)
    if not callable(build):
        parser.error(f"keras.applications has no {arguments.name!r}")
    model = with_random_statistics(build(weights=None, input_shape=(arguments.size, arguments.size, 3)))
    arguments.folder.mkdir(parents=True, exist_ok=True)
    source = arguments.folder / f"{arguments.name}.keras"
    model.save(source)
    command = str(Path(sys.executable).with_name("kbn"))
    subprocess.run([command, "export", str(source), str(source.with_suffix(".onnx")), "--force"], check=True)


if __name__ == "__main__":
    main()
