"""A training step of a layer's averages: from the moments of a batch to the weights that inference takes.

    moments of ghost batches -> their mean -> the mean over replicas -> may they be followed? -> each average

The algebra of each arrow is in `kbn.averages`; here it meets the layer's variables.
"""

from typing import Any

import keras
from keras import ops

from kbn import averages
from kbn.statistics import Moments, clip


def update(layer: Any, moments: Moments, replicas: Any) -> None:
    """Moves the averages of a `kbn.BatchNormalization` towards the moments of a batch.

    Args:
        layer: built.
        moments: (channels,) each, or (groups, channels).
        replicas: `kbn.on_tensorflow.replicas`, or None on another backend.
    """
    apart = replicas is not None and not layer.synchronized and replicas.replica_count() > 1

    def of_all(moments: Moments) -> tuple[Moments, Any]:
        """What is followed, over ghost batches and replicas, each (channels,); and whether it may be."""
        if len(moments.mean.shape) == 2:
            moments = averages.mean_of_groups(moments)
        usable = averages.usable(moments)
        if apart:
            moments = replicas.mean_of(moments, usable)
            usable = averages.usable(moments)
        return moments, usable

    shown, usable = of_all(averages.unbiased(moments) if layer.unbiased else moments)
    batch = of_all(moments)[0] if layer.unbiased and layer.renorm else shown
    layer._unsaved.count_skipped(usable)
    momentum = layer._unsaved.momentum_now()
    keep, rate = momentum, None if momentum is None else 1.0 - momentum
    if layer.debias or momentum is None:
        weight = ops.convert_to_tensor(layer.moving_weight)
        after = averages.weight_after(weight, momentum)
        layer.moving_weight.assign(ops.where(usable, after, weight))
        rate = averages.rate_of_weighted(after, momentum)
        keep = 1.0 - rate

    def follow(average: Any, value: Any, keep: Any = keep, rate: Any = rate) -> Any:
        new = averages.follow(ops.convert_to_tensor(average), value, keep, rate, usable)
        average.assign(new)
        return new

    follow(layer.moving_mean, shown.mean)
    if not layer.renorm:
        follow(layer.moving_variance, shown.variance)
        return
    correcting = (layer.renorm_momentum, 1.0 - layer.renorm_momentum)
    follow(layer.renorm_mean, batch.mean, *correcting)
    follow(layer.renorm_stddev, ops.sqrt(batch.variance + layer.epsilon), *correcting)
    stddev = follow(layer.moving_stddev, ops.sqrt(shown.variance + layer.epsilon))
    # Rounding may take the square just below epsilon.
    variance = clip(ops.square(stddev) - layer.epsilon, 0.0)
    layer.moving_variance.assign(ops.where(usable, variance, ops.convert_to_tensor(layer.moving_variance)))


class Unsaved:
    """State of a layer that is no weight: it is not saved, and Keras' layer has no place for it.

    A plain object, so that Keras does not track what it holds.
    """

    def __init__(self, momentum: float | None, dtype: str) -> None:
        # Of initializers and shapes, not of values: Keras may build a layer where no value can be made yet.
        common: dict[str, Any] = {"shape": (), "trainable": False, "autocast": False}
        self._momentum = None
        if momentum is not None:
            start = keras.initializers.Constant(momentum)
            self._momentum = keras.Variable(start, dtype=dtype, name="momentum", **common)
        # Of Keras' own integer: TensorFlow keeps an int32 on the host, out of reach for what XLA compiles for a GPU.
        self.skipped = keras.Variable("zeros", dtype="int", name="skipped_batches", **common)

    @property
    def variables(self) -> list[Any]:
        return [self.skipped] if self._momentum is None else [self._momentum, self.skipped]

    def set_momentum(self, value: float | None) -> None:
        if self._momentum is not None:
            self._momentum.assign(value)

    def momentum_now(self) -> Any:
        """The momentum as a scalar tensor, or None where there is none."""
        return None if self._momentum is None else ops.convert_to_tensor(self._momentum)

    def count_skipped(self, usable: Any) -> None:
        """Counts a batch of which no channel is usable."""
        any_usable = ops.any(usable) if len(usable.shape) else usable
        skipped = ops.cast(ops.logical_not(any_usable), self.skipped.dtype)
        self.skipped.assign(ops.convert_to_tensor(self.skipped) + skipped)
