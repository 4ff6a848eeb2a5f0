"""Models that look trained: random weights and random statistics, of both signs, never fresh ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import tree

from kbn.export.model_ports import pack_inputs
from kbn.export.precision import in_precision


def randomized(model: keras.Model, seed: int = 0) -> keras.Model:
    """The model with every weight drawn anew: kernels of unit gain, gammas and betas of both signs, variances above 0."""
    random = np.random.default_rng(seed)
    for weight in model.weights:
        name, shape = weight.name, tuple(weight.shape)
        if "float" not in weight.dtype:
            continue
        if "variance" in name or "stddev" in name:
            values = random.uniform(0.3, 2.0, shape)
        elif name == "gamma":
            values = random.uniform(0.5, 1.5, shape) * random.choice([-1.0, 1.0], shape)
        elif len(shape) > 1:
            values = random.normal(size=shape) / np.sqrt(max(1, np.prod(shape[:-1])))
        else:
            values = random.normal(0, 0.5, shape)
        weight.assign(values)
    return model


def random_inputs(model: keras.Model, batch: int = 3, size: int = 9, seed: int = 1) -> Any:
    """Inputs in the model's own nesting; dynamic axes get `size`."""
    random = np.random.default_rng(seed)

    def draw(tensor: Any) -> Any:
        shape = (tensor.shape[0] or batch, *(size if axis is None else axis for axis in tensor.shape[1:]))
        if "float" in tensor.dtype:
            return random.normal(size=shape)
        return random.integers(0, 5, shape)

    return pack_inputs(model, [draw(tensor) for tensor in model.inputs])


def float64_outputs(model: keras.Model, inputs: Any) -> list[np.ndarray]:
    """What the model computes in float64 at inference, flattened."""
    return computed(in_precision(model, "float64"), inputs)


def computed(model: keras.Model, inputs: Any) -> list[np.ndarray]:
    """What the model computes at inference, flattened."""
    flat = [x.astype(tensor.dtype) for x, tensor in zip(tree.flatten(inputs), model.inputs, strict=True)]
    outputs = model(pack_inputs(model, flat), training=False)
    return [keras.ops.convert_to_numpy(output) for output in tree.flatten(outputs)]


def real_models() -> list[Path]:
    """The `.keras` files of the folder KBN_MODELS, or of ../shared/models beside the checkout; none elsewhere."""
    folder = os.environ.get("KBN_MODELS") or Path(__file__).resolve().parents[3] / "shared" / "models"
    return sorted(Path(folder).glob("*.keras"))
