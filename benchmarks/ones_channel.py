"""What a ones channel costs in onnxruntime on the CPU, against the BatchNormalization nodes that it does without.

    python benchmarks/ones_channel.py [--rounds 20]

Stacks of padded convolutions with ReLU inside, a batch normalization behind each: MesoNet's sizes, with max pooling, and
DeepSalience's.
Each is exported both ways and run in turns; given is how many times as long the file with ones channels takes.
"""

import argparse
import os

from kbn.export.quiet import import_quietly

os.environ["KERAS_BACKEND"] = "tensorflow"
import_quietly("tensorflow")

import keras
import numpy as np
import onnxruntime
from alternating import console, quartiles
from keras import layers

import kbn.export
from kbn.export.onnx_conversion import convert

MODELS = {
    "8, 8, 16, 16 channels, 256 x 256, pooled": ((256, 256, 3), [(8, 3), (8, 5), (16, 5), (16, 5)], True),
    "128, 64, 64, 64 channels, 96 x 64": ((96, 64, 6), [(128, 5), (64, 5), (64, 3), (64, 3), (8, 3)], False),
}


def stack(shape, convolutions, pooled):
    random = np.random.default_rng(0)
    x = inputs = keras.Input(shape)
    for filters, window in convolutions:
        x = layers.Conv2D(filters, window, padding="same", activation="relu")(x)
        x = layers.BatchNormalization()(x)
        x = layers.MaxPooling2D(2)(x) if pooled else x
    model = keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.gamma.assign(random.uniform(0.5, 1.5, layer.gamma.shape))
            layer.beta.assign(random.normal(size=layer.beta.shape))
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    for name, model in MODELS.items():
        sessions = {}
        for kind in (True, False):
            folded, _ = kbn.export.fold(stack(*model), ones_channel=kind)
            sessions[kind] = onnxruntime.InferenceSession(convert(folded).proto.SerializeToString())
        for batch in (1, 8):
            x = np.random.default_rng(1).normal(size=(batch, *model[0])).astype("float32")
            steps = {
                kind: lambda session=session, x=x: session.run(None, {session.get_inputs()[0].name: x})
                for kind, session in sessions.items()
            }
            low, median, high = quartiles(steps, baseline=True, rounds=rounds)[False]
            console.print(f"{name}, batch {batch}: {median:.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
