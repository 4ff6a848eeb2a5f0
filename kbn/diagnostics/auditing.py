"""The audit: what each batch normalization of a model does, gathered from the model and data without changing the model.

probe      the model is called as by fit, by predict and as model(x): in which mode does each layer run?
sample     all of the data, as while training: what is each layer given?
outputs    all of the data again: as the model is, with each batch's statistics, and with those of the data
rules      findings.py
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops
from keras.src.trainers.data_adapters import array_data_adapter

from kbn import arguments
from kbn.diagnostics.audit_report import AuditReport
from kbn.diagnostics.facts import FEWEST, YARDSTICK, Facts, facts
from kbn.diagnostics.findings import findings
from kbn.diagnostics.outputs import OutputChange, OutputSums
from kbn.diagnostics.surroundings import NONE, surroundings
from kbn.diagnostics.witness import CALLS, Witness
from kbn.observing import CLASSES, Values, calls_replaced, eagerly, restore, state_of, values_of
from kbn.passes import passes


def audit(
    model: Any, data: Any, *, batch_size: int | None = None, steps: int | None = None, seed: int = 0
) -> AuditReport:
    """Looks for what is wrong with the batch normalizations of a model, kbn's and Keras', and changes nothing.

    The data is run through the model eagerly, four times in all. In the first pass each layer normalises with its batch's
    statistics, as while training, so that what is measured is what the moving averages should have come to. A layer's
    averages are stale if they are further from that than the sampling errors of both and than the statistics of a single
    batch; that is wrong if the outputs show it.

    Args:
        model: A model or layer, built; every batch normalization in it is.
        data: Training data, or data like it, as `kbn.recalibrate` takes it, all of it finite. Arrays are shuffled, as batches
            sorted by class are like none in training. No generator: there are two passes. Of up to 3 examples nothing is
            judged that is measured on them.
        batch_size: Examples in a batch while training. None leaves it open, takes 32 as a yardstick, and says nothing of
            batches that are too small.
        steps: Training steps that the averages have seen; None takes those of the model's optimizer, if it has one.
        seed: Of the shuffling.

    Raises:
        ValueError: for a layer that is not built, data without a batch or without an end, a generator, NaN or infinity in the
            data, or a layer inside a compiled function.
    """
    if not isinstance(model, keras.layers.Layer):
        raise ValueError(f"Argument `model` must be a Keras model or layer. Received: model={model!r}")
    batch_size = arguments.positive_integer("batch_size", batch_size)
    steps = arguments.positive_integer("steps", steps)
    if isinstance(data, Iterator):
        raise ValueError(
            "Argument `data` is gone through twice, and this data allows only one pass. Pass arrays, a dataset, or an "
            f"iterable that starts anew. Received: data of type {type(data).__name__}"
        )
    one_pass = _shuffled(data, batch_size or YARDSTICK, seed)
    before = values_of(state_of(model))
    try:
        first = next(iter(one_pass()), None)
        if first is None:
            raise ValueError(f"Argument `data` must hold a batch. Received: data of type {type(data).__name__}")
        witnesses = _probe(model, first, before)
        examples = _sample(model, witnesses, one_pass(), before)
        outputs = _outputs(model, witnesses, one_pass(), before) if examples > FEWEST else ()
    finally:
        restore(before)
    around, names = surroundings(model), _names(model, witnesses)
    iterations = steps if steps is not None else _iterations(model)
    rows = tuple(
        facts(each, around.get(each.layer, NONE), name, batch_size, iterations)
        for each, name in zip(witnesses, names, strict=True)
    )
    found = tuple(finding for row in rows for finding in findings(row, outputs))
    return AuditReport(rows, found, outputs, examples, batch_size, tuple(_notes(rows, batch_size)))


def _shuffled(data: Any, batch_size: int, seed: int) -> Callable[[], Iterator[Any]]:
    """A function that starts a pass; of arrays, over shuffled batches: two at least, and as equal as can be."""
    if any(each is None for each in keras.tree.flatten(data)):
        raise ValueError(f"Argument `data` must be arrays of inputs, or a dataset of batches. Received: {data!r}")
    if not array_data_adapter.can_convert_arrays((data, None, None)):
        start, _ = passes(data, None, batch_size)
        return lambda: map(_finite, start())
    arrays = _finite(keras.tree.map_structure(_array, data))
    count = min((len(each) for each in keras.tree.flatten(arrays)), default=0)
    order = np.random.default_rng(seed).permutation(count)
    parts = max(-(-count // batch_size), min(2, count // 2), 1)

    def start_arrays() -> Iterator[Any]:
        for chosen in np.array_split(order, parts) if count else ():
            yield keras.tree.map_structure(lambda each, chosen=chosen: each[chosen], arrays)

    return start_arrays


def _array(data: Any) -> Any:
    """As Keras takes it in fit(): every float is of the dtype that keras.config.floatx() says."""
    array = ops.convert_to_numpy(data)
    return array.astype(keras.config.floatx()) if array.dtype.kind == "f" else array


def _finite(x: Any) -> Any:
    """What it is given, inputs.

    Raises:
        ValueError: an input holds NaN or infinity.
    """
    inputs = keras.tree.flatten_with_path(x)
    for path, each in inputs:
        array = np.asarray(ops.convert_to_numpy(each))
        if array.dtype.kind in "biuOSUT":
            continue
        wrong = array.size - np.count_nonzero(np.isfinite(array))
        if wrong:
            of = f" of input {'/'.join(map(str, path))}" if len(inputs) > 1 else ""
            raise ValueError(
                "Argument `data` must hold finite numbers alone: repair or leave out what is not. "
                f"Received: {wrong:,} of {array.size:,} numbers{of} are NaN or infinite"
            )
    return x


def _probe(model: Any, x: Any, before: Values) -> list[Witness]:
    """All batch normalizations, in the order of their calls, with the modes in which they run; changes nothing."""
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, CLASSES)]
    for layer in layers:
        if not layer.built:
            raise ValueError(
                f"Layer {layer.name!r} is not built: call the model on data, or load it, before the audit."
            )
    found = [Witness(layer) for layer in layers]
    called: list[Witness] = []
    for how, training in CALLS.items():

        def note(each: Any, given: Any, how: str = how) -> Any:
            called.append(each)
            return each.note(how, given)

        with calls_replaced(list(found), note):
            model(x) if training is None else model(x, training=training)
        restore(before)
    return list(dict.fromkeys([*called, *found]))


def _sample(model: Any, witnesses: list[Witness], batches: Iterator[Any], before: Values) -> int:
    """One pass in which the witnesses take their sample: the number of examples."""
    examples = 0
    for each in witnesses:
        each.stage = "measured"
    for x in batches:
        with calls_replaced(list(witnesses), Witness.observe):
            model(x, training=False)
        examples += len(keras.tree.flatten(x)[0])
    for each in witnesses:
        each.stage = "waiting"
    restore(before)
    return examples


def _outputs(model: Any, witnesses: list[Witness], batches: Iterator[Any], before: Values) -> tuple[OutputChange, ...]:
    """One pass, three times through the model, in which the outputs are compared."""
    new = list(itertools.chain(*(each.averages() for each in witnesses)))
    old = {id(variable): before[id(variable)] for variable, _ in new}
    sums: list[OutputSums] = []
    for x in batches:
        with eagerly():
            now = model(x, training=False)
        restore(old)
        with calls_replaced(list(witnesses), Witness.as_in_training):
            by_batch = model(x, training=False)
        for variable, value in new:
            variable.assign(value)
        with calls_replaced(list(witnesses), Witness.infer):
            recalibrated = model(x, training=False)
        restore(old)
        three = [[ops.convert_to_numpy(each) for each in keras.tree.flatten(y)] for y in (now, by_batch, recalibrated)]
        sums = sums or [OutputSums(name) for name in _output_names(model, len(three[0]))]
        for each, *values in zip(sums, *three, strict=True):
            each.add(*values)
    return tuple(each.result() for each in sums)


def _output_names(model: Any, count: int) -> list[str]:
    outputs = getattr(model, "outputs", None) or []
    names = [output._keras_history.operation.name for output in outputs]
    return names if len(names) == count else [f"output {index}" for index in range(count)]


def _names(model: Any, witnesses: list[Witness]) -> list[str]:
    """The layers' names, or where several have one name, with those of the models that they are in."""
    times = Counter(each.layer.name for each in witnesses)
    paths = dict(reversed(list(_paths(model, ""))))
    return [
        each.layer.name if times[each.layer.name] == 1 else paths.get(each.layer, each.layer.name) for each in witnesses
    ]


def _paths(layer: Any, within: str) -> Iterator[tuple[Any, str]]:
    for inner in layer._flatten_layers(include_self=False, recursive=False):
        yield inner, within + inner.name
        yield from _paths(inner, f"{within}{inner.name}/")


def _iterations(model: Any) -> int | None:
    """The steps that the model's optimizer has made, also those before it was saved."""
    optimizer = getattr(model, "optimizer", None)
    return None if optimizer is None else int(ops.convert_to_numpy(optimizer.iterations))


def _notes(rows: tuple[Facts, ...], batch_size: int | None) -> Iterator[str]:
    """What could not be told, and why."""
    training = [row for row in rows if row.trains]
    if training and batch_size is None:
        yield "The training batch size is not known, so nothing is said of its noise (batch_size=, --batch-size)."
    if any(row.steps is None and not row.initial for row in training):
        yield "How many steps the averages have seen is not known, so nothing is said of the momentum (steps=, --steps)."
    if few := [row.layer for row in rows if 0 < row.examples <= FEWEST]:
        yield f"Too few examples to judge the averages by: {', '.join(few)}. Give more data."
    if unseen := [row.layer for row in rows if not row.examples]:
        yield f"No data reached {', '.join(unseen)}: the model does not call these layers, or not with finite numbers."
