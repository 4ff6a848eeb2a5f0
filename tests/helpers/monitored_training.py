"""A training with the monitor and one without, on Keras' backend; prints, as JSON, the first sample and whether both end alike.

KERAS_BACKEND=jax python tests/helpers/monitored_training.py
"""

import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers

import kbn
from kbn.diagnostics import ShiftMonitor


def network(random):
    model = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Conv2D(4, 3),
            kbn.BatchNormalization(),
            layers.ReLU(),
            layers.Dropout(0.3),
            layers.Conv2D(5, 3, activation="tanh"),
            layers.BatchNormalization(),
            layers.Activation("sigmoid"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(1),
        ]
    )
    for weight in model.trainable_weights:
        weight.assign(random.normal(size=weight.shape) * 0.5)
    model.compile("adam", "mse")
    return model


def main():
    random = np.random.default_rng(0)
    x, y = random.normal(1.0, 2.0, (64, 6, 6, 3)).astype("float32"), random.normal(size=(64, 1)).astype("float32")
    ends = []
    for callbacks in ([ShiftMonitor(x[:32], batch_size=16, every=1)], []):
        keras.utils.set_random_seed(1)
        model = network(np.random.default_rng(2))
        model.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)
        ends.append([keras.ops.convert_to_numpy(each) for each in model.variables])
        if callbacks:
            record = callbacks[0].record
    names = [
        "before/mean",
        "before/variance",
        "before/mean_spread",
        "normalized/variance",
        "activated/mean",
        "gap",
        "flat",
    ]
    first = {name: record.values(f"channels/{name}")[0].tolist() for name in names}
    alike = all(np.array_equal(a, b) for a, b in zip(*ends, strict=True))
    steps = record.steps.tolist()
    effective = record.values("seen/effective")[-1].tolist()
    print(json.dumps({"alike": alike, "steps": steps, "effective": effective, "first": first}))


if __name__ == "__main__":
    main()
