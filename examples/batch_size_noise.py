"""How much noise a batch's statistics bring in, against the size of the batch; and ghost batches, which bring it back.

    python examples/batch_size_noise.py [FOLDER] [--steps 150] [--draws 100] [--seeds 5]

The mean and the variance of a batch of m examples are estimates of those of all data. Over batches of independent examples with
deviation sigma and kurtosis k (3 where they are normal), they have the deviations

    mean:      sigma / sqrt(m)
    variance:  sigma^2 sqrt((k - (m - 3) / (m - 1)) / m)      about sigma^2 sqrt(2 / m) where normal

and the normalised output differs from one by the statistics of all data by the root mean square sqrt(2 - 2 E[s]), s being the
batch's deviation over sigma: for normal values about sqrt(3 / (2 m)).

To be seen: (a) what a layer measures on a trained network's digits lies on these lines. (b) A batch of 256 in ghost batches
of m (`virtual_batch_size=m`; Hoffer, Hubara and Soudry 2017, https://arxiv.org/abs/1705.08741) has the noise of a batch of m.
(c) What that noise alone does to the test accuracy: ghost batches of m in batches of 256, and beside them batches of m, whose
gradients are noisy too, after the same number of steps. Very small batches cost much; that a little noise helps, as is often
said, does not show here above the spread of the seeds. Writes FOLDER/batch-size-noise.png.
"""

import math
import time

import digits
import keras
import numpy as np

import kbn

LARGE, RATE = 256, 0.1
SIZES = (2, 4, 8, 16, 32, 64, 128)


def network(ghost, steps):
    """The model, and a second one that gives what comes into its last batch normalization."""
    x = inputs = keras.Input((64,))
    for _ in range(3):
        x = before = keras.layers.Dense(64, use_bias=False)(x)
        x = keras.layers.ReLU()(kbn.BatchNormalization(virtual_batch_size=ghost, debias=True)(x))
    model = keras.Model(inputs, keras.layers.Dense(10)(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(RATE), loss, steps_per_execution=steps)
    return model, keras.Model(inputs, before)


def train(batch, ghost, steps, seeds, data):
    """Test accuracies (seeds,) after so many steps with batches of `batch`; and what comes into the last normalization."""
    x_train, x_test, y_train, y_test = data
    model, last = network(ghost, steps)
    fresh, accuracies = model.get_weights(), []
    for seed in range(seeds):
        digits.begin_anew(model, fresh, seed)
        model.fit(digits.batches(x_train, y_train, batch, seed), steps_per_epoch=steps, shuffle=False, verbose=0)
        accuracies.append(digits.accuracy(model, x_test, y_test))
    return np.array(accuracies), np.array(last(x_train, training=False), "float64")


def theory_of_variance(m, kurtosis):
    """The deviation of the unbiased variance of m independent values, over their variance."""
    return np.sqrt((kurtosis - (m - 3) / (m - 1)) / m)


def theory_of_output(m):
    """sqrt(2 - 2 E[s]) for normal values, of which E[s] = sqrt(2 / m) Gamma(m / 2) / Gamma((m - 1) / 2)."""
    return math.sqrt(2 - 2 * math.sqrt(2 / m) * math.exp(math.lgamma(m / 2) - math.lgamma((m - 1) / 2)))


def noise_of_statistics(values, m, draws, random):
    """Deviations of a batch's mean over sigma and its variance over sigma^2, by the layer: medians of channels."""
    # With momentum 0 the averages are the last batch's statistics.
    layer = kbn.BatchNormalization(momentum=0, unbiased=True)
    means, variances = [], []
    for _ in range(draws):
        layer(values[random.integers(0, len(values), m)], training=True)  # drawn one by one: independent
        means.append(keras.ops.convert_to_numpy(layer.moving_mean))
        variances.append(keras.ops.convert_to_numpy(layer.moving_variance))
    return np.median(np.std(means, 0) / values.std(0)), np.median(np.std(variances, 0) / values.var(0))


def noise_of_output(values, batch, ghost, draws, random):
    """Root mean square of the output, normalised by the batch, less the same normalised by all of `values`."""
    layer = kbn.BatchNormalization(epsilon=1e-6, virtual_batch_size=ghost)
    mean, deviation = values.mean(0), values.std(0)
    squares = []
    for _ in range(draws):
        x = values[random.integers(0, len(values), batch)]
        squares.append(np.mean((keras.ops.convert_to_numpy(layer(x, training=True)) - (x - mean) / deviation) ** 2))
    return np.sqrt(np.mean(squares))


def draw(table, kurtosis, accuracies):
    figure = digits.figure(7.2, 6.0)
    grid = figure.add_gridspec(2, 2)
    left, right = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1])
    below = figure.add_subplot(grid[1, :])
    sizes = table["m"]
    fine = np.geomspace(sizes[0], sizes[-1], 200)
    blue, ink = digits.NORMALIZED["color"], digits.INK
    of_variance = theory_of_variance(fine, kurtosis)
    left.plot(fine, of_variance, color=ink, linestyle="--", linewidth=1, label="theory, variance")
    left.plot(fine, 1 / np.sqrt(fine), color=ink, linewidth=1, label="theory, mean")
    left.plot(sizes, table["variance"], "s", color=blue, markerfacecolor="white", markersize=6, label="layer, variance")
    left.plot(sizes, table["mean"], "o", color=blue, markersize=5.5, label="layer, mean")
    digits.dress(left, "(a) Noise of a batch's statistics", "batch size m", "deviation (over $\\sigma$, $\\sigma^2$)")
    right.plot(fine, [theory_of_output(m) for m in fine], color=ink, linewidth=1, label="theory, normal values")
    right.plot(sizes, table["output"], "o", color=blue, markersize=5.5, label="batches of m")
    hollow = {"color": ink, "markerfacecolor": "none", "markersize": 9}
    right.plot(sizes, table["ghost output"], "s", label=f"{LARGE} in ghost batches of m", **hollow)
    digits.dress(right, "(b) Noise of the normalised output", "size m", "RMS (standard deviations)")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(sizes, labels=sizes)
        digits.plain_numbers(axes.yaxis)
        axes.legend(fontsize=8, frameon=False, loc="lower left")
    ghost_style = {**digits.NORMALIZED, "marker": "s"}
    plain_style = {**digits.PLAIN, "marker": "o"}
    digits.band(below, sizes, accuracies["ghost"].T, f"batches of {LARGE} in ghost batches of m", ghost_style)
    digits.band(below, sizes, accuracies["plain"].T, "batches of m", plain_style)
    below.set_xscale("log", base=2)
    below.set_xticks(sizes, labels=sizes)
    digits.dress(below, "(c) Test accuracy, mean and range of the seeds", "size m", "test accuracy (%)")
    below.legend(fontsize=9, frameon=False, loc="lower right")
    return figure


def main():
    parser = digits.options(__doc__, "batch-size-noise.png", seeds=5)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--draws", type=int, default=100, help="batches of each size that the noise is measured on")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help=f"sizes of a batch, below {LARGE}")
    arguments = parser.parse_args()
    started = time.monotonic()
    data = digits.load()
    steps, seeds, draws, sizes = arguments.steps, arguments.seeds, arguments.draws, [*arguments.sizes, LARGE]
    whole, values = train(LARGE, None, steps, seeds, data)
    accuracies = {
        "ghost": np.array([*(train(LARGE, m, steps, seeds, data)[0] for m in arguments.sizes), whole]),
        "plain": np.array([*(train(m, None, steps, seeds, data)[0] for m in arguments.sizes), whole]),
    }
    kurtosis = float(np.median(((values - values.mean(0)) ** 4).mean(0) / values.var(0) ** 2))
    random = np.random.default_rng(0)
    print(
        f"Noise of a layer's statistics and output, kurtosis {kurtosis:.2f}; accuracy after {steps} steps, {seeds} seeds\n"
    )
    print(f"{'':5}{'mean':>7}{'theory':>8}{'variance':>10}{'theory':>8}{'output':>8}{'ghost':>7}{'theory':>8}"
          f"{'accuracy, ghost':>22}{'batches of m':>22}")  # fmt: skip
    table = {name: [] for name in ("m", "mean", "variance", "output", "ghost output")}
    for m, ghost, plain in zip(sizes, accuracies["ghost"], accuracies["plain"], strict=True):
        mean, variance = noise_of_statistics(values, m, draws, random)
        output = noise_of_output(values, m, None, draws, random)
        ghost_output = noise_of_output(values, LARGE, m, max(1, draws // 5), random)
        for name, value in zip(table, (m, mean, variance, output, ghost_output), strict=True):
            table[name].append(value)
        print(
            f"{m:5}{mean:7.3f}{m**-0.5:8.3f}{variance:10.3f}{theory_of_variance(m, kurtosis):8.3f}{output:8.3f}"
            f"{ghost_output:7.3f}{theory_of_output(m):8.3f}{digits.spread(ghost):>22}{digits.spread(plain):>22}"
        )
    digits.save(draw(table, kurtosis, accuracies), arguments.folder, "batch-size-noise.png", started)


if __name__ == "__main__":
    main()
