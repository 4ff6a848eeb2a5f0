"""The points of a model, found in a run of it, and runs in which what passes there can be seen.

The model runs eagerly, and every layer that matters has a function in place of its `call` (`kbn.observing`). Which activation
comes after a batch normalization shows in the tensors: it is the first that is given the very tensor that the normalization
made, or the sum of that and others. So it does not matter whether the model is functional, subclassed, or nested.

All variables are read and written in a `StatelessScope`, which is thrown away: averages, seeds, metrics and weights stay
as they are.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
from keras import ops
from keras.src.backend.common import global_state
from keras.src.backend.common.masking import get_keras_mask

from kbn.diagnostics import activations
from kbn.diagnostics.points import ACTIVATED, BEFORE, NORMALIZED, Point
from kbn.diagnostics.saturation import Interval
from kbn.observing import CLASSES, Called, calls_replaced

# (where, site, what passes there, its mask)
See = Callable[["Place", str, Any, Any], None]


class Place:
    """A point while its model is there: the layer, which of its calls, and the axis of its channels."""

    def __init__(self, layer: Any, call: int, axis: int) -> None:
        self.layer, self.call, self.axis = layer, call, axis
        self.is_batch_norm = isinstance(layer, CLASSES)
        self.trains = False  # whether a training step normalises with the batch's own statistics
        self.channels = 0
        self.activation: Watched | None = None
        self.sites: list[str] = []
        self.interval: Interval | None = None

    def point(self, name: str) -> Point:
        return Point(
            name,
            "batch normalization" if self.is_batch_norm else "activation",
            self.channels,
            float(self.layer.epsilon) if self.is_batch_norm else None,
            None if self.activation is None else self.activation.name,
            None if self.activation is None else activations.bound(self.activation.layer),
            tuple(self.sites),
        )


class Watched(Called):
    """A layer or operation that has to do with points."""

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        self.is_batch_norm = isinstance(layer, CLASSES)
        self.is_activation = not self.is_batch_norm and activations.is_activation(layer)
        # Now, since another function stands in its place while the model runs.
        self.name = activations.name(layer)
        self.number = 0  # of its calls in this run


class Watch:
    """The points of a model.

    Args:
        model: built.
        batch: of its inputs; two runs on it find the points.
        layers: names of the layers to watch; None for all batch normalizations or, where there is none, all activations.

    Attributes:
        places: in the order of their calls.
        left_out: names of layers with the reason why they are not watched.

    Raises:
        ValueError: `layers` names one that is not there or has nothing to watch, or nothing is left to watch.
    """

    def __init__(self, model: Any, batch: Any, layers: Sequence[str] | None = None) -> None:
        self._model = model
        found = list(dict.fromkeys(activations.operations(model)))
        normalizations = [each for each in found if isinstance(each, CLASSES)]
        # A layer that is an activation may be the point itself, or what comes after one.
        ends = [each for each in found if activations.is_activation(each)]
        owns = [each for each in found if each not in normalizations and activations.has_activation(each)]
        self._wanted = _named([*normalizations, *ends, *owns], layers) if layers else normalizations or [*ends, *owns]
        if not self._wanted:
            raise ValueError(
                "The model has nothing to watch: no batch normalization, and no activation that is a layer, an operation of a "
                f"functional model, or an argument of one. Received: model={model.name!r} of "
                f"{len(found)} layers and operations"
            )
        passing = [each for each in found if activations.passes(each)]
        self._called = [Watched(each) for each in dict.fromkeys([*normalizations, *ends, *passing])]
        self._owns = [Watched(each) for each in owns if each in self._wanted]
        self._places: dict[tuple[int, int], Place] = {}
        self.left_out: dict[str, str] = {}
        self._finding = True
        for training in (True, False):  # the first tells in which mode each call trains
            self.run(batch, training, _note, dropout=training)
        self._finding = False
        self.places = [each for each in self._places.values() if each.sites]
        missing = {each.name for each in self._wanted} - {each.layer.name for each in self.places} - set(self.left_out)
        self.left_out |= dict.fromkeys(sorted(missing), "the model does not call it")
        if not self.places:
            reasons = "; ".join(f"{name} ({reason})" for name, reason in self.left_out.items())
            raise ValueError(f"None of the layers can be watched: {reasons}")

    def run(self, batch: Any, training: bool, see: See, *, dropout: bool = False) -> None:
        """Runs the model, in which `see` is shown what passes at each point; changes nothing.

        Args:
            batch: of the model's inputs.
            training: whether the batch normalizations do as in a training step; the rest of the model infers.
            see: called with the place, the site, the tensor there, and its mask.
            dropout: whether the rest of the model runs as in a training step too.
        """
        # On JAX a scope around this one holds the variables' values.
        outer = global_state.get_global_attribute("stateless_scope")
        values = [] if outer is None else [(each, each.value) for each in self._model.variables]
        run = _Run(self, training, see, dropout, values)
        with (
            keras.StatelessScope(values),
            calls_replaced(self._called, run.call),
            _activations_replaced(self._owns, run.activate),
        ):
            for each in (*self._called, *self._owns):
                each.number = 0
            self._model(batch, training=dropout)

    def _place(self, each: Watched, x: Any) -> Place | None:
        """The point of this call; None where it is not watched."""
        if not any(each.layer is wanted for wanted in self._wanted):
            return None
        key = id(each.layer), each.number
        if self._finding and key not in self._places and each.layer.name not in self.left_out:
            if not _is_concrete(x):
                self.left_out[each.layer.name] = "the model calls it inside a compiled function, out of sight"
                return None
            rank = len(x.shape)
            axis = each.layer.axis if each.is_batch_norm else activations.channel_axis(each.layer, rank)
            if rank < 2:
                self.left_out[each.layer.name] = "its inputs have no channels"
                return None
            self._places[key] = Place(each.layer, each.number, axis)
            self._places[key].channels = x.shape[axis]
        return self._places.get(key)


class _Run:
    """One run of the model: what is known of the tensors that it made."""

    def __init__(self, watch: Watch, training: bool, see: See, dropout: bool, values: list[tuple[Any, Any]]) -> None:
        self._watch, self._training, self._see, self._dropout = watch, training, see, dropout
        self._values = {id(variable): (variable, value) for variable, value in values}
        # By id, with the tensor itself, so that no other takes its id: the points whose activation is still to come.
        self._waiting: dict[int, tuple[Any, list[Place]]] = {}

    def call(self, each: Watched, given: inspect.BoundArguments) -> Any:
        """In place of a layer's `call`."""
        each.number += 1
        first = next(iter(given.arguments.values()), None)
        x = first if not isinstance(first, list | tuple) else first[0]
        mask = given.arguments.get("mask")
        mask = get_keras_mask(x) if mask is None else mask
        if each.is_batch_norm:
            return self._normalize(each, given, x, mask)
        y = each.call(*given.args, **given.kwargs)
        waiting = self._waiting_for(given)
        if not each.is_activation:
            self._wait(y, waiting)
            return y
        for place in waiting:
            self._end(place, each, y, mask)
        if (own := self._watch._place(each, x)) is not None and not waiting:
            self._show(own, BEFORE, x, mask)
            self._end(own, each, y, mask)
        return y

    def activate(self, each: Watched, function: Any, x: Any) -> Any:
        """In place of the activation of a layer that has its own."""
        each.number += 1
        place = self._watch._place(each, x)
        y = function(x)
        if place is not None:
            self._show(place, BEFORE, x, None)
            self._end(place, each, y, None)
        return y

    def _normalize(self, each: Watched, given: inspect.BoundArguments, x: Any, mask: Any) -> Any:
        place = self._watch._place(each, x)
        if self._dropout:
            each.modes.append(bool(given.arguments.get("training")))
            if place is not None:
                place.trains = each.modes[-1] and each.layer.trainable and getattr(each.layer, "freeze", None) is None
        given.arguments["training"] = self._training and next(each.modes_left, True)
        if place is not None:
            self._show(place, BEFORE, x, mask)
        y = each.call(*given.args, **given.kwargs)
        if place is not None:
            self._show(place, NORMALIZED, y, mask)
            if given.arguments["training"]:
                # With the averages from before the run: in its own scope they follow the batches.
                variables = each.layer.variables
                own = [self._values[id(one)] for one in variables if id(one) in self._values]
                with keras.StatelessScope(own):
                    inferred = each.infer(given)
                self._see(place, INFERRED, y - inferred, mask)
            self._wait(y, [place])
        return y

    def _show(self, place: Place, site: str, x: Any, mask: Any) -> None:
        if self._watch._finding and site not in place.sites:
            place.sites.append(site)
        if site in place.sites:
            self._see(place, site, x, mask)

    def _wait(self, y: Any, places: list[Place]) -> None:
        if places:
            self._waiting[id(y)] = (y, places)

    def _waiting_for(self, given: inspect.BoundArguments) -> list[Place]:
        tensors = keras.tree.flatten(list(given.arguments.values()))
        return [place for tensor in tensors for place in self._waiting.get(id(tensor), (None, []))[1]]

    def _end(self, place: Place, activation: Watched, y: Any, mask: Any) -> None:
        """The place has its activation, the first that takes its output."""
        if self._watch._finding and place.activation is None and y.shape[place.axis] == place.channels:
            place.activation = activation
            place.interval = place.point("").interval
        if place.activation is activation:
            self._show(place, ACTIVATED, y, mask)


# What the output of a batch normalization in a training step differs by from that which inference makes of the same input.
INFERRED = "training - inference"


def _note(place: Place, site: str, x: Any, mask: Any) -> None:
    """Sees nothing: the runs that find the points."""


def _named(layers: list[Any], names: Sequence[str]) -> list[Any]:
    found = [each for each in layers if each.name in names]
    missing = sorted(set(names) - {each.name for each in found})
    if missing:
        raise ValueError(
            "Argument `layers` must name batch normalizations or activations of the model. "
            f"Received: {', '.join(map(repr, missing))}; there are {', '.join(repr(each.name) for each in layers) or 'none'}"
        )
    return found


def _is_concrete(x: Any) -> bool:
    """Whether the values can be read, as inside a compiled function they cannot."""
    try:
        ops.convert_to_numpy(ops.reshape(x, [-1])[:1])
    except (NotImplementedError, TypeError):
        return False
    return True


@contextlib.contextmanager
def _activations_replaced(layers: list[Watched], by: Callable[[Watched, Any, Any], Any]) -> Iterator[None]:
    """While inside, `by(layer, activation, x)` runs in place of the `activation` of each layer."""
    with contextlib.ExitStack() as stack:
        for each in layers:
            own = vars(each.layer)
            function = own["activation"]
            stack.callback(own.update, activation=function)
            # Bound here: a closure over the loop's variables would see the last layer.
            own["activation"] = lambda x, each=each, function=function: by(each, function, x)
        yield
