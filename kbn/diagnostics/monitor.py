"""The callback: when `fit` calls it, it takes a sample of the probe where one is due."""

import contextlib
import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from keras.src.backend import compute_output_spec
from keras.src.trainers.data_adapters import array_data_adapter

from kbn import arguments
from kbn.batch_normalization import BatchNormalization
from kbn.diagnostics.averages_seen import AveragesSeen
from kbn.diagnostics.event_files import EventFiles
from kbn.diagnostics.pacing import Pacing
from kbn.diagnostics.points import Point, listed
from kbn.diagnostics.probing import Probe
from kbn.diagnostics.record import ShiftRecord, checked_path
from kbn.diagnostics.showing import Showing
from kbn.diagnostics.watching import Place, Watch


class ShiftMonitor(keras.callbacks.Callback, Showing):
    """Records how the distributions inside a model shift while it trains, per layer and channel, on a fixed probe.

        monitor = kbn.diagnostics.ShiftMonitor(x_train[:128])
        model.fit(x_train, y_train, callbacks=[monitor])
        monitor.plot("drift", "drift.png")
        monitor.report("shift.html")

    Watched are all batch normalizations, kbn's and Keras', in nested and subclassed models too; or, in a model without any,
    its activations, at whose inputs batch normalization would stand. Recorded are the moments before and after each and after
    the activation that follows; how they differ between the batches of the probe; what training makes otherwise than
    inference; the share of elements at which the activation is flat; and how much data the averages hold. What is made of
    these, `kbn.diagnostics.measures` defines.

    The probe runs with each batch's own statistics, as a training step has them, and the rest of the model as in inference,
    without dropout. It changes nothing: weights, averages, seeds and metrics end as they would without the monitor. (State that
    a layer keeps outside of Keras' variables is out of its sight.)

    An activation is found where it is a layer, or an operation of a functional model, that takes the output of batch
    normalization as it is, or its sum with other tensors. One that a subclassed model calls as a function is not seen.

    Args:
        probe: An array of inputs, (examples, ...), all finite; of a model with several inputs a list or dictionary of arrays,
            as `fit` takes them. It is cut into batches, and what is left over is not used. A model that is not built yet when
            training begins is built for inputs of its shape.
        batch_size: Examples in a batch; best as in `fit`, since batches vary the more the smaller they are. Of batches of one
            example whose output is constant, the gaps are NaN or infinite.
        every: Steps from one sample to the next; None goes by `budget`.
        budget: The monitor's time as a share of what training takes without it, above 0. Whatever it costs, there is a
            sample before the first step, whose probe is compiled, and one after the last.
        layers: Names of the layers to watch, batch normalizations or activations; None chooses as above.
        path: Where to keep the record, an .npz file, after each epoch; `ShiftRecord.load` reads it.
        log_dir: A folder for TensorBoard; needs TensorFlow, whatever the backend.
        keep: Samples to keep, at least 4. When there are more, every second is dropped and they are taken half as often.

    Attributes:
        record: The `ShiftRecord`; None before training began. A later `fit` goes on with it.

    Raises:
        ValueError: for arguments out of range; when training begins, for a probe that the model does not take, or a model with
            nothing to watch, or another one than before.
        ImportError: `log_dir` is given and TensorFlow is not there.
        OSError: the folder `log_dir` cannot be made or written to.
    """

    def __init__(
        self,
        probe: Any,
        *,
        batch_size: int = 32,
        every: int | None = None,
        budget: float = 0.04,
        layers: Sequence[str] | None = None,
        path: str | os.PathLike[str] | None = None,
        log_dir: str | os.PathLike[str] | None = None,
        keep: int = 100,
    ) -> None:
        super().__init__()
        self._batch_size = arguments.positive_integer("batch_size", batch_size) or 32
        self._batches = _cut(probe, self._batch_size)
        every = arguments.positive_integer("every", every)
        if not (isinstance(budget, int | float) and budget > 0):
            raise ValueError(f"Argument `budget` must be a number above 0. Received: budget={budget!r}")
        self._keep = arguments.positive_integer("keep", keep) or 0
        if self._keep < 4:
            raise ValueError(f"Argument `keep` must be an integer of at least 4. Received: keep={keep!r}")
        if isinstance(layers, str):
            raise ValueError(f"Argument `layers` must be a list of names. Received: layers={layers!r}")
        self._layers = None if layers is None else list(layers)
        self._path = None if path is None else checked_path(path)
        self._events = None if log_dir is None else EventFiles(log_dir)
        self._pacing = Pacing(every, float(budget))
        self._step = self._epoch_start = self._seen_step = 0
        self._places: list[Place] = []
        self._probe: Any = None  # a Probe, once training has begun
        self._state: list[Any] = []  # of the model, when its points were found
        self._seen: list[AveragesSeen] = []
        self._skipped: list[int] = []
        self.record: ShiftRecord | None = None

    @property
    def _shown(self) -> ShiftRecord:
        if self.record is None:
            raise ValueError("The monitor has recorded nothing yet: pass it to `fit` as a callback, then plot.")
        return self.record

    def on_train_begin(self, logs: Any = None) -> None:
        self._pacing.begin()
        with self._pacing.working():
            self._prepare(self.model)  # on JAX, Keras syncs the model's variables where it is asked for
        if self.record is None or len(self.record) == 0 or self.record.steps[-1] != self._step:
            self._sample()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch_start = self._step

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # With `steps_per_execution` this is the last batch of several.
        self._step = self._epoch_start + batch + 1
        if self._pacing.due(self._step):
            self._sample()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self._path is not None:
            with self._pacing.working():
                self._save()

    def on_train_end(self, logs: Any = None) -> None:
        if self.record is not None and self.record.steps[-1] != self._step:
            self._sample()
        self._save()
        self._pacing.end()

    def _prepare(self, model: Any) -> None:
        """Finds the points, anew where another model comes or what is frozen in it has changed since the last training."""
        if not model.built:
            with contextlib.suppress(Exception):  # the run below says what is wrong
                _build(model, self._batches[0])
        modes = [(each.trainable, getattr(each, "freeze", None)) for each in model._flatten_layers()]
        state = [id(model), *modes]
        if state == self._state:
            return
        batches = [keras.tree.map_structure(ops.convert_to_tensor, batch) for batch in self._batches]
        self._refuse_what_does_not_fit(model, batches[0])
        watch = Watch(model, batches[0], self._layers)
        places = watch.places
        points = tuple(place.point(name) for place, name in zip(places, _names(places), strict=True))
        if self.record is None:
            self.record = ShiftRecord(points, self._batch_size, len(batches))
            self._seen = [_seen_before(place.layer) for place in places]
        elif self.record.points != points:
            raise ValueError(
                "The monitor has a record of another model; a new model needs a new monitor. "
                f"Received: a model {_apart(self.record.points, points)}"
            )
        self._places = places
        self._skipped = [_skipped(place.layer) for place in places]
        self._probe = Probe(model, watch, batches)
        self._probe.measure()  # compiles, so that the first sample costs what the others will
        self._state = state

    def _refuse_what_does_not_fit(self, model: Any, batch: Any) -> None:
        try:
            with keras.StatelessScope():
                model(batch, training=False)
        except Exception as error:  # whatever a layer raises for shapes that it does not take
            shapes = keras.tree.map_structure(lambda each: tuple(each.shape), batch)
            raise ValueError(
                "Argument `probe` must hold inputs that the model takes. "
                f"Received: batches of shape {shapes} for model {model.name!r}: {str(error).splitlines()[0]}"
            ) from error

    def _sample(self) -> None:
        record = self._shown
        with self._pacing.sampling(self._step):
            sample = self._probe.measure()
            self._follow_averages()
            record.add(self._step, self._pacing.seconds, sample, self._seen_now())
            if self._events is not None:
                self._events.write(record)
            if len(record) > self._keep:
                record.thin()
                steps = record.steps
                self._pacing.least = max(1, int(steps[-1] - steps[0]) // (len(steps) - 1))
        record.spent = self._pacing.spent

    def _follow_averages(self) -> None:
        """All calls of a layer in each step since the last sample, less the batches that it skipped."""
        steps, self._seen_step = self._step - self._seen_step, self._step
        places = self._places
        for number, place in enumerate(places):
            if place.is_batch_norm and steps:
                calls = sum(other.layer is place.layer and other.trains for other in places)
                skipped = _skipped(place.layer)
                updates = steps * calls - (skipped - self._skipped[number])
                self._seen[number].follow(updates, place.layer.momentum)
                self._skipped[number] = skipped

    def _seen_now(self) -> Any:
        return np.array(
            [
                (seen.updates, seen.weight, seen.effective) if place.is_batch_norm else [np.nan] * 3
                for seen, place in zip(self._seen, self._places, strict=True)
            ]
        )

    def _save(self) -> None:
        if self.record is not None:
            self.record.spent = self._pacing.spent
            if self._path is not None:
                self.record.save(self._path)


def _cut(probe: Any, batch_size: int) -> list[Any]:
    """The probe in whole batches, on the host; one of all examples where there are fewer."""
    wanted = "Argument `probe` must be an array of inputs (examples, ...), or several with as many examples each. "
    if not all(map(_is_array, keras.tree.flatten(probe))):
        received = keras.tree.map_structure(lambda each: type(each).__name__, probe)
        raise ValueError(f"{wanted}Of a dataset, take the inputs of a few batches. Received: {received}")
    arrays = keras.tree.map_structure(lambda each: np.asarray(ops.convert_to_numpy(each)), probe)
    sizes = {len(each) if each.ndim else 0 for each in keras.tree.flatten(arrays)}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(f"{wanted}Received: {keras.tree.map_structure(lambda each: each.shape, arrays)}")
    if not all(np.isfinite(each).all() for each in keras.tree.flatten(arrays)):
        wrong = keras.tree.map_structure(
            lambda each: f"{np.count_nonzero(~np.isfinite(each))} of {each.size:,}", arrays
        )
        raise ValueError(
            f"Argument `probe` must hold finite numbers alone. Received: {wrong} numbers are NaN or infinite"
        )
    (size,) = sizes
    starts = range(0, max(size - batch_size, 0) + 1, batch_size)

    def part(start: int) -> Any:
        return keras.tree.map_structure(lambda each: each[start : start + batch_size], arrays)

    return [part(start) for start in starts]


def _build(model: Any, batch: Any) -> None:
    """Builds a model for any number of examples like these, as Keras does before training on other backends than TensorFlow:
    by tensors without values, so that nothing runs."""  # fmt: skip
    symbols = keras.tree.map_structure(
        lambda each: keras.KerasTensor((None, *each.shape[1:]), keras.backend.standardize_dtype(each.dtype)), batch
    )
    compute_output_spec(model, symbols, training=False)


def _is_array(each: Any) -> bool:
    is_array = each is not None and array_data_adapter.can_convert_arrays((each, None, None))
    return is_array and np.asarray(ops.convert_to_numpy(each)).dtype.kind not in "OSUT"


def _apart(before: Sequence[Point], now: Sequence[Point]) -> str:
    """What tells the points of a model from those of another, in words."""
    old, new = ({point.name: point for point in points} for points in (before, now))
    parts = {
        "without": [name for name in old if name not in new],
        "with": [name for name in new if name not in old],
        "of another kind or size in": [name for name in old if name in new and old[name] != new[name]],
    }
    told = [f"{how} {listed(names)}" for how, names in parts.items() if names]
    return "; ".join(told) or "that calls the same layers in another order"


def _names(places: Sequence[Place]) -> list[str]:
    """A name for each, all different."""
    layers: dict[str, list[Any]] = {}
    names = []
    for place in places:
        same = layers.setdefault(place.layer.name, [])
        if not any(place.layer is other for other in same):
            same.append(place.layer)
        number = next(index for index, other in enumerate(same, 1) if other is place.layer)
        calls = [other.call for other in places if other.layer is place.layer]
        suffix = f", call {calls.index(place.call) + 1}" if len(calls) > 1 else ""
        names.append(f"{place.layer.name}{f' ({number})' if number > 1 else ''}{suffix}")
    return names


def _skipped(layer: Any) -> int:
    return layer.skipped_batches if isinstance(layer, BatchNormalization) else 0


def _seen_before(layer: Any) -> AveragesSeen:
    """What the averages hold when the monitor begins, where the layer knows: a kbn layer with `moving_weight`."""
    seen = AveragesSeen()
    if hasattr(layer, "moving_weight"):
        weight = float(np.max(ops.convert_to_numpy(layer.moving_weight)))
        if layer.momentum is None:
            seen.follow(round(weight), None)
        elif 0 < weight < 1 and 0 < layer.momentum < 1:
            seen.follow(max(1, round(np.log1p(-weight) / np.log(layer.momentum))), layer.momentum)
    return seen
