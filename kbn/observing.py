"""The batch normalizations of a model, observed while it runs: what each is given, and the statistics of it.

In place of a layer's `call` runs a function that may note, measure and answer in its own way; the model around it is run
eagerly and keeps nothing of that.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from typing import Any, TypeVar

import keras
import numpy as np
from keras import ops
from keras.src.random.seed_generator import global_seed_generator

from kbn import normalize, statistics
from kbn.batch_normalization import BatchNormalization

CLASSES = (BatchNormalization, keras.layers.BatchNormalization)
# Variables and their values, by id. On the host: training overwrites, on JAX even deletes, the arrays that hold them.
Values = dict[int, tuple[Any, Any]]


def values_of(variables: Iterable[Any]) -> Values:
    return {id(variable): (variable, ops.convert_to_numpy(variable)) for variable in variables}


def state_of(model: Any) -> list[Any]:
    """All that a call of the model may change: even trained weights, which SpectralNormalization assigns to."""
    metrics = [variable for layer in model._flatten_layers() for variable in layer.metrics_variables]
    return [*model.variables, *metrics, global_seed_generator().state]


def restore(values: Values) -> None:
    for variable, value in values.values():
        variable.assign(value)


class Called:
    """A layer, or an operation, of the model, and the `call` that it has."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.call, self.signature = layer.call, inspect.signature(layer.call)
        self.modes: list[bool] = []  # `training` in each call of a training step, as the probe sees it
        self.modes_left = iter(self.modes)

    def infer(self, given: inspect.BoundArguments) -> Any:
        given.arguments["training"] = False
        return self.call(*given.args, **given.kwargs)


_Replaced = TypeVar("_Replaced", bound=Called)


@contextlib.contextmanager
def calls_replaced(
    layers: Sequence[_Replaced], by: Callable[[_Replaced, inspect.BoundArguments], Any]
) -> Iterator[None]:
    """While inside, `by(layer, arguments)` runs in place of the `call` of each layer."""

    def replacement(each: _Replaced) -> Callable[..., Any]:
        each.modes_left = iter(each.modes)
        return lambda *args, **kwargs: by(each, each.signature.bind(*args, **kwargs))

    with eagerly(), contextlib.ExitStack() as stack:
        for each in layers:
            # Not by setattr: Keras would search the value for weights to track.
            own = vars(each.layer)
            if "call" in own:
                stack.callback(own.update, call=own["call"])
            else:
                stack.callback(own.pop, "call", None)
            own["call"] = replacement(each)
        yield


@contextlib.contextmanager
def eagerly() -> Iterator[None]:
    """Without gradients, and without tf.function: it would keep what it traces in here for the model's later calls.

    On PyTorch, where layers without a seed of their own draw from its global generators, those are left as they were.
    """
    with contextlib.ExitStack() as stack:
        if keras.backend.backend() == "torch":
            torch = import_module("torch")
            stack.enter_context(torch.no_grad())
            devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
            stack.enter_context(torch.random.fork_rng(devices))
        if keras.backend.backend() == "tensorflow":
            config = import_module("tensorflow").config
            stack.callback(config.run_functions_eagerly, config.functions_run_eagerly())
            config.run_functions_eagerly(True)
        yield


class Observed(Called):
    """A batch normalization of the model, and the statistics of what it was given so far."""

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        self.stage = "waiting"  # then "measured", in the pass in which it is, and "settled", with its new averages
        self.skipped = 0
        self.count: Any = 0.0
        self.pivot: Any = None
        self.mean: Any = 0.0  # of the differences from the pivot
        self.squares: Any = 0.0  # sum of the squares of the differences from the mean

    @property
    def reason(self) -> str:
        """Why the layer is to be left alone; empty where it is not."""
        if isinstance(self.layer, BatchNormalization) and self.layer.freeze is not None:
            return f"freeze={self.layer.freeze!r}"
        if not self.layer.trainable:
            return "trainable=False"
        if not self.modes:
            return "the model does not call it"
        return "" if any(self.modes) else "the model runs it in inference mode even while training"

    def run(self, given: inspect.BoundArguments) -> Any:
        """In place of `call`: normalises with the batch's own statistics until there are new averages."""
        layer, x, mask = self.layer, given.args[0], given.arguments.get("mask")
        if not next(self.modes_left, True) or (self.stage == "settled" and not given.arguments.get("training")):
            return self.infer(given)
        if mask is not None:
            # Keras' layer takes floats for booleans.
            mask = mask if isinstance(layer, BatchNormalization) else ops.cast(mask, "bool")
            mask = statistics.align_mask(mask, x)
        x = ops.cast(x, statistics.computing_dtype(x.dtype))
        if not np.any(self.count):
            # The same for all batches: their means then round in proportion to how far they lie apart.
            axes = normalize.reduction_axes(layer.axis, len(x.shape))
            self.pivot = ops.reshape(statistics.pivot_of_batch(x, axes, mask), [-1])
        x = x - normalize.along(self.pivot, layer.axis, len(x.shape))
        y, moments = normalize.train(x, mask, layer.gamma, layer.beta, layer.epsilon, layer.axis)
        if self.stage == "measured":
            self.merge(moments)
        if getattr(self.call, "__func__", None) in [cls.call for cls in CLASSES]:
            return ops.cast(y, layer.compute_dtype)
        # The call of a subclass may do more, so it runs, with these for averages.
        averages = values_of([layer.moving_mean, layer.moving_variance])
        layer.moving_mean.assign(self.pivot + moments.mean)
        layer.moving_variance.assign(moments.variance)
        y = self.infer(given)
        restore(averages)
        return y

    def merge(self, moments: statistics.Moments) -> None:
        try:
            mean, variance, count = (np.asarray(ops.convert_to_numpy(part), "float64") for part in moments)
        except (NotImplementedError, TypeError) as error:
            raise ValueError(
                f"Layer {self.layer.name!r} is called inside a compiled function (jax.jit, a scan, a vectorized map), where "
                "its inputs are out of sight; recalibration needs it to run eagerly"
            ) from error
        # No variance is negative, so an infinite one cancels no infinite mean without leaving NaN.
        if not (np.isfinite(mean + variance).all() and count.any()):
            self.skipped += 1
            return
        total = self.count + count
        share, step = count / np.where(total > 0, total, 1), mean - self.mean
        self.squares = self.squares + count * variance + self.count * share * step**2
        self.mean = self.mean + share * step
        self.count = total

    def averages(self) -> list[tuple[Any, Any]]:
        """The variables to write, with their new values; none where no call was usable."""
        layer, count = self.layer, self.count
        if not np.any(count):
            return []
        shown = variance = self.squares / np.where(count > 0, count, 1)
        if isinstance(layer, BatchNormalization) and layer.unbiased:
            shown = variance * np.where(count > 1, count / np.where(count > 1, count - 1, 1), 1)
        mean = self.mean + np.asarray(ops.convert_to_numpy(self.pivot), "float64")
        new = [(layer.moving_mean, mean), (layer.moving_variance, shown)]
        if layer.renorm:
            deviations = (np.sqrt(each + layer.epsilon) for each in (shown, variance))
            new += zip((layer.moving_stddev, layer.renorm_stddev), deviations, strict=True)
            new.append((layer.renorm_mean, mean))
        return [(variable, np.where(count > 0, value, ops.convert_to_numpy(variable))) for variable, value in new]

    def moved(self, before: Values) -> tuple[Any, ...]:
        """Old and new mean, old and new variance, and the elements that the new ones stand for; all (channels,)."""
        variables = [self.layer.moving_mean, self.layer.moving_variance]
        mean, variance = ((before[key][1], new) for key, (_, new) in values_of(variables).items())
        return *mean, *variance, np.broadcast_to(self.count, mean[0].shape)
