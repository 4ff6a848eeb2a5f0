"""A batch normalization that is watched: the modes in which a model runs it, and a sample of what it is given."""

import inspect
from typing import Any

import numpy as np
from keras import ops

from kbn import normalize, statistics
from kbn.diagnostics.sampling import Population, Sample
from kbn.observing import Observed

# How a model is called: by fit, by predict and evaluate, and as model(x).
CALLS: dict[str, bool | None] = {"fit": True, "predict": False, "call": None}


class Witness(Observed):
    """What is seen of one layer.

    Attributes:
        trains: for each of CALLS, whether the model then runs the layer with the batch's statistics, updating its averages.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        self.trains = dict.fromkeys(CALLS, False)
        self._sample = Sample(layer.moving_mean.shape[0])
        self._centre: Any = None

    def note(self, how: str, given: inspect.BoundArguments) -> Any:
        """In place of `call`, in the probe: notes the mode, changes nothing."""
        training = bool(given.arguments.get("training"))
        if how == "fit":
            self.modes.append(training)
        frozen = not self.layer.trainable or getattr(self.layer, "freeze", None) is not None
        self.trains[how] |= training and not frozen
        return self.infer(given)

    def observe(self, given: inspect.BoundArguments) -> Any:
        """In place of `call`: runs as while training, and adds the inputs to the sample."""
        y = self.as_in_training(given)
        self._add(given.args[0], given.arguments.get("mask"))
        return y

    def as_in_training(self, given: inspect.BoundArguments) -> Any:
        return self.infer(given) if self.reason else self.run(given)

    def population(self) -> Population | None:
        """The statistics of what the layer was given; None where that was nothing usable."""
        if not self._sample.examples:
            return None
        return self._sample.population(self._centre, len(self.modes))

    def _add(self, x: Any, mask: Any) -> None:
        axis, rank = self.layer.axis, len(x.shape)
        axis = axis[0] if isinstance(axis, list | tuple) else axis
        if mask is not None:
            if not hasattr(self.layer, "freeze"):  # Keras' layer takes floats for booleans
                mask = ops.cast(mask, "bool")
            mask = statistics.align_mask(mask, x)
        x = ops.cast(x, statistics.computing_dtype(x.dtype))
        if self._centre is None:
            pivot = statistics.pivot_of_batch(x, normalize.reduction_axes(axis, rank), mask)
            self._centre = ops.convert_to_numpy(ops.reshape(pivot, [-1]))
        x = x - normalize.along(ops.cast(self._centre, x.dtype), axis, rank)
        if mask is None:
            valid, weights = ops.ones_like(x, dtype="bool"), ops.ones_like(x)
        else:
            valid = ops.broadcast_to(statistics.is_valid(mask), ops.shape(x))
            weights = ops.broadcast_to(ops.cast(mask, x.dtype), ops.shape(x))
            x = ops.where(valid, x, ops.zeros_like(x))
        x, valid, weights = (_examples(part, axis) for part in (x, valid, weights))
        limit = ops.full_like(x, np.inf)
        low, high = ops.min(ops.where(valid, x, limit), (0, 1)), ops.max(ops.where(valid, x, -limit), (0, 1))
        sums = (ops.sum(part, 1) for part in (weights, weights * x, weights * ops.square(x)))
        try:
            self._sample.add(*(ops.convert_to_numpy(part) for part in (*sums, low, high)))
        except (NotImplementedError, TypeError) as error:
            raise ValueError(
                f"Layer {self.layer.name!r} is called inside a compiled function (jax.jit, a scan, a vectorized map), where "
                "its inputs are out of sight; an audit needs it to run eagerly"
            ) from error


def _examples(x: Any, axis: int) -> Any:
    """(examples, elements of each, channels)"""
    x = ops.moveaxis(x, axis, -1)
    return ops.reshape(x, (ops.shape(x)[0], -1, ops.shape(x)[-1]))
