"""How the replicas are spread over a Ray cluster; the names are Ray Serve's own."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from ..errors import UsageError
from ..wording import quote, reason

_CONNECT = 10  # seconds


@dataclass(frozen=True)
class RaySettings:
    """What `kbn serve --engine ray` is asked for beside `Settings`.

    Attributes:
        address: of a cluster to join, HOST:PORT or "auto"; None starts one on this machine.
        replicas: how many there are, or are at least.
        max_replicas: how many there may be; None fixes their number.
        target_ongoing_requests: of each replica on average, by which their number is chosen.
    """

    address: str | None = None
    replicas: int = 1
    max_replicas: int | None = None
    target_ongoing_requests: int = 16


def check_address(address: str) -> None:
    """Refuses at once what Ray would try for minutes, and what it would take for a wish to start a cluster, such as "local".

    Raises:
        UsageError: it is neither HOST:PORT, where something listens, nor "auto".
    """
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host:
        raise UsageError(
            f"{quote(address)} is neither HOST:PORT nor auto. A Ray client (ray://) is no part of the cluster: run kbn on one "
            "of its machines, with --address auto."
        )
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT).close()
    except (OSError, ValueError, OverflowError) as error:
        raise UsageError(f"The Ray cluster {quote(address)} cannot be reached: {reason(error)}.") from None
