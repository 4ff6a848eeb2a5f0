"""The gap between training and inference: moving averages that are still cold, and three ways to close it.

    python examples/cold_start.py [FOLDER] [--epochs 3] [--last 528] [--seeds 3]

Trained for a few epochs on scikit-learn's digits, a model already classifies well with its batches' statistics, but its
moving averages, of momentum 0.99, still hold what they started from, and inference suffers: after t steps 0.99^t of it is left.
Three ways to mend that: averages that leave their start out (`debias=True`), averages over all batches (`momentum=None`), and
statistics taken anew once the training is over (`kbn.recalibrate`). First a model with Keras' own layer is taken over to kbn
and recalibrated, then all are compared step by step. Training reads no averages, so all have the same weights.

To be seen: (a) the accuracy at inference, step by step, and (b) how far the averages are from the statistics of the training
set at the same weights. Writes FOLDER/cold-start.png.
"""

import time

import digits
import keras
import numpy as np

import kbn

BATCH = 64
STEPS = (1, 2, 4, 8, 16, 33, 66, 132, 264, 528)  # when to look, as far as the training goes
WAYS = {  # the layer's arguments; Keras' own layer has the first
    "moving average, momentum 0.99": {},
    "the same, debiased": {"debias": True},
    "mean of all batches": {"momentum": None},
}
RECALIBRATED = "recalibrated"
STYLES = {
    "moving average, momentum 0.99": {**digits.PLAIN, "marker": "o"},
    "the same, debiased": {**digits.NORMALIZED, "marker": "s"},
    "mean of all batches": {"color": "#6e7783", "linestyle": "-.", "marker": "^"},
    RECALIBRATED: {"color": "#a40e26", "linestyle": ":", "marker": "x"},
}


def digits_model(normalization, seed=0, **arguments):
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((64,))
    for units in (128, 128, 128):
        x = keras.layers.Dense(units, use_bias=False)(x)
        x = keras.layers.ReLU()(normalization(**arguments)(x))
    model = keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(x))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def convert(epochs, data):
    """A model with Keras' own layer, trained for a few epochs, is taken over to kbn and recalibrated."""
    x_train, x_test, y_train, y_test = data

    def show(name, model):
        print(f"{name:52}{digits.accuracy(model, x_test, y_test):6.1f} %")

    print(f"Test accuracy after {epochs} epochs of {len(x_train)} digits, at inference:")
    keras_model = digits_model(keras.layers.BatchNormalization)
    keras_model.fit(x_train, y_train, batch_size=BATCH, epochs=epochs, verbose=0)
    show("keras.layers.BatchNormalization", keras_model)
    model = kbn.convert_model(keras_model, to="kbn")
    show("the same model, kbn.convert_model(model, to='kbn')", model)
    handle = kbn.recalibrate(model, x_train, verbose=0)
    show("... after kbn.recalibrate(model, data)", model)
    handle.undo()
    show("... after handle.undo()", model)


def distance(changes):
    """How far averages are from what a recalibration puts in their place, a root mean square over all channels.

    The Wasserstein-2 distance of two normal distributions, ((m - M)^2 + (s - S)^2)^(1/2), in units of S.
    """
    squares = [
        ((each.old_mean - each.new_mean) ** 2 + (np.sqrt(each.old_variance) - np.sqrt(each.new_variance)) ** 2)
        / each.new_variance
        for each in changes
    ]
    return float(np.sqrt(np.mean(np.concatenate(squares))))


def watch(arguments, seed, steps, data):
    """At each of `steps`: accuracy, accuracy once recalibrated, and the distance between the two statistics: (steps, 3)."""
    x_train, x_test, y_train, y_test = data
    model = digits_model(kbn.BatchNormalization, seed, **arguments)
    seen = []

    def look(batch, logs):
        if int(model.optimizer.iterations) in steps:
            before = digits.accuracy(model, x_test, y_test)
            # In one batch, so that each layer gets the statistics of the whole training set.
            handle = kbn.recalibrate(model, x_train, batch_size=len(x_train), verbose=0)
            seen.append((before, digits.accuracy(model, x_test, y_test), distance(handle.changes)))
            handle.undo()

    epochs = -(-steps[-1] // -(-len(x_train) // BATCH))
    callback = keras.callbacks.LambdaCallback(on_train_batch_end=look)
    model.fit(x_train, y_train, batch_size=BATCH, epochs=epochs, verbose=0, callbacks=[callback])
    return np.array(seen)


def draw(steps, accuracies, distances):
    figure = digits.figure(7.2, 3.7)
    left, right = figure.subplots(1, 2)
    for name, rows in accuracies.items():
        digits.band(left, steps, rows, name, STYLES[name], markersize=4.5)
    for name, rows in distances.items():
        digits.band(right, steps, rows, None, STYLES[name], markersize=4.5)
    digits.dress(left, "(a) Test accuracy at inference", "training step", "test accuracy (%)")
    digits.dress(right, "(b) Averages against true statistics", "training step", "Wasserstein-2 (standard deviations)")
    right.set_yscale("log")
    digits.plain_numbers(right.yaxis)
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(steps, labels=steps)
        axes.set_xticks([], minor=True)
    figure.legend(fontsize=8.5, frameon=False, loc="outside lower center", ncols=2)
    return figure


def main():
    parser = digits.options(__doc__, "cold-start.png", seeds=3)
    parser.add_argument("--epochs", type=int, default=3, help="of the first table")
    parser.add_argument("--last", type=int, default=STEPS[-1], help="the last step of the picture")
    options = parser.parse_args()
    started = time.monotonic()
    x_train, x_test, y_train, y_test = digits.load()
    data = 16 * x_train, 16 * x_test, y_train, y_test  # as the data set has them, so that the averages have a way to go
    convert(options.epochs, data)

    steps = [step for step in STEPS if step <= options.last]
    seen = {
        name: np.array([watch(arguments, seed, steps, data) for seed in range(options.seeds)])
        for name, arguments in WAYS.items()
    }
    accuracies = {name: each[..., 0] for name, each in seen.items()}
    accuracies[RECALIBRATED] = next(iter(seen.values()))[..., 1]
    distances = {name: each[..., 2] for name, each in seen.items()}
    for title, table, digits_shown in (
        ("Test accuracy at inference, in percent", accuracies, 1),
        ("Averages against the statistics of the training set, in standard deviations", distances, 3),
    ):
        print(f"\n{title}, mean of {options.seeds} seeds, after so many steps")
        print(f"{'':32}" + "".join(f"{step:8}" for step in steps))
        for name, rows in table.items():
            print(f"{name:32}" + "".join(f"{each:8.{digits_shown}f}" for each in rows.mean(0)))
    digits.save(draw(steps, accuracies, distances), options.folder, "cold-start.png", started)


if __name__ == "__main__":
    main()
