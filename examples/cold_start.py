"""Take a model with Keras' BatchNormalization over to kbn, and close the gap between training and inference.

    python examples/cold_start.py [--epochs 3]

Trained for a few epochs on scikit-learn's digits, a model already classifies well with its batches' statistics, but its
moving averages, of momentum 0.99, still hold what they started from, and inference suffers. Three ways to mend that: averages
that leave their start out, averages over all batches, and statistics taken anew once the training is over.
"""

import argparse
import os

from kbn.export.quiet import import_quietly

os.environ["KERAS_BACKEND"] = "tensorflow"
import_quietly("tensorflow")

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import kbn


def digits_model(normalization, **arguments):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((64,))
    for units in (128, 128, 128):
        x = keras.layers.Dense(units, use_bias=False)(x)
        x = keras.layers.ReLU()(normalization(**arguments)(x))
    model = keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(x))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=3)
    epochs = parser.parse_args().epochs
    x, y = load_digits(return_X_y=True)
    split = train_test_split(x.astype("float32"), y, test_size=0.25, stratify=y, random_state=0)
    x_train, x_test, y_train, y_test = split

    def trained(model):
        model.fit(x_train, y_train, batch_size=64, epochs=epochs, verbose=0)
        return model

    def show(name, model):
        predicted = keras.ops.convert_to_numpy(model(x_test, training=False)).argmax(1)
        print(f"{name:52}{100 * np.mean(predicted == y_test):6.1f} %")

    print(f"Test accuracy after {epochs} epochs of {len(x_train)} digits, at inference:")
    keras_model = trained(digits_model(keras.layers.BatchNormalization))
    show("keras.layers.BatchNormalization", keras_model)

    model = kbn.convert_model(keras_model, to="kbn")
    show("the same model, kbn.convert_model(model, to='kbn')", model)
    handle = kbn.recalibrate(model, x_train, verbose=0)
    show("... after kbn.recalibrate(model, data)", model)
    handle.undo()
    show("... after handle.undo()", model)

    show("trained with kbn.BatchNormalization(debias=True)", trained(digits_model(kbn.BatchNormalization, debias=True)))
    show(
        "trained with kbn.BatchNormalization(momentum=None)",
        trained(digits_model(kbn.BatchNormalization, momentum=None)),
    )


if __name__ == "__main__":
    main()
