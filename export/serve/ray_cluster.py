"""A Ray cluster, started on this machine or joined, in which Ray Serve listens where it was asked to."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterator
from typing import Any

import ray
from ray import serve
from ray.serve.context import _get_global_client

from ..errors import UsageError
from ..wording import quote, reason
from .logs import take_over
from .ray_settings import RaySettings
from .server import listen, tell_address
from .settings import Settings, usable_cpus

_CONNECT = 10  # seconds


@contextlib.contextmanager
def cluster(settings: Settings, options: RaySettings) -> Iterator[None]:
    """A cluster with Ray Serve. At the end one that was started is stopped; in one that was joined, Ray Serve is, if it did not
    run before and nothing else does in it.

    Raises:
        UsageError: the cluster cannot be started or joined, the address cannot be listened on, or Ray Serve listens elsewhere.
    """
    host, port = settings.host, settings.port
    if options.address is None:
        with listen(settings) as listener:  # whether it can be, and which port it is
            host, port = listener.getsockname()[:2]
    _connect(options)
    try:
        client = _get_global_client(raise_if_no_controller_running=False)
        if client is None:
            _start_serve(host, port)
        else:
            there = client.http_config
            if (host, port or there.port) != (there.host, there.port):
                raise UsageError(
                    f"Ray Serve listens in this cluster already: ask for the same, --host {there.host} --port {there.port}."
                )
            port = there.port
        try:
            tell_address(settings, host, port)
            yield
        finally:
            if client is None and not serve.status().applications:
                serve.shutdown()
    finally:
        ray.shutdown()


def _connect(options: RaySettings) -> None:
    if options.address is not None:
        _check_address(options.address)
    own: dict[str, Any] = {"include_dashboard": False, "num_cpus": usable_cpus()}
    try:
        ray.init(
            options.address or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if options.address else own),
        )
    except Exception as error:  # of many kinds
        what = f"The Ray cluster {options.address} cannot be joined" if options.address else "Ray cannot be started"
        raise UsageError(f"{what}: {reason(error)}.") from None
    take_over("ray", "ray.serve")


def _start_serve(host: str, port: int) -> None:
    try:
        serve.start(http_options={"host": host, "port": port})
    except Exception as error:  # of Ray: an actor that died, a time that was up
        raise UsageError(f"Ray Serve cannot be started: {reason(error)}. Its logs say more; try again.") from None


def _check_address(address: str) -> None:
    """Refuses at once what Ray would try for minutes."""
    if "://" in address:
        raise UsageError(
            f"{quote(address)} is not of the form HOST:PORT. A Ray client (ray://) is no part of the cluster: run kbn on one "
            "of its machines, with --address auto."
        )
    host, colon, port = address.rpartition(":")
    if not colon:  # "auto"
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT).close()
    except (OSError, ValueError, OverflowError) as error:
        raise UsageError(f"The Ray cluster {quote(address)} cannot be reached: {reason(error)}.") from None
