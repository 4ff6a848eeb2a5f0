"""The numbers of a model's points on a fixed probe, at the weights that it has now.

Each batch of the probe goes through the model twice: as in a training step, where batch normalizations take the batch's own
statistics, and as in inference, where they take their averages. What passes at a point is made into numbers at once, and let
go; both runs are one compiled function, which returns all numbers as one vector.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from kbn import normalize, statistics
from kbn.diagnostics.compiling import compiled
from kbn.diagnostics.moments import Batches, Floats, pooled
from kbn.diagnostics.points import ACTIVATED, BEFORE, NORMALIZED, SITES
from kbn.diagnostics.saturation import is_flat
from kbn.diagnostics.watching import INFERRED, Place, Watch

LEVELS = np.linspace(0.0, 1.0, 65)  # of the quantiles that are kept of each site
_PICKED = 2048  # elements of each site, of all batches together, for the quantiles and the gap of the whole model

# Of what: the point's number, the site, and the number's name. The values are those of each batch.
_Key = tuple[int, str, str]
_Found = dict[_Key, list[Floats]]


class Sample(NamedTuple):
    """What a probe shows at one moment.

    Attributes:
        channels: arrays (channels,), those of all points side by side: of each site "site/mean", "site/variance",
            "site/mean_spread" and "site/deviation_spread" (`moments.Batches`); "gap", the root mean square of what a training
            step's output of the batch normalization differs by from that of inference on the same input; "flat", the share of
            elements at which the activation is flat (`saturation`). NaN where a point has no such thing, and "flat" where a
            value is not finite.
        points: arrays (points,): "gap", what the outputs in the model's two modes differ by, all batch normalizations before
            it in that mode too, in standard deviations of the output; NaN where they differ and the output is constant, as it
            is of batches of one example.
        quantiles: of each site (points, levels), at `LEVELS`.
    """

    channels: dict[str, Floats]
    points: dict[str, Floats]
    quantiles: dict[str, Floats]


class Probe:
    """A probe of a model.

    Args:
        model: the model that is watched.
        watch: its points.
        batches: what the model takes, batch by batch, all of one shape.
    """

    def __init__(self, model: Any, watch: Watch, batches: Sequence[Any]) -> None:
        self._watch, self._batches = watch, batches
        self._number = {id(place): number for number, place in enumerate(watch.places)}
        self._picks = max(1, _PICKED // len(batches))
        self._two_modes = any(place.trains for place in watch.places)
        self._layout: list[tuple[_Key, int]] = []  # of the vector: what each part is, and its length
        self._known: dict[_Key, float] = {}  # what the shapes tell
        self._run = compiled(self._numbers, model)

    def measure(self) -> Sample:
        """Runs the probe; changes nothing in the model."""
        found: _Found = defaultdict(list)
        for batch in self._batches:
            vector = np.asarray(ops.convert_to_numpy(self._run(batch)), np.float64)
            ends = np.cumsum([length for _, length in self._layout])
            for (key, _), part in zip(self._layout, np.split(vector, ends[:-1]), strict=True):
                found[key].append(part)
            for key, number in self._known.items():
                found[key].append(np.array([number]))
        with np.errstate(over="ignore", invalid="ignore"):  # of a training that has diverged
            return _sample(self._watch.places, found)

    def _numbers(self, batch: Any) -> Any:
        """All numbers of one batch, as one vector."""
        parts: dict[_Key, Any] = {}

        def pick(number: int, site: str, x: Any, mask: Any) -> None:
            parts[number, site, "picked"], valid = _pick(x, mask, self._picks)
            if valid is not None:
                parts[number, site, "valid"] = valid

        def see(place: Place, site: str, x: Any, mask: Any) -> None:
            number, x, mask = self._number[id(place)], _wide(x), _aligned(mask, x)
            if site == INFERRED:
                parts[number, NORMALIZED, "apart"] = _mean(ops.square(x), mask, place.axis)
                return
            parts.update({(number, site, name): part for name, part in _moments(x, mask, place.axis).items()})
            pick(number, site, x, mask)
            if site == ACTIVATED and place.interval is not None:
                flat = ops.cast(is_flat(x, place.interval), x.dtype)
                parts[number, ACTIVATED, "flat"] = _mean(flat, mask, place.axis)

        def see_inferred(place: Place, site: str, x: Any, mask: Any) -> None:
            if site == _last(place):
                pick(self._number[id(place)], INFERRED, _wide(x), _aligned(mask, x))

        self._watch.run(batch, True, see)
        if self._two_modes:
            self._watch.run(batch, False, see_inferred)
        self._known = {key: float(part) for key, part in parts.items() if isinstance(part, int)}
        vectors = {
            key: part if len(part.shape) == 1 else ops.reshape(part, [-1])
            for key, part in parts.items()
            if key not in self._known
        }
        self._layout = [(key, each.shape[0]) for key, each in vectors.items()]
        dtype = max(statistics.computing_dtype(each.dtype) for each in vectors.values())  # the wider, by name
        return ops.concatenate([_cast(each, dtype) for each in vectors.values()])


def _cast(x: Any, dtype: str) -> Any:
    return x if keras.backend.standardize_dtype(x.dtype) == dtype else ops.cast(x, dtype)


def _wide(x: Any) -> Any:
    return _cast(x, statistics.computing_dtype(x.dtype))


def _last(place: Place) -> str:
    return NORMALIZED if place.is_batch_norm else BEFORE


def _aligned(mask: Any, x: Any) -> Any:
    """The mask of `x`, as `statistics.align_mask` makes it; None where there is none, or it is not of `x`."""
    if mask is None or len(mask.shape) not in (len(x.shape) - 1, len(x.shape)):
        return None
    return statistics.align_mask(mask, x)


def _moments(x: Any, mask: Any, axis: int) -> dict[str, Any]:
    """A pivot per channel, the mean of the differences from it and of their squares, (channels,) each, and the count.

    The pivot is the mean of the first example: with n examples that is sqrt(n - 1) standard deviations off at most, so that the
    variance loses half of log2(n) bits or less (`statistics.pivot_of_part`). Few operations, since each costs time to compile.
    """
    axes = normalize.reduction_axes(axis, len(x.shape))
    if mask is None:
        pivot = ops.mean(x[:1], axes)
        d = x - normalize.along(pivot, axis, len(x.shape))
        count = statistics.element_count(x, axes)
        return {"pivot": pivot, "mean": ops.mean(d, axes), "square": ops.mean(ops.square(d), axes), "count": count}
    pivot = statistics.pivot_of_batch(x, axes, mask)
    mean, variance, count = statistics.moments(statistics.fill_hidden(x, mask, pivot) - pivot, axes, mask)
    count = ops.broadcast_to(count, ops.shape(mean))
    return {"pivot": pivot, "mean": mean, "square": variance + ops.square(mean), "count": count}


def _mean(x: Any, mask: Any, axis: int) -> Any:
    """(channels,), over what the mask lets count."""
    axes = normalize.reduction_axes(axis, len(x.shape))
    return ops.mean(x, axes) if mask is None else statistics.moments(x, axes, mask, with_variance=False).mean


def _pick(x: Any, mask: Any, number: int) -> tuple[Any, Any]:
    """Some elements, always the same of a tensor of one size, and which of them the mask lets count; None for all."""
    # Of a seed of its own, so that nobody's random numbers are used up.
    places = np.sort(np.random.default_rng(number).random(number))
    shape = ops.shape(x)
    x = ops.reshape(x, [-1])
    size = x.shape[0]
    if size is None:
        index = ops.cast(ops.convert_to_tensor(places, "float64") * ops.cast(ops.shape(x)[0], "float64"), "int32")
    else:
        index = ops.convert_to_tensor((places * size).astype("int32"))
    if mask is None:
        return ops.take(x, index), None
    valid = ops.reshape(ops.broadcast_to(statistics.is_valid(mask), shape), [-1])
    return ops.take(x, index), ops.take(ops.cast(valid, x.dtype), index)


def _sample(places: Sequence[Place], found: _Found) -> Sample:
    channels: dict[str, list[Floats]] = defaultdict(list)
    quantiles: dict[str, list[Floats]] = defaultdict(list)
    gaps = []
    for number, place in enumerate(places):
        missing = np.full(place.channels, np.nan)
        for site in SITES:
            for name, values in _pooled(found, number, site, missing)._asdict().items():
                channels[f"{site}/{name}"].append(values)
            quantiles[site].append(_quantiles(_picked(found, number, site)))
        none = np.zeros(place.channels) if place.is_batch_norm else missing
        channels["gap"].append(np.sqrt(_over_batches(found, number, NORMALIZED, "apart", none)))
        flat = _over_batches(found, number, ACTIVATED, "flat", missing)
        means = [channels[f"{site}/mean"][-1] for site in place.sites]
        channels["flat"].append(np.where(np.isfinite(means).all(0), flat, np.nan))
        gaps.append(_gap(_picked(found, number, _last(place)), _picked(found, number, INFERRED)))
    return Sample(
        {name: np.concatenate(values) for name, values in channels.items()},
        {"gap": np.array(gaps)},
        {site: np.stack(values) for site, values in quantiles.items()},
    )


def _pooled(found: _Found, number: int, site: str, missing: Floats) -> Batches:
    """The moments of all batches; `missing` where the point has no such site."""
    if (number, site, "mean") not in found:
        return Batches(*[missing] * 4)
    parts = (np.stack(found[number, site, name]) for name in ("pivot", "mean", "square", "count"))
    pivot, mean, square, count = np.broadcast_arrays(*parts)
    return pooled(pivot + mean, np.maximum(square - mean**2, 0.0), count)


def _over_batches(found: _Found, number: int, site: str, name: str, missing: Floats) -> Floats:
    """The mean over the batches of a mean per batch, each with the weight of its elements."""
    if (number, site, name) not in found:
        return missing
    means, counts = np.stack(found[number, site, name]), np.stack(found[number, site, "count"])
    total = np.broadcast_to(counts, means.shape).sum(0)
    return (means * counts).sum(0) / np.where(total > 0, total, np.nan)


def _picked(found: _Found, number: int, site: str) -> Floats:
    """The picked elements of all batches that count; empty where the site is not there."""
    picked = found.get((number, site, "picked"))
    if picked is None:
        return np.empty(0)
    valid = found.get((number, site, "valid"))
    values = np.concatenate(picked)
    return values if valid is None else values[np.concatenate(valid) > 0]


def _quantiles(picked: Floats) -> Floats:
    return np.quantile(picked, LEVELS) if picked.size else np.full(LEVELS.shape, np.nan)


def _gap(trained: Floats, inferred: Floats) -> float:
    """Root mean square of the differences, in standard deviations of the first: 0 where there is one mode, NaN where there
    are differences and no deviation."""  # fmt: skip
    if not inferred.size:
        return 0.0
    apart = float(np.sqrt(np.mean((trained - inferred) ** 2)))
    deviation = float(np.std(trained))
    return 0.0 if apart == 0 else apart / (deviation or np.nan)
