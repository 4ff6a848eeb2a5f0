"""What the tests of folding share: models in float64, where a wrong fold stands out by ten orders of magnitude."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import kbn
from kbn.export import fold, inspect
from kbn.export.fold_report import FoldReport
from kbn.export.reading import read
from kbn.export.rules.rule import LayerSpec, Rule
from trained_models import computed, random_inputs, randomized


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    """The patterns are folded in float64, so that the comparison sees the algebra and not the rounding."""
    keras.config.set_dtype_policy("float64")
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


def chain(shape: Sequence[int | None], *sequence: Any) -> keras.Model:
    """A functional model of these layers, or functions of a tensor, in a row."""
    inputs = tensor = keras.Input(shape, name="input")
    for layer in sequence:
        tensor = layer(tensor)
    return randomized(keras.Model(inputs, tensor))


def norm(name: str = "bn", **arguments: Any) -> layers.BatchNormalization:
    return layers.BatchNormalization(name=name, **arguments)


def end() -> layers.Layer:
    """Which no map passes, and which is not the reason that another layer keeps one."""
    return layers.Activation("tanh", name="end")


def with_maps(model: keras.Model, kind: str) -> keras.Model:
    """The model with its normalizations as maps of a kind.

    any: as they are. positive: scales above 0. signed scale: no shift. scale: no shift, scales above 0. uniform scale: 1/2 in
    every channel, no shift.
    """
    for layer in model._flatten_layers():
        if not isinstance(layer, layers.BatchNormalization | kbn.BatchNormalization):
            continue
        if kind in ("positive", "scale", "uniform scale"):
            _assign(layer.gamma, np.abs)
        if "scale" in kind:
            _assign(layer.moving_mean, np.zeros_like)
            _assign(layer.beta, np.zeros_like)
        if kind == "uniform scale":
            # A scale of 1/2, to the bit: Keras puts the bounds of activations through float32.
            layer.moving_variance.assign(layer.moving_variance * 0.0 + 0.25)
            layer.gamma.assign(0.5 * np.sqrt(np.asarray(layer.moving_variance) + layer.epsilon))
    return model


def _assign(weight: Any, function: Any) -> None:
    if weight is not None:
        weight.assign(function(keras.ops.convert_to_numpy(weight)))


def assert_same_function(model: keras.Model, folded: keras.Model, tolerance: float = 1e-12) -> None:
    inputs = random_inputs(model)
    for expected, found in zip(computed(model, inputs), computed(folded, inputs), strict=True):
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * max(1, np.abs(expected).max()))


def assert_settled(folded: keras.Model) -> None:
    """Folding what was folded moves nothing and changes no bit of a weight."""
    twice, report = fold(folded)
    assert {row.decision for row in report.rows} <= {"kept"}
    for first, second in zip(folded.get_weights(), twice.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)


def decisions(report: FoldReport) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {row.layer: (row.decision, row.into) for row in report.rows}


def assert_folds(
    model: keras.Model, expected: dict[str, Any], *, rule: str | None = None, tolerance: float = 1e-12
) -> keras.Model:
    """The model folds to the same function, and for good.

    expected: for each affine layer the layers that it folds into, or what `decisions` tells of it.
    rule: how each of them folds.
    """
    folded, report = fold(model)
    told = {name: what if what[0] in ("kept", "merged") else ("folded", what) for name, what in expected.items()}
    # Keras puts branches of one depth in an order of its own.
    assert {row.layer: (row.decision, set(row.into)) for row in report.rows} == {
        name: (decision, set(into)) for name, (decision, into) in told.items()
    }
    if rule is not None:
        assert {row.rule for row in report.rows} == {rule}
    assert_same_function(model, folded, tolerance)
    assert_settled(folded)
    return folded


def assert_kept(model: keras.Model, reason: str, layer: str = "bn") -> None:
    """The affine layer stays whole, for this reason among others."""
    (row,) = (row for row in inspect(model).rows if row.layer == layer)
    assert (row.decision, row.into) == ("kept", ())
    assert reason in row.reason


def asked(layer: Any, *shapes: Sequence[int | None], dtype: str = "float64") -> tuple[LayerSpec, Rule]:
    """A call of the layer on tensors of these shapes as rules see it, and its rule."""
    inputs = [keras.Input(shape, dtype=dtype) for shape in shapes]
    model = keras.Model(inputs, layer(inputs if len(inputs) > 1 else inputs[0]))
    node = read(model).nodes[0]
    return node.spec, node.layer.rule
