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
import inspect
import itertools
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import keras

from kbn import arguments
from kbn.observing import CLASSES, Observed, Values, calls_replaced, eagerly, restore, state_of, values_of
from kbn.passes import passes

_NOTHING = object()


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
    _before: Values = field(repr=False)

    @property
    def layers(self) -> list[str]:
        """Names of the layers that have new averages."""
        return [change.layer for change in self.changes]

    def undo(self) -> None:
        """Gives every weight that was changed its value from before, bit by bit; called again, does nothing."""
        restore(self._before)
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
    one_pass, length = passes(data, steps, batch_size)
    before = values_of(state_of(model))
    with contextlib.closing(one_pass()) as batches:
        first = next(batches, _NOTHING)
        if first is _NOTHING:
            raise ValueError(f"Argument `data` must hold a batch. Received: data of type {type(data).__name__}")
        try:
            layers, left_alone = _probe(model, first, before)
            groups = [[layer] for layer in layers] if layer_by_layer else [layers]
            bar = keras.utils.Progbar(length and length * len(groups), verbose=1 if verbose == "auto" else verbose)
            batch_number = itertools.count(1)

            def show() -> None:
                bar.update(next(batch_number), finalize=False)

            examples = _measure(model, layers, groups[0], itertools.chain([first], batches), before, show)
            for group in groups[1:]:
                with contextlib.closing(one_pass()) as again:
                    seen = _measure(model, layers, group, again, before, show)
                if len(seen) != len(examples):
                    raise ValueError(
                        "Argument `data` must give the same batches in every pass. Received: "
                        f"{len(examples)} batches in the first pass, {len(seen)} for layer {group[0].layer.name!r}"
                    )
            bar.update(len(groups) * len(examples), finalize=True)
            if steps is not None and len(examples) < steps:
                warnings.warn(
                    f"The data ended after {len(examples)} of {steps} batches; these were used.", stacklevel=2
                )
            for each in layers:
                if not each.averages():
                    left_alone.append((each.layer.name, f"none of its calls was usable; skipped: {each.skipped}"))
                    warnings.warn("Layer {!r} keeps its averages: {}.".format(*left_alone[-1]), stacklevel=2)
        except BaseException:
            restore(before)
            raise
    changes = tuple(_change(each, before) for each in layers if each.averages())
    undo = {id(variable): before[id(variable)] for each in layers for variable, _ in each.averages()}
    return Recalibration(changes, tuple(left_alone), len(examples), sum(examples), undo)


def _measure(
    model: Any, layers: list[Observed], group: list[Observed], batches: Iterable[Any], before: Values, show: Any
) -> list[int]:
    """One pass, in which the layers of `group` are measured, and get their averages: the examples of each batch."""
    for each in group:
        each.stage = "measured"
    examples = []
    for x in batches:
        with calls_replaced(layers, Observed.run):
            model(x, training=False)
        examples.append(len(keras.tree.flatten(x)[0]))
        show()
    for each in group:
        each.stage = "settled"
    restore(before)
    for variable, value in itertools.chain(*(each.averages() for each in layers)):
        variable.assign(value)
    return examples


def _change(each: Observed, before: Values) -> Change:
    old_mean, new_mean, old_variance, new_variance, elements = each.moved(before)
    return Change(each.layer.name, old_mean, new_mean, old_variance, new_variance, elements, each.skipped)


def _probe(model: Any, x: Any, before: Values) -> tuple[list[Observed], list[tuple[str, str]]]:
    """The layers to recalibrate, in the order of their calls, and the others with the reasons; changes nothing."""
    if not all(layer.built for layer in model._flatten_layers()):
        with eagerly():
            model(x, training=False)
        before |= values_of(state_of(model)) | before
    called: list[Observed] = []

    def note(each: Observed, given: inspect.BoundArguments) -> Any:
        called.append(each)
        each.modes.append(bool(given.arguments.get("training")))
        return each.infer(given)

    found = [Observed(layer) for layer in model._flatten_layers() if isinstance(layer, CLASSES)]
    with calls_replaced(found, note):
        model(x, training=True)
    restore(before)
    found = list(dict.fromkeys([*called, *found]))
    left_alone = [(each.layer.name, each.reason) for each in found if each.reason]
    if len(left_alone) == len(found):
        reasons = "; ".join(f"{name} ({reason})" for name, reason in left_alone)
        raise ValueError(f"The model has no batch normalization to recalibrate. Found: {reasons or 'none'}")
    return [each for each in found if not each.reason], left_alone
