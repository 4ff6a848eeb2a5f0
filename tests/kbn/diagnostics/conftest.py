"""A record made of random moments, without a model."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kbn.diagnostics import ShiftRecord
from kbn.diagnostics.points import SITES, Point
from kbn.diagnostics.probing import LEVELS, Sample


def _sample(points: list[Point], step: int, batches: int, random: np.random.Generator) -> Sample:
    channels = sum(point.channels for point in points)
    names = [f"{site}/{name}" for site in SITES for name in ("mean", "variance", "mean_spread", "deviation_spread")]
    found = {name: random.uniform(0.5, 1.5, channels) + 0.01 * step for name in names}
    if batches == 1:
        found = {name: np.full(channels, np.nan) if "spread" in name else each for name, each in found.items()}
    found |= {"gap": random.uniform(0.1, 0.2, channels), "flat": random.uniform(0.3, 0.6, channels)}
    quantiles = np.sort(random.normal(0.1 * step, 1.0, (len(points), len(LEVELS))), -1)
    sites = {"before": quantiles, "normalized": quantiles / 2, "activated": np.maximum(quantiles, 0.0)}
    start = 0
    for number, point in enumerate(points):
        columns = slice(start, start := start + point.channels)
        for site in set(SITES) - set(point.sites):
            sites[site] = sites[site].copy()
            sites[site][number] = np.nan
            for name in found:
                if name.startswith(site):
                    found[name][columns] = np.nan
        if point.epsilon is None:
            found["gap"][columns] = np.nan
    return Sample(found, {"gap": random.uniform(0.1, 0.3, len(points))}, sites)


@pytest.fixture
def make_record(rng) -> Callable[..., ShiftRecord]:
    """A record of so many samples, 10 steps apart, and points; without batch normalization if so wanted."""

    def make(
        samples: int = 6, points: int = 4, *, normalized: bool = True, batches: int = 3, **first: Any
    ) -> ShiftRecord:
        sites = SITES if normalized else ("before", "activated")
        made = [
            Point(f"layer_{number}", "batch normalization" if normalized else "activation", 2 + number,
                  1e-3 if normalized else None, "relu", None, sites)
            for number in range(points)
        ]  # fmt: skip
        made[0] = made[0]._replace(**first)
        record = ShiftRecord(made, 16, batches)
        record.spent = 0.5
        for step in range(0, 10 * samples, 10):
            record.add(
                step, 1.0 + step, _sample(made, step, batches, rng), np.tile([step, 0.5, step / 2.0], (points, 1))
            )
        return record

    return make
