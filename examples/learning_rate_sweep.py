"""Which learning rates and which initial weights train: a sweep over both, with batch normalization and without.

    python examples/learning_rate_sweep.py [FOLDER] [--steps 300] [--seeds 3]

Three hidden layers of 64 ReLUs on scikit-learn's digits, batches of 64, plain stochastic gradient descent. The initial weights
are Gaussian, with a deviation of so many times He's, sqrt(2 / inputs). Each cell is the mean test accuracy of some trainings.

To be seen: without batch normalization few pairs of the two train well, and initial weights that are too small train not at
all. With it many more do, over learning rates far apart. What is left is a slope: the normalization divides the scale of the
weights out again, so that larger weights change nothing but how far a step turns them. The learning rate that counts is the
one over the square of their norm (van Laarhoven 2017, https://arxiv.org/abs/1706.05350), and larger weights want a larger one.

The averages leave out their start (debias=True), so that they are no reason for a low accuracy. Writes
FOLDER/learning-rate-sweep.png.
"""

import time

import digits
import keras
import numpy as np

import kbn

BATCH = 64
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
SCALES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
GOOD = 95  # percent


def network(normalized, steps):
    x = inputs = keras.Input((64,))
    for _ in range(3):
        x = keras.layers.Dense(64, use_bias=not normalized)(x)
        x = kbn.BatchNormalization(debias=True)(x) if normalized else x
        x = keras.layers.ReLU()(x)
    model = keras.Model(inputs, keras.layers.Dense(10)(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, steps_per_execution=steps)
    return model


def sweep(normalized, scales, rates, steps, seeds, data):
    """Test accuracy in percent: (seeds, scales, rates). A training that has diverged classifies as by chance."""
    x_train, x_test, y_train, y_test = data
    model = network(normalized, steps)
    fresh = model.get_weights()
    accuracy = np.empty((seeds, len(scales), len(rates)))
    for seed, row, column in np.ndindex(accuracy.shape):
        digits.begin_anew(model, fresh, seed, scales[row])
        model.optimizer.learning_rate = rates[column]
        batches = digits.batches(x_train, y_train, BATCH, seed)
        model.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0)
        accuracy[seed, row, column] = digits.accuracy(model, x_test, y_test)
    return accuracy


def show(name, accuracy, scales, rates):
    mean = accuracy.mean(0)
    good = mean >= GOOD
    print(f"\n{name} batch normalization: test accuracy, %")
    print(f"{'scale':>8}  learning rate" + "".join(f"{rate:8g}" for rate in rates))
    for scale, row in zip(scales, mean, strict=True):
        print(f"{scale:8g}{'':15}" + "".join(f"{each:8.1f}" for each in row))
    fast, large = np.array(rates)[good.any(0)], np.array(scales)[good.any(1)]
    told = (
        f"learning rates {min(fast):g} to {max(fast):g}, scales {min(large):g} to {max(large):g}"
        if fast.size
        else "none"
    )
    print(f"{GOOD} % or more: {good.sum()} of {good.size} cells; {told}")


def draw(accuracies, scales, rates):
    figure = digits.figure(7.2, 3.8)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (name, letter) in zip(panels, (("without", "a"), ("with", "b")), strict=True):
        mean = accuracies[name].mean(0)
        shades = axes.imshow(mean, cmap=digits.SHADES, vmin=0, vmax=100, aspect="auto", origin="lower")
        for row, column in np.ndindex(mean.shape):
            color = "white" if mean[row, column] > 60 else digits.INK
            axes.text(column, row, f"{mean[row, column]:.0f}", ha="center", va="center", fontsize=8, color=color)
        digits.dress(axes, f"({letter}) {name} batch normalization", "learning rate", "")
        axes.grid(visible=False)
        axes.set_xticks(range(len(rates)), labels=[f"{rate:g}" for rate in rates], rotation=45)
        axes.set_yticks(range(len(scales)), labels=[f"{scale:g}" for scale in scales])
        axes.tick_params(length=0, labelsize=8)
        axes.spines[["left", "bottom"]].set_visible(False)
    panels[0].set_ylabel("deviation of the initial weights\n(times He's)", fontsize=9)
    bar = figure.colorbar(shades, ax=panels, pad=0.02, fraction=0.04, aspect=25)
    bar.set_label("test accuracy (%)", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
    return figure


def main():
    parser = digits.options(__doc__, "learning-rate-sweep.png", seeds=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="learning rates")
    parser.add_argument("--scales", type=float, nargs="+", default=SCALES, help="of the initial weights, times He's")
    arguments = parser.parse_args()
    started = time.monotonic()
    data = digits.load()
    print(f"3 x 64 ReLUs, batches of {BATCH}, SGD, {arguments.steps} steps, {arguments.seeds} seeds; 10 % is chance")
    accuracies, scales, rates = {}, arguments.scales, arguments.rates
    for name in ("without", "with"):
        accuracies[name] = sweep(name == "with", scales, rates, arguments.steps, arguments.seeds, data)
        show(name, accuracies[name], scales, rates)
    digits.save(draw(accuracies, scales, rates), arguments.folder, "learning-rate-sweep.png", started)


if __name__ == "__main__":
    main()
