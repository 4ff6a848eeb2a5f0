"""How the replicas are spread over a Ray cluster; the names are Ray Serve's own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RaySettings:
    """What `kbn serve --engine ray` is asked for beside `Settings`.

    Attributes:
        address: of a cluster to join, as `ray.init` takes it; None starts one on this machine.
        replicas: how many there are, or are at least.
        max_replicas: how many there may be; None fixes their number.
        target_ongoing_requests: of each replica on average, by which their number is chosen.
    """

    address: str | None = None
    replicas: int = 1
    max_replicas: int | None = None
    target_ongoing_requests: int = 16
