"""Teach the folding a layer of your own: one rule, registered once.

    python examples/own_layer_rule.py

LowRankDense computes (x U) V + b. kbn does not know it, so a batch normalization beside it stays. The rule below says how the
layer takes in a map y = s x + t on either side, in its own weights:

    after:   s ((x U) V + b) + t = (x U) (V s) + (s b + t)
    before:  ((s x + t) U) V + b = (x (diag(s) U)) V + (b + (t U) V)

On the command line, the same file goes to `--custom-objects`.
"""

import os
from functools import partial

from kbn.export.quiet import import_quietly

os.environ["KERAS_BACKEND"] = "tensorflow"
import_quietly("tensorflow")

import keras
import numpy as np
import rich

import kbn
import kbn.export
from kbn.export.rules import Absorbed, Rule, fit, register


@keras.saving.register_keras_serializable("example")
class LowRankDense(keras.layers.Layer):
    def __init__(self, units, rank, **kwargs):
        super().__init__(**kwargs)
        self.units, self.rank = units, rank

    def build(self, input_shape):
        self.u = self.add_weight(name="u", shape=(input_shape[-1], self.rank))
        self.v = self.add_weight(name="v", shape=(self.rank, self.units))
        self.bias = self.add_weight(name="bias", shape=(self.units,), initializer="zeros")

    def call(self, x):
        return keras.ops.matmul(keras.ops.matmul(x, self.u), self.v) + self.bias

    def get_config(self):
        return {**super().get_config(), "units": self.units, "rank": self.rank}


def scale_output(weights, affine):
    return {
        "u": weights["u"],
        "v": weights["v"] * affine.scale,
        "bias": weights["bias"] * affine.scale + affine.shift,
    }


def scale_input(weights, affine):
    return {
        "u": weights["u"] * affine.scale[:, None],
        "v": weights["v"],
        "bias": weights["bias"] + affine.shift @ weights["u"] @ weights["v"],
    }


class LowRankDenseRule(Rule):
    types = (LowRankDense,)

    def absorb_after(self, layer, affine):
        # The map must run along the layer's channels; `fit` says so, or gives the refusal that the report shows.
        affine = fit(layer, affine, len(layer.output_shape) - 1, "output")
        return Absorbed(partial(scale_output, affine=affine)) if isinstance(affine, kbn.export.Affine) else affine

    def absorb_before(self, layer, affine, ports):
        affine = fit(layer, affine, len(layer.input_shape) - 1, "input")
        return Absorbed(partial(scale_input, affine=affine)) if isinstance(affine, kbn.export.Affine) else affine


def model():
    x = inputs = keras.Input((32,))
    x = LowRankDense(16, 4, name="low_rank")(kbn.BatchNormalization(name="before")(x))
    x = keras.layers.ReLU()(kbn.BatchNormalization(name="after")(x))
    built = keras.Model(inputs, keras.layers.Dense(3)(x))
    random = np.random.default_rng(0)
    for weight in built.weights:  # as if trained
        weight.assign(random.uniform(0.5, 1.5, weight.shape) * random.choice([-1.0, 1.0], weight.shape))
        if weight.name == "moving_variance":
            weight.assign(abs(weight))
    return built


def main():
    original = model()
    print("Without the rule:")
    rich.print(kbn.export.inspect(original))
    register(LowRankDenseRule())
    print("\nWith it:")
    folded, report = kbn.export.fold(original)
    rich.print(report)
    x = np.random.default_rng(1).normal(size=(64, 32)).astype("float32")
    expected, found = (keras.ops.convert_to_numpy(each(x, training=False)) for each in (original, folded))
    difference, largest = np.abs(found - expected).max(), np.abs(expected).max()
    print(f"\nLargest difference: {difference:.2g}, of outputs up to {largest:.2g}")
    if difference > 1e-5 * largest:
        raise SystemExit("The rule is wrong.")


if __name__ == "__main__":
    main()
