"""The HAProxy of a cluster that this command started: it stops listening before the application is deleted.

Ray has it read a new configuration then, by which it would answer 404 to whoever asks, until it ends with the cluster.
"""

from __future__ import annotations

import os
import re
import signal
import socket
from pathlib import Path

import ray

from .logs import log
from .ray_environment import ADMIN_SOCKET

_PATIENCE = 5  # seconds for an answer on the socket


def stop_listening() -> None:
    """Has it close its listeners, pass on what it has taken, and close the connections that clients keep behind an answer.

    It leaves its admin socket, too, without which Ray starts no other one in its place. Where there is none, nothing is done.
    """
    path = Path(os.environ[ADMIN_SOCKET])
    try:
        process = _process(path.parent / ray.get_runtime_context().get_node_id() / path.name)
        os.kill(process, signal.SIGUSR1)  # a soft stop: HAProxy's management guide, section 4
    except (OSError, ValueError) as error:
        log("proxy", "debug", reason=str(error))


def _process(path: Path) -> int:
    """The number of the process that listens on the admin socket; raises OSError or ValueError where there is none."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_PATIENCE)
        connection.connect(str(path))
        connection.sendall(b"show info\n")
        told = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    found = re.search(rb"(?m)^Pid: (\d+)$", told)
    if found is None:
        raise ValueError(f"{path} does not tell the process.")
    return int(found[1])
