"""How a server is set up: every limit in one place, with its unit."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024


@dataclass(frozen=True)
class Settings:
    """What `kbn serve` is asked for; each has an option of the command line of the same name.

    Attributes:
        host, port: where to listen; port 0 takes a free one.
        threads: inside an operator of onnxruntime, for each model.
        max_batch: examples that are run together; 1 never merges requests.
        queue: requests that wait for one model; one more is refused with 503.
        timeout: seconds from a request's arrival to its answer, else 504.
        max_body: bytes of a request's body, else 413.
        receive_timeout: seconds a client has to send a request, beside what its size takes at `min_rate`.
        min_rate: bytes per second below which a client is slow, both ways.
        connections: open at a time; one more is refused with 503.
        watch: seconds between looks at the files; 0 never looks, and SIGHUP alone reloads.
        drain_pause: seconds between readiness going off and the listener closing, on SIGTERM.
        drain_timeout: seconds that requests in flight have after that.
        token: what a client must send as `Authorization: Bearer TOKEN`; None lets everyone in.
        certfile, keyfile: of TLS; None is plain HTTP.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    threads: int = 1
    max_batch: int = 16
    queue: int = 256
    timeout: float = 30.0
    max_body: int = 32 * MIB
    receive_timeout: float = 10.0
    min_rate: int = 16 * 1024
    connections: int = 1024
    watch: float = 2.0
    drain_pause: float = 1.0
    drain_timeout: float = 30.0
    token: str | None = None
    certfile: Path | None = None
    keyfile: Path | None = None


def usable_cpus(cgroup: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """The CPUs that this process may use: those it is bound to, and no more than the quota of its container (cgroup v2)."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = cgroup.read_text().split()
        return max(1, min(bound, int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return bound
