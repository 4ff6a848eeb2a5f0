"""A training step of ResNet-20 (He et al., 2016, section 4.2), 32 x 32, batch 128, with kbn's BN, Keras', and none.

    python benchmarks/resnet20.py [--rounds 20] [--xla]

The three models take turns in one process. None, as BN's share of the step is what the layer can save.
"""

import argparse
import os

from kbn.export.quiet import import_quietly

os.environ["KERAS_BACKEND"] = "tensorflow"
import_quietly("tensorflow")

import keras
import numpy as np
from alternating import RatioTable, quartiles
from keras import layers
from networks import resnet20

import kbn

NORMALIZATIONS = {"Keras": layers.BatchNormalization, "kbn": kbn.BatchNormalization, "no BN": None}


def step(normalization, xla):
    model = resnet20(normalization)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-4), loss, jit_compile=xla)
    random = np.random.default_rng(0)
    x, y = random.normal(size=(128, 32, 32, 3)).astype("float32"), random.integers(0, 10, 128)
    return lambda: model.train_on_batch(x, y)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--xla", action="store_true")
    options = parser.parse_args()
    steps = {name: step(normalization, options.xla) for name, normalization in NORMALIZATIONS.items()}
    found = quartiles(steps, "Keras", options.rounds)
    table = RatioTable("Training step of ResNet-20: the time with Keras' BN over that with", ["kbn's", "none"])
    table.add("batch 128", [found["kbn"], found["no BN"]])
    table.show()


if __name__ == "__main__":
    main()
