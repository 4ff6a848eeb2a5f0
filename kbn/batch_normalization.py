"""The layer: its arguments, weights, call and config."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import keras
from keras import constraints, initializers, ops, regularizers

from kbn import arguments, averages, normalize, renorm, statistics
from kbn.statistics import Moments

# TensorFlow is imported only where it is Keras' backend, and so already is.
_fused: Any = import_module("kbn.fused") if keras.backend.backend() == "tensorflow" else None


@keras.saving.register_keras_serializable(package="kbn")
class BatchNormalization(keras.layers.Layer):
    """Batch normalization: a drop-in for `keras.layers.BatchNormalization`, faster, and exact where means are large.

        y = gamma * (x - mean) / sqrt(variance + epsilon) + beta

    per channel (Ioffe and Szegedy, 2015, https://arxiv.org/abs/1502.03167). With `training=True` the mean and the
    biased variance are those of the batch, over all axes but `axis`, and the averages follow them:

        moving_mean     <- momentum * moving_mean     + (1 - momentum) * mean
        moving_variance <- momentum * moving_variance + (1 - momentum) * variance

    With `training=False` (the default), and whenever `trainable` is False, they are the averages, and nothing changes.

    A batch that is empty, fully masked or not finite changes no average. On TensorFlow the fused kernel does the work
    wherever it can: no mask, no float64, no renormalization, no synchronization over several replicas.

    Args:
        axis: The channel axis, an integer or a list of one (as tf.keras 2 saved it).
        momentum: How much of the averages stays at each step, from 0 to 1.
        epsilon: Added to the variance; not negative.
        center: Whether there is a `beta`; without, it is 0.
        scale: Whether there is a `gamma`; without, it is 1.
        beta_initializer, gamma_initializer, moving_mean_initializer, moving_variance_initializer: Initial weights.
        beta_regularizer, gamma_regularizer: Optional penalties.
        beta_constraint, gamma_constraint: Optional projections after each update.
        renorm: Whether to use batch renormalization (Ioffe, 2017, https://arxiv.org/abs/1702.03275), which corrects the
            batch's statistics towards averages while training: see `kbn.renorm`. It adds three weights.
        renorm_clipping: Optional limits of that correction: a dictionary with any of `"rmax"`, `"rmin"`, `"dmax"`.
        renorm_momentum: Momentum of the averages that the correction uses.
        synchronized: Whether the statistics are those of all replicas of a `tf.distribute` strategy together.
            TensorFlow only.
        pivot: Whether to subtract a constant near the mean before the statistics are taken, which keeps their precision
            when the mean is large against the standard deviation. Changes nothing else.
        **kwargs: Those of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: Any rank from 2 up, any float dtype; integers become floats.
        training: Whether to normalise with the batch's statistics and update the averages.
        mask: Optional booleans of the rank of the inputs, or one less (all but the last axis), broadcastable to them.
            False marks what does not count in the statistics; NaN there comes out finite and reaches no gradient.

    Output:
        The shape of the inputs, in the layer's compute dtype. Weights are float32 at least, and statistics are computed
        in float32 at least, whatever the dtype policy.

    Raises:
        ValueError: for arguments out of range, an `axis` that the inputs do not have, channels of unknown number, or a
            mask of another rank.
    """

    def __init__(
        self,
        axis: Any = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        moving_mean_initializer: Any = "zeros",
        moving_variance_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        renorm: bool = False,
        renorm_clipping: Mapping[str, float] | None = None,
        renorm_momentum: float = 0.99,
        synchronized: bool = False,
        pivot: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.axis = arguments.single_axis(axis)
        self.momentum = arguments.fraction("momentum", momentum)
        self.epsilon = arguments.non_negative("epsilon", epsilon)
        self.center = center
        self.scale = scale
        self.beta_initializer = initializers.get(beta_initializer)
        self.gamma_initializer = initializers.get(gamma_initializer)
        self.moving_mean_initializer = initializers.get(moving_mean_initializer)
        self.moving_variance_initializer = initializers.get(moving_variance_initializer)
        self.beta_regularizer = regularizers.get(beta_regularizer)
        self.gamma_regularizer = regularizers.get(gamma_regularizer)
        self.beta_constraint = constraints.get(beta_constraint)
        self.gamma_constraint = constraints.get(gamma_constraint)
        self.renorm = renorm
        self.renorm_clipping = arguments.clipping(renorm_clipping) if renorm else renorm_clipping
        self.renorm_momentum = arguments.fraction("renorm_momentum", renorm_momentum)
        if synchronized and _fused is None:
            raise ValueError("Argument synchronized=True is only supported with the TensorFlow backend.")
        self.synchronized = synchronized
        self.pivot = pivot
        self.supports_masking = True
        self.gamma = None
        self.beta = None

    def build(self, input_shape: Any) -> None:
        """Makes the weights, in Keras' order and with Keras' names, each (channels,)."""
        rank = len(input_shape)
        arguments.check_axis(self.axis, input_shape)
        channels = input_shape[self.axis]
        if channels is None:
            raise ValueError(
                "The channel axis of the inputs must have a known size. "
                f"Received: axis={self.axis}, input_shape={tuple(input_shape)}"
            )
        # autocast=False and this dtype keep the state in float32 under low-precision policies: an average of bfloat16
        # stops moving long before it arrives.
        common = {"shape": (channels,), "dtype": normalize.statistics_dtype(self.variable_dtype), "autocast": False}
        if self.scale:
            self.gamma = self.add_weight(
                name="gamma",
                initializer=self.gamma_initializer,
                regularizer=self.gamma_regularizer,
                constraint=self.gamma_constraint,
                **common,
            )
        if self.center:
            self.beta = self.add_weight(
                name="beta",
                initializer=self.beta_initializer,
                regularizer=self.beta_regularizer,
                constraint=self.beta_constraint,
                **common,
            )
        state = {**common, "trainable": False}
        mean, variance = self.moving_mean_initializer, self.moving_variance_initializer
        self.moving_mean = self.add_weight(name="moving_mean", initializer=mean, **state)
        self.moving_variance = self.add_weight(name="moving_variance", initializer=variance, **state)
        if self.renorm:

            def stddev(shape: Any, dtype: Any = None) -> Any:
                return ops.sqrt(arguments.clone(variance)(shape, dtype=dtype))

            self.moving_stddev = self.add_weight(name="moving_stddev", initializer=stddev, **state)
            self.renorm_mean = self.add_weight(name="renorm_mean", initializer=arguments.clone(mean), **state)
            self.renorm_stddev = self.add_weight(name="renorm_stddev", initializer=stddev, **state)
        self.input_spec = keras.layers.InputSpec(ndim=rank, axes={self.axis: channels})

    def compute_output_shape(self, input_shape: Any) -> Any:
        arguments.check_axis(self.axis, input_shape)
        return input_shape

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if _fused is not None:
            inputs = _fused.with_channels(inputs, self.axis, self.input_spec.ndim, self.moving_mean.shape[0])
        if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(inputs.dtype)):
            inputs = ops.cast(inputs, normalize.statistics_dtype(inputs.dtype))
        if mask is not None:
            mask = statistics.align_mask(mask, inputs)
        if training and self.trainable:
            outputs, moments = self._train(inputs, mask)
            self._update_averages(moments)
        else:
            outputs = self._infer(inputs, mask)
        return ops.cast(outputs, self.compute_dtype)

    def _train(self, x: Any, mask: Any) -> tuple[Any, Moments]:
        plain = mask is None and not self.renorm and not self._spans_replicas()
        if plain and _fused is not None and _fused.applies(x):
            return _fused.train(x, self.gamma, self.beta, self.epsilon, self.axis, pivot=self.pivot)
        return normalize.train(
            x,
            mask,
            self.gamma,
            self.beta,
            self.epsilon,
            self.axis,
            pivot=self.pivot,
            synchronized=self.synchronized,
            correction=self._renorm_correction if self.renorm else None,
        )

    def _infer(self, x: Any, mask: Any) -> Any:
        if mask is not None:
            x = statistics.fill_hidden(x, mask, normalize.along(self.moving_mean, self.axis, len(x.shape)))
        engine = _fused if _fused is not None and _fused.applies(x) else normalize
        return engine.infer(
            x, self.moving_mean, self.moving_variance, self.gamma, self.beta, self.epsilon, axis=self.axis
        )

    def _spans_replicas(self) -> bool:
        return self.synchronized and statistics.replica_count() > 1

    def _renorm_correction(self, batch: Moments) -> tuple[Any, Any]:
        return renorm.correction(batch, self.renorm_mean, self.renorm_stddev, self.epsilon, self.renorm_clipping or {})

    def _update_averages(self, batch: Moments) -> None:
        usable = averages.usable(batch)

        def update(average: Any, value: Any, momentum: float) -> Any:
            new = averages.follow(average, value, momentum, usable)
            average.assign(new)
            return new

        update(self.moving_mean, batch.mean, self.momentum)
        if not self.renorm:
            update(self.moving_variance, batch.variance, self.momentum)
            return
        stddev = ops.sqrt(batch.variance + self.epsilon)
        update(self.renorm_mean, batch.mean, self.renorm_momentum)
        update(self.renorm_stddev, stddev, self.renorm_momentum)
        stddev = update(self.moving_stddev, stddev, self.momentum)
        # Rounding may take the square just below epsilon.
        variance = ops.maximum(ops.square(stddev) - self.epsilon, 0.0)
        self.moving_variance.assign(ops.where(usable, variance, ops.convert_to_tensor(self.moving_variance)))

    def get_config(self) -> dict[str, Any]:
        """Every argument; `pivot`, which Keras' layer does not have, only where it is not the default."""
        config = {
            **super().get_config(),
            "axis": self.axis,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "center": self.center,
            "scale": self.scale,
            "beta_initializer": initializers.serialize(self.beta_initializer),
            "gamma_initializer": initializers.serialize(self.gamma_initializer),
            "moving_mean_initializer": initializers.serialize(self.moving_mean_initializer),
            "moving_variance_initializer": initializers.serialize(self.moving_variance_initializer),
            "beta_regularizer": regularizers.serialize(self.beta_regularizer),
            "gamma_regularizer": regularizers.serialize(self.gamma_regularizer),
            "beta_constraint": constraints.serialize(self.beta_constraint),
            "gamma_constraint": constraints.serialize(self.gamma_constraint),
            "synchronized": self.synchronized,
            "renorm": self.renorm,
            "renorm_clipping": self.renorm_clipping,
            "renorm_momentum": self.renorm_momentum,
        }
        # Keras refuses arguments that it does not know, so its configs and this layer's are interchangeable this way.
        return config if self.pivot else {**config, "pivot": False}
