"""What a record shows of each point and sample: numbers (samples, points), from the moments that it holds.

drift        W2 of the moments since another sample, in standard deviations at that other sample (`moments.of_layer`)
kl           symmetric KL since another sample, mean over the channels, in nats
variation    W2 between two batches at the same weights, in standard deviations
gap          root mean square of a training step's output minus that of inference, in standard deviations of the output
model_gap    the same of the whole model up to the point; NaN where the output is constant, as of batches of one example
flat         share of elements at which the activation is flat, from 0 to 1; NaN where a value is not finite
dead         share of channels at which it is flat on the whole probe; NaN where a value is not finite
epsilon      share of channels whose variance is epsilon or less: at least half of what they are divided by is epsilon
effective    of how many batches the plain mean holds as much as the moving averages
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from kbn.diagnostics import moments
from kbn.diagnostics.moments import Floats
from kbn.diagnostics.points import ACTIVATED, BEFORE, NORMALIZED, SITES

# Keras' default, for the points that have none: so that models with and without batch normalization compare.
DEFAULT_EPSILON = 1e-3


def drift(record: Any, site: str = BEFORE, since: str = "previous") -> Floats:
    """W2 of the moments in standard deviations, since the "previous" sample or the "start"; 0 at the first sample."""
    now, then = _pair(record, site, since)
    squares = moments.wasserstein(*then, *now)
    return _per_point(record, lambda columns: moments.of_layer(squares[:, columns], then[1][:, columns]))


def kl(record: Any, site: str = BEFORE, since: str = "previous") -> Floats:
    """Symmetric KL of the moments in nats, since the "previous" sample or the "start"; epsilon is the floor."""
    now, then = _pair(record, site, since)
    divergence = moments.symmetric_kl(*then, *now, _epsilons(record))
    return _per_point(record, lambda columns: divergence[:, columns].mean(-1))


def variation(record: Any, site: str = BEFORE) -> Floats:
    """W2 between two batches at the same weights in standard deviations; NaN where the probe is one batch."""
    names = (f"channels/{site}/{name}" for name in ("mean_spread", "deviation_spread", "variance"))
    means, deviations, variances = map(record.values, names)
    squares = moments.between_batches(means, deviations)
    return _per_point(record, lambda columns: moments.of_layer(squares[:, columns], variances[:, columns]))


def gap(record: Any) -> Floats:
    """Of each batch normalization's own, on the same input; NaN for points without one."""
    own, variance = record.values("channels/gap"), record.values(f"channels/{NORMALIZED}/variance")
    return _per_point(record, lambda columns: moments.of_layer(own[:, columns] ** 2, variance[:, columns]))


def model_gap(record: Any) -> Floats:
    """Of the whole model up to each point; NaN where the output is constant and differs from that of inference."""
    return record.values("points/gap")


def flat(record: Any) -> Floats:
    """NaN where no activation follows whose flat part is known."""
    values = record.values("channels/flat")
    return _per_point(record, lambda columns: values[:, columns].mean(-1))


def dead(record: Any) -> Floats:
    """NaN where no activation follows whose flat part is known."""
    values = record.values("channels/flat")
    whole = np.where(np.isnan(values), np.nan, values >= 1)
    return _per_point(record, lambda columns: whole[:, columns].mean(-1))


def near_epsilon(record: Any) -> Floats:
    """NaN for points without batch normalization."""
    variance = record.values(f"channels/{BEFORE}/variance")
    low = np.where(np.isnan(variance), np.nan, variance <= _epsilons(record))
    shares = _per_point(record, lambda columns: low[:, columns].mean(-1))
    return np.where([point.epsilon is None for point in record.points], np.nan, shares)


def effective(record: Any) -> Floats:
    """NaN for points without averages."""
    return record.values("seen/effective")


class Measure(NamedTuple):
    """How a measure is computed from a record, and named on an axis."""

    values: Callable[..., Floats]
    label: str
    log: bool = False
    by_site: bool = False
    since: bool = False


MEASURES = {
    "drift": Measure(drift, "Wasserstein-2 (standard deviations)", True, True, True),
    "kl": Measure(kl, "symmetric KL (nats per channel)", True, True, True),
    "variation": Measure(variation, "Wasserstein-2 (standard deviations)", True, True),
    "gap": Measure(gap, "RMS difference (standard deviations)", True),
    "model_gap": Measure(model_gap, "RMS difference (standard deviations)", True),
    "flat": Measure(flat, "flat elements (share)"),
    "dead": Measure(dead, "flat channels (share)"),
    "epsilon": Measure(near_epsilon, "channels (share)"),
    "effective": Measure(effective, "effective number (batches)"),
}


def measured(record: Any, name: str, site: str = BEFORE, since: str = "previous") -> Floats:
    """The measure of this name, (samples, points).

    Raises:
        ValueError: there is no such measure, or no such site.
    """
    if name not in MEASURES:
        raise ValueError(f"There is no measure {name!r}; there are {', '.join(MEASURES)}")
    if site not in SITES:
        raise ValueError(f"There is no site {site!r}; there are {', '.join(SITES)}")
    measure = MEASURES[name]
    options = {"site": site} if measure.by_site else {}
    return measure.values(record, **options, **({"since": since} if measure.since else {}))


def expected_flat(record: Any) -> Floats:
    """What the share of flat elements would be for normal inputs of the activation, by their moments: (samples, points)."""
    from kbn.diagnostics.saturation import expected

    found = np.full((len(record), len(record.points)), np.nan)
    for number, (point, columns) in enumerate(zip(record.points, record.columns, strict=True)):
        if point.interval is not None and ACTIVATED in point.sites:
            site = NORMALIZED if NORMALIZED in point.sites else BEFORE
            mean, variance = (record.values(f"channels/{site}/{name}")[:, columns] for name in ("mean", "variance"))
            found[:, number] = expected(mean, variance, point.interval).mean(-1)
    return found


def not_finite_since(record: Any) -> list[int | None]:
    """Of each point, the training step of the sample since which a channel is not finite that was so at the first sample; None
    where all still are."""  # fmt: skip
    lost: Any = False
    for site in SITES:
        for name in ("mean", "variance"):
            values = record.values(f"channels/{site}/{name}")
            lost = lost | (np.isfinite(values[0]) & ~np.isfinite(values))
    return [_since(record.steps, lost[:, columns].any(-1)) for columns in record.columns]


def _since(steps: Any, lost: Any) -> int | None:
    """The step from which on something is lost to the end; at the first sample nothing is."""
    return int(steps[np.flatnonzero(~lost)[-1] + 1]) if lost[-1] else None


def _pair(record: Any, site: str, since: str) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
    """Mean and variance now, and at the sample that each is compared with; (samples, channels) each."""
    if since not in ("previous", "start"):
        raise ValueError(f"Argument `since` must be 'previous' or 'start'. Received: since={since!r}")
    now = record.values(f"channels/{site}/mean"), record.values(f"channels/{site}/variance")
    number = np.arange(len(record))
    then = np.maximum(number - 1, 0) if since == "previous" else np.zeros_like(number)
    return now, (now[0][then], now[1][then])


def _per_point(record: Any, of_columns: Callable[[slice], Floats]) -> Floats:
    return np.stack([of_columns(columns) for columns in record.columns], -1)


def _epsilons(record: Any) -> Floats:
    """Of each channel."""
    return np.concatenate(
        [
            np.full(point.channels, DEFAULT_EPSILON if point.epsilon is None else point.epsilon)
            for point in record.points
        ]
    )
