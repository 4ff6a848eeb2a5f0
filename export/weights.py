"""Weights that no trained model has: values that are not finite, variances below zero."""

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import BrokenModelError
from .wording import quote

if TYPE_CHECKING:
    import keras

_NUMBER = re.compile(r"_\d+$")  # which Keras gives to a variable that a layer did not name


def check_weights(model: "keras.Model", source: str = "the model") -> None:
    """Raise BrokenModelError if a weight is NaN or infinite, or the moving variance of a batch normalization negative.

    Looks at every layer, nested ones too, and at every layer with a `moving_variance`: Keras', kbn's, or a subclass.
    `source` begins the message: the file the model came from.
    """
    for weight in model.weights:
        _check_finite(weight, source)
    # The only way to layers inside wrappers and composite layers too; `layers` shows those of models alone.
    for layer in model._flatten_layers():
        if getattr(layer, "moving_variance", None) is not None:
            _check_variance(layer, source)


def _check_finite(weight: Any, source: str) -> None:
    values = _values(weight)
    if values.dtype.kind in "biu":
        return
    wrong = values.size - int(np.count_nonzero(np.isfinite(values)))
    if wrong:
        layer, _, name = weight.path.rpartition("/")
        raise BrokenModelError(
            f"{source}: weight {quote(name)} of layer {quote(layer)} holds {wrong} NaN or infinite values of {values.size}. "
            f"Training diverged or the file is damaged: go back to a checkpoint whose loss was finite."
        )


def _check_variance(layer: "keras.Layer", source: str) -> None:
    smallest = float(np.min(_values(layer.moving_variance), initial=0.0))
    if smallest < 0:
        raise BrokenModelError(
            f"{source}: the moving variance of layer {quote(layer.name)} is negative, {smallest:g} at the least; a variance "
            f"cannot be. The statistics were overwritten or the file is damaged: recalibrate them on training data."
        )


def _values(weight: Any) -> "np.ndarray[Any, Any]":
    import keras

    return np.asarray(keras.ops.convert_to_numpy(weight))


def copy_variables(source: "keras.Layer", target: "keras.Layer") -> None:
    """Assigns each variable of one layer or model to its counterpart in another of the same configuration.

    What kbn's normalization has for training alone, and Keras' has no place for, is left out. Raises ValueError where
    they do not hold the same variables in the same order.
    """
    olds, news = (_for_inference(each) for each in (source, target))
    found, made = ([(_NUMBER.sub("", v.name), tuple(v.shape)) for v in each] for each in (olds, news))
    if found != made:
        raise ValueError("it builds other weights than it holds")
    for old, new in zip(olds, news, strict=True):
        new.assign(old)
    finish_loading(target)


def _for_inference(layer: "keras.Layer") -> list[Any]:
    """The variables, but for those that say how much data the averages of a kbn layer hold."""
    from kbn.batch_normalization import BatchNormalization

    normalizations = (each for each in layer._flatten_layers() if isinstance(each, BatchNormalization))
    left_out = {id(getattr(each, "moving_weight", None)) for each in normalizations}
    return [variable for variable in layer.variables if id(variable) not in left_out]


def finish_loading(layer: "keras.Layer") -> None:
    """Lets the layer, and those inside it, derive what they compute with from weights that were assigned to them."""
    from keras.layers import Normalization

    for inner in layer._flatten_layers():
        if isinstance(inner, Normalization):
            inner.finalize_state()
