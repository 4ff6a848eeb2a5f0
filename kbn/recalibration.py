"""Population statistics in place of moving averages, once a model is trained.

For one channel and batches of n_i elements with mean m_i and biased variance v_i (law of total variance):

    N        = sum(n_i)
    mean     = sum(n_i * m_i) / N
    variance = sum(n_i * (v_i + (m_i - mean)^2)) / N

A moving average lags behind the weights, and that of the v_i misses what lies between the batches: precise batch
normalization (Wu and Johnson, 2021, https://arxiv.org/abs/2105.07576, section 3) takes these sums instead. Batches are
merged one by one, in float64, from the differences of their means: E[x^2] - mean^2 would cancel.
"""

import contextlib
import functools
import inspect
import itertools
import operator
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import keras
import numpy as np
from keras import ops
from keras.src.random.seed_generator import global_seed_generator
from keras.src.trainers import data_adapters
from keras.src.trainers.data_adapters import array_data_adapter, data_adapter, data_adapter_utils

from kbn import arguments, normalize, statistics
from kbn.batch_normalization import BatchNormalization

_CLASSES = (BatchNormalization, keras.layers.BatchNormalization)
# Variables and their values, by id. On the host: training overwrites, on JAX even deletes, the arrays that hold them.
_Values = dict[int, tuple[Any, Any]]


@dataclass(frozen=True, eq=False)
class Change:
    """The averages of one layer before and after, and the number of elements that they stand for; all (channels,).

    `skipped` calls did not count, for being empty, fully masked or not finite. Channels without elements keep theirs.
    """

    layer: str
    old_mean: Any
    new_mean: Any
    old_variance: Any
    new_variance: Any
    elements: Any
    skipped: int


@dataclass(frozen=True, eq=False)
class Recalibration:
    """What `recalibrate` changed, in the order in which the model calls the layers, and the way back.

    `left_alone` names all other batch normalizations of the model, each with the reason. `steps` is the number of
    batches seen (layer by layer, in each pass), `examples` the number of examples in them.
    """

    changes: tuple[Change, ...]
    left_alone: tuple[tuple[str, str], ...]
    steps: int
    examples: int
    _before: _Values = field(repr=False)

    @property
    def layers(self) -> list[str]:
        """Names of the layers that have new averages."""
        return [change.layer for change in self.changes]

    def undo(self) -> None:
        """Gives every weight that was changed its value from before, bit by bit; called again, does nothing."""
        _restore(self._before)
        self._before.clear()


def recalibrate(
    model: Any,
    data: Any,
    steps: int | None = None,
    *,
    batch_size: int | None = 32,
    layer_by_layer: bool = False,
    verbose: Any = "auto",
) -> Recalibration:
    """Gives the batch normalizations of a model, kbn's and Keras', the statistics of all of `data` as their averages.

    In one pass, each layer normalises every batch with that batch's own statistics, as while training, and all layers
    are measured at once. Layer by layer, in the order in which the model calls them, each has a pass of its own, in
    which those before it use their new averages already: it then gets exactly the population statistics of its inputs
    in the model as inference runs it. (Not so where a layer's later calls depend on its own outputs.)

    The rest of the model runs as in inference, without dropout, and eagerly. All calls of a shared layer count together.
    What a mask hides does not count; sample weights and ghost batches are ignored. A layer is left alone where
    `trainable` is False or `freeze` is set, and where the model runs it in inference mode even while training, as a call
    on the first batch shows. A subclass that overrides `call` is taken to normalise its inputs as they are.

    Written are `moving_mean` and `moving_variance` (with `unbiased=True` N / (N - 1) times the variance), and with
    `renorm` `moving_stddev`, `renorm_mean` and `renorm_stddev`. All other weights and states stay, also `moving_weight`,
    which says how much data the averages hold. After an error or an interrupt, everything is as before.

    Args:
        model: A model or layer; built on the first batch where it is not.
        data: An array, or a list or dictionary of arrays for a model of several inputs; a `tf.data.Dataset`, a
            `keras.utils.PyDataset`, a torch `DataLoader`, a generator or another iterable of batches, each `x`,
            `(x,)`, `(x, y)` or `(x, y, sample_weight)`. Layer by layer, every pass must give the same batches.
        steps: Number of batches to use; None for all.
        batch_size: Examples in a batch where `data` is arrays.
        layer_by_layer: Whether to measure one layer after the other.
        verbose: The progress bar's, as in `fit`: 0 is silent, "auto" is 1.

    Raises:
        ValueError: for data without a batch, without an end, or, layer by layer, for a generator; for a model without a
            layer to recalibrate, or with one inside a compiled function, out of sight.

    Warns:
        UserWarning: where the data ends before `steps`, or no call of a layer was usable.
    """
    if not isinstance(model, keras.layers.Layer):
        raise ValueError(f"Argument `model` must be a Keras model or layer. Received: model={model!r}")
    steps = arguments.positive_integer("steps", steps)
    batch_size = arguments.positive_integer("batch_size", batch_size)
    verbose = arguments.choice("verbose", verbose, ("auto", 0, 1, 2))
    if layer_by_layer and isinstance(data, Iterator):
        raise ValueError(
            "Argument `layer_by_layer=True` takes several passes over the data, and this data allows only one. Pass "
            f"arrays, a dataset, or an iterable that starts anew. Received: data of type {type(data).__name__}"
        )
    one_pass, length = _batches(data, steps, batch_size)
    before = _values(_state(model))
    with contextlib.ExitStack() as passes:
        batches = passes.enter_context(contextlib.closing(one_pass()))
        first = list(itertools.islice(batches, 1))
        if not first:
            raise ValueError(f"Argument `data` must hold a batch. Received: data of type {type(data).__name__}")
        try:
            layers, left_alone = _probe(model, first[0], before)
            groups = [[layer] for layer in layers] if layer_by_layer else [layers]
            bar = keras.utils.Progbar(length and length * len(groups), verbose=1 if verbose == "auto" else verbose)
            examples: list[list[int]] = []  # of each batch, for each pass
            for group in groups:
                examples.append([])
                for each in group:
                    each.stage = "measured"
                for x in itertools.chain(first, batches):
                    with _calls_replaced(layers, _Observed.run):
                        model(x, training=False)
                    examples[-1].append(len(keras.tree.flatten(x)[0]))
                    bar.update(sum(map(len, examples)), finalize=False)
                if len(examples[-1]) != len(examples[0]):
                    raise ValueError(
                        "Argument `data` must give the same batches in every pass. Received: "
                        f"{len(examples[0])} batches in the first pass, {len(examples[-1])} in pass {len(examples)}"
                    )
                first, batches = [], passes.enter_context(contextlib.closing(one_pass()))
                for each in group:
                    each.stage = "settled"
                _restore(before)
                for variable, value in itertools.chain(*(each.averages() for each in layers)):
                    variable.assign(value)
            bar.update(sum(map(len, examples)), finalize=True)
            seen = len(examples[0])
            if steps is not None and seen < steps:
                warnings.warn(f"The data ended after {seen} of {steps} batches; these were used.", stacklevel=2)
            for each in layers:
                if not each.averages():
                    left_alone.append((each.layer.name, f"none of its calls was usable; skipped: {each.skipped}"))
                    warnings.warn("Layer {!r} keeps its averages: {}.".format(*left_alone[-1]), stacklevel=2)
        except BaseException:
            _restore(before)
            raise
    changes = tuple(each.change(before) for each in layers if each.averages())
    undo = {id(variable): before[id(variable)] for each in layers for variable, _ in each.averages()}
    return Recalibration(changes, tuple(left_alone), seen, sum(examples[0]), undo)


def _batches(data: Any, steps: int | None, batch_size: int | None) -> tuple[Any, int | None]:
    """A function that starts a pass over the inputs of each batch, and their number, None where it is unknown."""
    is_dataset, is_indexed = data_adapters.is_tf_dataset(data), isinstance(data, keras.utils.PyDataset)
    is_arrays = array_data_adapter.can_convert_arrays((data, None, None))
    if is_arrays and all(part is None for part in keras.tree.flatten(data)):
        raise ValueError(f"Argument `data` must hold a batch. Received: data={data!r}")
    if is_arrays or is_dataset or is_indexed or data_adapters.is_grain_dataset(data) or not isinstance(data, Iterable):
        adapter = data_adapters.get_data_adapter(data, batch_size=batch_size)
        start, length = adapter.get_numpy_iterator, adapter.num_batches
    else:
        # Keras' adapter for generators refuses bare arrays, and the one for torch takes their rows for x, y and weights.
        adapter, length = data_adapter.DataAdapter(), operator.length_hint(data) or None
        start = functools.partial(data_adapter_utils.get_numpy_iterator, data)
    # tf.data counts -1 where there is no end, and -2 where it does not know.
    if steps is None and ((is_dataset and data.cardinality() == -1) or (is_indexed and length is None)):
        raise ValueError("Argument `steps` must be given where the data has no end. Received: steps=None")

    def one_pass() -> Iterator[Any]:
        adapter.on_epoch_begin()
        try:
            for batch in itertools.islice(start(), steps):
                yield keras.utils.unpack_x_y_sample_weight(batch)[0]
        finally:
            adapter.on_epoch_end()

    return one_pass, min((each for each in (steps, length) if each is not None), default=None)


def _state(model: Any) -> list[Any]:
    """All that a call of the model may change: even trained weights, which SpectralNormalization assigns to."""
    metrics = [variable for layer in model._flatten_layers() for variable in layer.metrics_variables]
    return [*model.variables, *metrics, global_seed_generator().state]


def _values(variables: Iterable[Any]) -> _Values:
    return {id(variable): (variable, ops.convert_to_numpy(variable)) for variable in variables}


def _restore(values: _Values) -> None:
    for variable, value in values.values():
        variable.assign(value)


def _probe(model: Any, x: Any, before: _Values) -> tuple[list["_Observed"], list[tuple[str, str]]]:
    """The layers to recalibrate, in the order of their calls, and the others with the reasons; changes nothing."""
    if not all(layer.built for layer in model._flatten_layers()):
        with _eagerly():
            model(x, training=False)
        before |= _values(_state(model)) | before
    called: list[_Observed] = []

    def note(each: _Observed, given: inspect.BoundArguments) -> Any:
        called.append(each)
        each.modes.append(bool(given.arguments.get("training")))
        return each.infer(given)

    found = [_Observed(layer) for layer in model._flatten_layers() if isinstance(layer, _CLASSES)]
    with _calls_replaced(found, note):
        model(x, training=True)
    _restore(before)
    found = list(dict.fromkeys([*called, *found]))
    left_alone = [(each.layer.name, each.reason) for each in found if each.reason]
    if len(left_alone) == len(found):
        reasons = "; ".join(f"{name} ({reason})" for name, reason in left_alone)
        raise ValueError(f"The model has no batch normalization to recalibrate. Found: {reasons or 'none'}")
    return [each for each in found if not each.reason], left_alone


@contextlib.contextmanager
def _calls_replaced(layers: list["_Observed"], by: Callable[..., Any]) -> Iterator[None]:
    """While inside, `by(layer, arguments)` runs in place of the `call` of each layer."""

    def replacement(each: _Observed) -> Callable[..., Any]:
        each.modes_left = iter(each.modes)
        return lambda *args, **kwargs: by(each, each.signature.bind(*args, **kwargs))

    with _eagerly(), contextlib.ExitStack() as stack:
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
def _eagerly() -> Iterator[None]:
    """Without gradients, and without tf.function: it would keep what it traces in here for the model's later calls."""
    with contextlib.ExitStack() as stack:
        if keras.backend.backend() == "torch":
            stack.enter_context(import_module("torch").no_grad())
        if keras.backend.backend() == "tensorflow":
            config = import_module("tensorflow").config
            stack.callback(config.run_functions_eagerly, config.functions_run_eagerly())
            config.run_functions_eagerly(True)
        yield


class _Observed:
    """A batch normalization of the model, and the statistics of what it was given so far."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.call, self.signature = layer.call, inspect.signature(layer.call)
        self.modes: list[bool] = []  # `training` in each call of a training step, as the probe sees it
        self.modes_left = iter(self.modes)
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

    def infer(self, given: inspect.BoundArguments) -> Any:
        given.arguments["training"] = False
        return self.call(*given.args, **given.kwargs)

    def run(self, given: inspect.BoundArguments) -> Any:
        """In place of `call`: normalises with the batch's own statistics until there are new averages."""
        layer, x, mask = self.layer, given.args[0], given.arguments.get("mask")
        if not next(self.modes_left, True) or (self.stage == "settled" and not given.arguments.get("training")):
            return self.infer(given)
        if mask is not None:
            # Keras' layer takes floats for booleans.
            mask = mask if isinstance(layer, BatchNormalization) else ops.cast(mask, "bool")
            mask = statistics.align_mask(mask, x)
        x = ops.cast(x, normalize.statistics_dtype(x.dtype))
        if not np.any(self.count):
            # The same for all batches: their means then round in proportion to how far they lie apart.
            axes = normalize.reduction_axes(layer.axis, len(x.shape))
            self.pivot = ops.reshape(statistics.pivot_of_batch(x, axes, mask), [-1])
        x = x - normalize.along(self.pivot, layer.axis, len(x.shape))
        y, moments = normalize.train(x, mask, layer.gamma, layer.beta, layer.epsilon, layer.axis)
        if self.stage == "measured":
            self.merge(moments)
        if getattr(self.call, "__func__", None) in [cls.call for cls in _CLASSES]:
            return ops.cast(y, layer.compute_dtype)
        # The call of a subclass may do more, so it runs, with these for averages.
        averages = _values([layer.moving_mean, layer.moving_variance])
        layer.moving_mean.assign(self.pivot + moments.mean)
        layer.moving_variance.assign(moments.variance)
        y = self.infer(given)
        _restore(averages)
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
            shown = variance * count / np.maximum(count - 1, 1)
        mean = self.mean + np.asarray(ops.convert_to_numpy(self.pivot), "float64")
        new = [(layer.moving_mean, mean), (layer.moving_variance, shown)]
        if layer.renorm:
            deviations = (np.sqrt(each + layer.epsilon) for each in (shown, variance))
            new += zip((layer.moving_stddev, layer.renorm_stddev), deviations, strict=True)
            new.append((layer.renorm_mean, mean))
        return [(variable, np.where(count > 0, value, ops.convert_to_numpy(variable))) for variable, value in new]

    def change(self, before: _Values) -> Change:
        variables = [self.layer.moving_mean, self.layer.moving_variance]
        mean, variance = ((before[key][1], new) for key, (_, new) in _values(variables).items())
        return Change(self.layer.name, *mean, *variance, np.broadcast_to(self.count, mean[0].shape), self.skipped)
