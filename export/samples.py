"""The inputs on which a file is compared with its Keras model: seeded ones, and the user's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras import layers

from .drawing import Declared, Sample, batches, draw, integer_limit
from .model_ports import input_ports
from .rules.rule import Shape


def seeded_samples(model: keras.Model, seed: int, shapes: Sequence[Shape] | None = None) -> Iterator[Sample]:
    """Random inputs of batch 3 and 1, a second size where an axis is dynamic, zeros, negative integers, and a large range.

    shapes: of the inputs, in the model's layout, where they are not the model's own.
    """
    return draw(_declared(model, shapes), seed)


def user_samples(
    model: keras.Model, data: Any, shapes: Sequence[Shape] | None = None, batch_size: int = 32
) -> Iterator[Sample]:
    """The user's data in batches.

    Args:
        model: tells the names, shapes and dtypes of the inputs.
        data, batch_size: as `drawing.batches` takes them.
        shapes: of the inputs, in the model's layout, where they are not the model's own.

    Raises:
        UsageError: an array is missing, or its shape or dtype does not fit its input.
    """
    return batches(_declared(model, shapes), data, batch_size)


def _declared(model: keras.Model, shapes: Sequence[Shape] | None) -> list[Declared]:
    rows = [layer.input_dim for layer in model._flatten_layers() if isinstance(layer, layers.Embedding)]
    names = [port.name for port in input_ports(model, None)]
    own = shapes or [tuple(tensor.shape) for tensor in model.inputs]
    return [
        _declared_input(name, tuple(shape), tensor.dtype, rows)
        for name, shape, tensor in zip(names, own, model.inputs, strict=True)
    ]


def _declared_input(name: str, shape: Shape, dtype: str, rows: Sequence[int]) -> Declared:
    limit = integer_limit(dtype, rows)
    return Declared(name, shape, dtype, limit, lowest=-limit if dtype.startswith("int") and not rows else 0)
