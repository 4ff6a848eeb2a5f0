"""The layer: its arguments, weights, call and config."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import keras
from keras import constraints, initializers, ops, regularizers

from kbn import arguments, ghost, normalize, renorm, statistics, updating
from kbn.statistics import Moments

# TensorFlow is imported only where it is Keras' backend, and so already is.
_ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
_engine: Any
_layout: Any
_replicas: Any
_engine, _layout, _replicas = (
    import_module(f"kbn.on_tensorflow.{name}") if _ON_TENSORFLOW else None for name in ("engine", "layout", "replicas")
)

# What Keras' layer does not have, with the defaults that make this layer its drop-in.
_OWN_ARGUMENTS = {"pivot": True, "virtual_batch_size": None, "debias": False, "unbiased": False, "freeze": None}


@keras.saving.register_keras_serializable(package="kbn")
class BatchNormalization(keras.layers.Layer):
    """Batch normalization: a drop-in for `keras.layers.BatchNormalization`, faster, and exact where means are large.

        y = gamma * (x - mean) / sqrt(variance + epsilon) + beta

    per channel (Ioffe and Szegedy, 2015, https://arxiv.org/abs/1502.03167). With `training=True` the mean and the
    biased variance are those of the batch, over all axes but `axis`, and the averages follow them:

        moving_mean     <- momentum * moving_mean     + (1 - momentum) * mean
        moving_variance <- momentum * moving_variance + (1 - momentum) * variance

    With `training=False` (the default), and whenever `trainable` is False, they are the averages, and nothing changes.

    A batch that is empty, fully masked, of one element per channel, or whose statistics are not finite changes no average;
    `skipped_batches` counts them.

    Args:
        axis: The channel axis, an integer or a list of one (as tf.keras 2 saved it).
        momentum: How much of the averages stays at each step, from 0 to 1; None makes them the mean of all batches.
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
            TensorFlow only. Without, each replica normalises with its own, and the averages of all replicas follow the
            mean of these, which takes one all-reduce of 3 vectors (inside `tf.cond` or a loop, each follows its own).
        pivot: Whether to subtract a constant near the mean before the statistics are taken, which keeps their precision
            when the mean is large against the standard deviation. Changes nothing else.
        virtual_batch_size: Number of examples in a ghost batch, each of which is normalised with statistics of its own:
            see `kbn.ghost`. None takes the whole batch.
        debias: Whether `moving_mean` and `moving_variance` leave out their initial values from the first batch on,
            instead of forgetting them by and by: see `kbn.averages`. This, like `momentum=None`, adds a weight,
            `moving_weight`.
        unbiased: Whether `moving_variance` follows n / (n - 1) times the batch's variance, as in the paper and PyTorch,
            instead of the biased one, as in Keras 3.
        freeze: `"statistics"` normalises with the averages in training too and changes them no more, while gamma and
            beta train. `"inference"` freezes these as well: `trainable` then stays False, whatever is assigned to a
            model that holds the layer. None freezes nothing.
        **kwargs: Those of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Attributes:
        momentum, freeze: May be assigned. The momentum is a variable, so that a new one takes effect in a training step
            that was compiled before; a change of `freeze`, as one of `trainable`, wants the model compiled again.
        skipped_batches: How many training batches changed no average, since the layer was made; not saved.

    Call arguments:
        inputs: Any rank, any float dtype; integers become floats.
        training: Whether to normalise with the batch's statistics and update the averages.
        mask: Optional, of the rank of the inputs, or one less (all but the last axis), broadcastable to them. Booleans
            or integers: what is False does not count in the statistics; NaN there comes out finite and reaches no
            gradient. Floats are weights, an element of weight 2 counting as two elements; what is not positive and finite
            hides its element. Keras casts them to the compute dtype, so under mixed_float16 they end at 65504.

    Output:
        The shape of the inputs, in the layer's compute dtype. Weights are float32 at least, and statistics are computed
        in float32 at least, whatever the dtype policy.

    Raises:
        ValueError: for arguments out of range or that contradict each other, an `axis` that the inputs do not have,
            channels of unknown number, or a mask that does not broadcast.
    """

    def __init__(
        self,
        axis: Any = -1,
        momentum: float | None = 0.99,
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
        virtual_batch_size: int | None = None,
        debias: bool = False,
        unbiased: bool = False,
        freeze: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._unsaved: Any = None  # updating.Unsaved, once built
        self.axis = arguments.single_axis(axis)
        self._momentum = arguments.fraction_or_none("momentum", momentum)
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
        if synchronized and not _ON_TENSORFLOW:
            raise ValueError("Argument synchronized=True is only supported with the TensorFlow backend.")
        self.synchronized = synchronized
        self.pivot = pivot
        self.virtual_batch_size = arguments.positive_integer("virtual_batch_size", virtual_batch_size)
        if synchronized and self.virtual_batch_size is not None:
            raise ValueError(
                "Arguments `synchronized` and `virtual_batch_size` contradict each other: statistics of all replicas, or "
                f"of few examples. Received: synchronized={synchronized}, virtual_batch_size={virtual_batch_size}"
            )
        self.debias = debias
        self.unbiased = unbiased
        self.supports_masking = True
        self.gamma = None
        self.beta = None
        self._wants_training = self.trainable
        self.freeze = freeze

    @property
    def momentum(self) -> float | None:
        """How much of the averages stays at each step; None where they are the mean of all batches."""
        return self._momentum

    @momentum.setter
    def momentum(self, value: float | None) -> None:
        checked = arguments.fraction_or_none("momentum", value)
        if self._unsaved is not None:
            if (checked is None) is not (self._momentum is None):
                raise ValueError(
                    "A layer that is built cannot change between an exponential average and a cumulative one "
                    f"(momentum=None). Received: momentum={value!r} after momentum={self._momentum!r}"
                )
            self._unsaved.set_momentum(checked)
        self._momentum = checked

    @property
    def freeze(self) -> str | None:
        """What stays as it is while training: None, "statistics" or "inference"."""
        return self._freeze

    @freeze.setter
    def freeze(self, value: str | None) -> None:
        self._freeze = arguments.choice("freeze", value, (None, "statistics", "inference"))
        self._mark_trainable()

    @property
    def trainable(self) -> bool:
        """Whether gamma and beta are trained and the averages follow the batches; False means inference, as in Keras."""
        return bool(self._trainable)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._wants_training = bool(value)
        self._mark_trainable()

    def _mark_trainable(self) -> None:
        # Not an assignment to `self.trainable`: Keras' layers on TensorFlow pass over one of the value that is there.
        keras.layers.Layer.trainable.fset(self, self._wants_training and self._freeze != "inference")

    @property
    def skipped_batches(self) -> int:
        """How many training batches were empty, fully masked, not finite or of one element, and changed no average."""
        return 0 if self._unsaved is None else int(ops.convert_to_numpy(self._unsaved.skipped))

    @property
    def variables(self) -> list[Any]:
        """The weights; on JAX, which hands a compiled function its state as arguments, also what is not saved."""
        unsaved = self._unsaved.variables if keras.backend.backend() == "jax" and self._unsaved is not None else []
        return [*super().variables, *unsaved]

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
        if self.virtual_batch_size is not None and self.axis % rank == 0:
            raise ValueError(
                "Ghost batches divide the first axis, which cannot hold the channels then. "
                f"Received: axis={self.axis}, virtual_batch_size={self.virtual_batch_size}"
            )
        # autocast=False and this dtype keep the state in float32 under low-precision policies: an average of bfloat16
        # stops moving long before it arrives.
        common: dict[str, Any] = {
            "shape": (channels,),
            "dtype": statistics.computing_dtype(self.variable_dtype),
            "autocast": False,
        }
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
        if self._averages_are_weighted:
            self.moving_weight = self.add_weight(name="moving_weight", initializer="zeros", **state)
        self._unsaved = updating.Unsaved(self._momentum, common["dtype"])
        self._mark_trainable()
        self.input_spec = keras.layers.InputSpec(ndim=rank, axes={self.axis: channels})

    def compute_output_shape(self, input_shape: Any) -> Any:
        arguments.check_axis(self.axis, input_shape)
        return input_shape

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if _layout is not None:
            inputs = _layout.with_channels(inputs, self.axis, self.input_spec.ndim, self.moving_mean.shape[0])
        if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(inputs.dtype)):
            inputs = ops.cast(inputs, statistics.computing_dtype(inputs.dtype))
        if mask is not None:
            mask = statistics.align_mask(mask, inputs)
        if training and self.trainable and self.freeze is None:
            outputs, moments = self._train(inputs, mask)
            updating.update(self, moments, _replicas)
        else:
            outputs = self._infer(inputs, mask)
        return ops.cast(outputs, self.compute_dtype)

    def _train(self, x: Any, mask: Any) -> tuple[Any, Moments]:
        batch = statistics.sizes(x)[0]
        size = self.virtual_batch_size
        if isinstance(batch, int) and size is not None and batch <= size:
            size = None
        spans = self.synchronized and _replicas.replica_count() > 1
        synchronise = _replicas.synchronise if spans else None
        gamma, beta, epsilon, axis = self.gamma, self.beta, self.epsilon, self.axis
        plain = mask is None and size is None and not self.renorm and synchronise is None
        if plain and _engine is not None and _engine.trains(x):
            return _engine.train(x, gamma, beta, epsilon, axis, pivot=self.pivot)
        options: dict[str, Any] = {
            "pivot": self.pivot,
            "synchronise": synchronise,
            "correction": self._renorm_correction if self.renorm else None,
        }
        if size is None:
            return normalize.train(x, mask, gamma, beta, epsilon, axis, **options)
        groups, mask = ghost.split(x, mask, size)
        # The groups are a new first axis.
        axis = axis % len(x.shape) + 1
        y, moments = normalize.train(groups, mask, gamma, beta, epsilon, axis, grouped=True, **options)
        return ghost.join(y, x), moments

    def _infer(self, x: Any, mask: Any) -> Any:
        if mask is not None:
            x = statistics.fill_hidden(x, mask, normalize.along(self.moving_mean, self.axis, len(x.shape)))
        engine = normalize if _engine is None else _engine
        return engine.infer(
            x, self.moving_mean, self.moving_variance, self.gamma, self.beta, self.epsilon, axis=self.axis
        )

    def _renorm_correction(self, batch: Moments) -> tuple[Any, Any]:
        return renorm.correction(batch, self.renorm_mean, self.renorm_stddev, self.epsilon, self.renorm_clipping or {})

    @property
    def _averages_are_weighted(self) -> bool:
        return self.debias or self._momentum is None

    def get_config(self) -> dict[str, Any]:
        """Every argument; those that Keras' layer does not have only where they are not the default.

        Keras refuses arguments that it does not know, so its configs and this layer's are interchangeable this way.
        """
        config = {
            **super().get_config(),
            "trainable": self._wants_training,
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
        own = {name: getattr(self, name) for name in _OWN_ARGUMENTS}
        return config | {name: value for name, value in own.items() if value != _OWN_ARGUMENTS[name]}
