"""What `kbn.diagnostics.ShiftMonitor` costs: training ResNet-20 (32 x 32, batch 128) with it and without, in turns.

    python benchmarks/monitor_cost.py [--rounds 8] [--steps 40] [--backend tensorflow] [--budget 0.04]

Two models of the same weights take turns in one process, so many steps each; the time of one turn over that of the other is
a round's cost. What comes once, finding the points and compiling the probe, is told apart: the monitor counts it in its
budget, and takes its second sample only when training has paid for it. Here it is forgiven, so that each round has its share
of samples; the one that ends each round is taken whatever it costs.
"""

import argparse
import os
import time

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--rounds", type=int, default=8)
parser.add_argument("--steps", type=int, default=40, help="training steps of a turn")
parser.add_argument("--batch", type=int, default=128)
parser.add_argument("--budget", type=float, default=0.04)
parser.add_argument("--backend", default="tensorflow", choices=["tensorflow", "jax", "torch"])
options = parser.parse_args()
os.environ["KERAS_BACKEND"] = options.backend
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from networks import resnet20

import kbn
from kbn.diagnostics import ShiftMonitor

PROBE = 128  # examples, in 4 batches of 32


def trained(x, y):
    keras.utils.set_random_seed(0)
    model = resnet20(kbn.BatchNormalization)
    model.compile(keras.optimizers.SGD(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))

    def turn(callbacks):
        start = time.perf_counter()
        model.fit(x, y, batch_size=options.batch, epochs=1, shuffle=False, verbose=0, callbacks=callbacks)
        return time.perf_counter() - start

    turn([])  # compiles
    return turn


def main():
    random = np.random.default_rng(0)
    size = options.steps * options.batch
    x, y = random.normal(size=(size, 32, 32, 3)).astype("float32"), random.integers(0, 10, size)
    watched, plain = trained(x, y), trained(x, y)
    monitor = ShiftMonitor(x[:PROBE], batch_size=32, budget=options.budget)
    turn = watched([monitor])
    once = monitor.record.spent
    monitor._pacing.spent = 0.0
    monitor._pacing._before = 0.0
    before, ratios, seconds = len(monitor.record), [], []
    for number in range(options.rounds):
        # Who comes first takes turns too.
        pair = [(watched, [monitor]), (plain, [])]
        times = {bool(callbacks): turn(callbacks) for turn, callbacks in (pair if number % 2 else pair[::-1])}
        ratios.append(times[True] / times[False])
        seconds.append(times[False])
    samples = len(monitor.record) - before
    low, middle, high = np.percentile(ratios, (25, 50, 75))
    probe = monitor.record.spent / max(samples, 1)
    print(f"{options.backend}: {options.steps / np.median(seconds):.2f} steps a second without the monitor")
    print(
        f"once: {once:.1f} s of a first turn of {turn:.1f} s; a sample: {probe:.2f} s, {samples} in {options.rounds} rounds"
    )
    print(
        f"with the monitor a round takes {middle:.3f} ({low:.3f} to {high:.3f}) times as long, of {np.median(seconds):.1f} s"
    )
    print(f"the monitor's own count: {100 * monitor.record.spent / np.sum(seconds):.1f} % of the time without it")


if __name__ == "__main__":
    main()
