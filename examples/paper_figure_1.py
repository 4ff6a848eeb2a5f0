"""The first experiment of the paper on batch normalization, on digits: Ioffe and Szegedy 2015, section 4.1, Figure 1.

    python examples/paper_figure_1.py [FOLDER] [--steps 10000] [--seeds 3]

Three hidden layers of 100 sigmoids, small Gaussian weights, batches of 60, stochastic gradient descent; the same network
with batch normalization before each sigmoid, and without. Two things are watched: the accuracy on the test set, and what
comes into one sigmoid of the last hidden layer, as the 15th, 50th and 85th percentile over the test set.

To be seen: (a) with it the network learns in hundreds of steps what takes thousands without, and ends higher. (b) Without, all
inputs give the sigmoid nearly the same value at first, and both the middle and the range of what comes in move for
thousands of steps; (c) with it the middle stays, and the range is half as wide again at the end as at the start.

The paper (https://arxiv.org/abs/1502.03167) has MNIST, 50 000 steps, and does not tell the learning rate; here are
scikit-learn's smaller digits, fewer steps, and a learning rate of 0.1 for both, tuned for neither. Writes
FOLDER/paper-figure-1.png.
"""

import time

import digits
import keras
import numpy as np

import kbn

BATCH, RATE, DEVIATION = 60, 0.1, 0.1
PERCENTILES = (15, 50, 85)


def network(normalized, every):
    """The model, and a second one that gives what comes into the sigmoids of its last hidden layer."""
    gaussian = keras.initializers.RandomNormal(stddev=DEVIATION)
    x = inputs = keras.Input((64,))
    for _ in range(3):
        x = keras.layers.Dense(100, use_bias=not normalized, kernel_initializer=gaussian)(x)
        x = before = kbn.BatchNormalization()(x) if normalized else x
        x = keras.layers.Activation("sigmoid")(x)
    logits = keras.layers.Dense(10, kernel_initializer=gaussian)(x)
    model = keras.Model(inputs, logits)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(RATE), loss, steps_per_execution=every)
    return model, keras.Model(inputs, before)


def train(normalized, seed, steps, every, data):
    """Accuracy (samples,) and percentiles (samples, 3, 100) of each unit, before the first step and after each `every`."""
    x_train, x_test, y_train, y_test = data
    keras.utils.set_random_seed(seed)
    model, last_hidden = network(normalized, every)
    accuracy, percentiles = [], []

    def sample(*_):
        accuracy.append(digits.accuracy(model, x_test, y_test))
        # As the network sees it while it trains: normalised by the statistics of these inputs, which moves the averages.
        weights = model.get_weights()
        percentiles.append(np.percentile(last_hidden(x_test, training=True), PERCENTILES, axis=0))
        model.set_weights(weights)

    sample()
    watch = keras.callbacks.LambdaCallback(on_epoch_end=sample)
    batches = digits.batches(x_train, y_train, BATCH, seed)
    model.fit(batches, epochs=steps // every, steps_per_epoch=every, shuffle=False, verbose=0, callbacks=[watch])
    return np.array(accuracy), np.array(percentiles)


def shift(percentiles):
    """The farthest that each unit's median gets from where it began, in units of the last 15-85 range: (100,)."""
    low, middle, high = percentiles.swapaxes(0, 1)
    return np.abs(middle - middle[0]).max(0) / (high[-1] - low[-1])


def widening(percentiles):
    """How many times as wide as at first the 15-85 range is at last: (100,)."""
    low, _, high = percentiles.swapaxes(0, 1)
    return (high[-1] - low[-1]) / (high[0] - low[0])


def first_step(steps, accuracy, percent):
    """The first sampled step at which the accuracy is reached, or None."""
    return next((int(step) for step, each in zip(steps, accuracy, strict=True) if each >= percent), None)


def draw(steps, accuracies, typical):
    figure = digits.figure(7.2, 5.6)
    grid = figure.add_gridspec(2, 2)
    top = figure.add_subplot(grid[0, :])
    for name, style in (("with", digits.NORMALIZED), ("without", digits.PLAIN)):
        digits.band(top, steps, accuracies[name], f"{name} batch normalization", style)
    digits.dress(top, "(a) Test accuracy: mean, least and most of the seeds", "training step", "test accuracy (%)")
    top.legend(fontsize=9, frameon=False, loc="lower right")
    shared = None
    for column, (name, letter) in enumerate((("without", "b"), ("with", "c"))):
        axes = shared = figure.add_subplot(grid[1, column], sharey=shared)
        style = {"with": digits.NORMALIZED, "without": digits.PLAIN}[name]
        low, middle, high = typical[name].T
        axes.fill_between(steps, low, high, color=style["color"], alpha=0.12, linewidth=0)
        for values, line, label in ((high, ":", "85th"), (middle, "-", "50th"), (low, "--", "15th")):
            axes.plot(steps, values, color=style["color"], linestyle=line, linewidth=1.3, label=label)
        digits.dress(axes, f"({letter}) One sigmoid's input, {name} BN", "training step", "input of the sigmoid")
        axes.legend(fontsize=8.5, frameon=False, title="percentile", title_fontsize=8.5, ncols=3, loc="upper left")
    low, high = shared.get_ylim()
    shared.set_ylim(low, high + 0.25 * (high - low))  # room for the legend
    return figure


def main():
    parser = digits.options(__doc__, "paper-figure-1.png", seeds=3)
    parser.add_argument("--steps", type=int, default=10000)
    parser.add_argument("--every", type=int, default=50, help="steps from one sample to the next")
    arguments = parser.parse_args()
    started = time.monotonic()
    data = digits.load()
    steps = np.arange(arguments.steps // arguments.every + 1) * arguments.every
    accuracies, typical = {}, {}
    print(f"3 x 100 sigmoids, batches of {BATCH}, SGD at {RATE}, {steps[-1]} steps, {arguments.seeds} seeds\n")
    print(f"{'BN':10}{'test accuracy, %':>22}{'steps to 90 %':>16}{'shift of median':>18}{'range widens':>15}")
    for name in ("with", "without"):
        runs = [train(name == "with", seed, arguments.steps, arguments.every, data) for seed in range(arguments.seeds)]
        accuracies[name] = np.array([accuracy for accuracy, _ in runs])
        shifts = shift(runs[0][1])
        unit = np.argsort(shifts)[len(shifts) // 2]  # typical: half of the units shift more
        typical[name] = runs[0][1][:, :, unit]
        reached = first_step(steps, accuracies[name].mean(0), 90)
        shifted = np.median([shift(percentiles) for _, percentiles in runs])
        wider = np.median([widening(percentiles) for _, percentiles in runs])
        last = digits.spread(accuracies[name][:, -1])
        print(f"{name:10}{last:>22}{reached or 'never':>16}{shifted:>18.2f}{wider:>14.1f}x")
    print(
        "\nAccuracy: the mean over the seeds, in brackets the least and the most. Of the inputs of the last 100 sigmoids, the\n"
        "median unit: the farthest that its median gets from where it began, over its last range from the 15th to the 85th\n"
        "percentile; and how many times as wide that range is at the end. The picture shows the unit in the middle by the\n"
        "first of these, of the first seed."
    )
    digits.save(draw(steps, accuracies, typical), arguments.folder, "paper-figure-1.png", started)


if __name__ == "__main__":
    main()
