"""A Ray cluster, started on this machine or joined, in which Ray Serve listens where it was asked to."""

from __future__ import annotations

import contextlib
import http.client
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray import serve
from ray.serve.context import _get_global_client

from ..errors import UsageError
from ..wording import reason
from .listening import listen, tell_address
from .logs import log, take_over
from .ray_settings import RaySettings
from .ray_signals import Ended
from .ray_store import NAME, TakenError
from .settings import Settings, usable_cpus

_LONGEST_ROUTING = 30  # seconds
_STEADY = 20  # answers one after the other


@contextlib.contextmanager
def cluster(settings: Settings, options: RaySettings, take_signals: Callable[[], None]) -> Iterator[tuple[str, int]]:
    """A cluster with Ray Serve. At the end one that was started is stopped; in one that was joined, Ray Serve is, if it did not
    run before and nothing else does in it. Yields the host and the port that the proxies of Ray Serve listen on.

    Args:
        take_signals: takes back the signals that Ray has taken.

    Raises:
        UsageError: the cluster cannot be started or joined, the address cannot be listened on, or Ray Serve listens elsewhere.
    """
    host, port = settings.host, settings.port
    if options.address is None:
        with listen(settings) as listener:  # whether it can be, and which port it is
            host, port = listener.getsockname()[:2]
    try:
        _connect(options)
        take_signals()  # before anything else that waits
        client = _get_global_client(raise_if_no_controller_running=False)
        if client is None:
            _start_serve(host, port, joined=options.address is not None)
        else:
            there = client.http_config
            if (host, port or there.port) != (there.host, there.port):
                raise UsageError(
                    f"Ray Serve listens in this cluster already: ask for the same, --host {there.host} --port {there.port}."
                )
            port = there.port
        try:
            tell_address(settings, host, port)
            yield host, port
        except TakenError:  # what runs there needs Ray Serve
            client = client or _get_global_client()
            raise
        finally:
            if client is None and not _others():
                serve.shutdown()
    finally:
        ray.shutdown()


def until_routed(host: str, port: int) -> None:
    """Waits until the proxy of this machine sends requests to the application, of which it hears a moment later than that the
    replicas are ready; for half a minute at most, as a machine without replicas may have no proxy.

    One answer does not show it: an HAProxy that has heard replaces one that has not, and for a moment both take connections.
    """
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    end, steady, found = time.monotonic() + _LONGEST_ROUTING, 0, "it is slow"
    while time.monotonic() < end:
        wrong = _found_wrong(host, port)
        steady, found = (0, wrong) if wrong else (steady + 1, found)
        if steady == _STEADY:
            return
        time.sleep(0.2 if wrong else 1 / _STEADY)
    why = f"{host} port {port} does not lead to the application yet: {found}. Ask a machine that runs a replica."
    log("route", "warning", reason=why)


def _found_wrong(host: str, port: int) -> str:
    """Why a new connection does not lead to the application; nothing where it does."""
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", "/v2/health/ready")
        return "" if connection.getresponse().status == 200 else "it is not ready there"
    except (OSError, http.client.HTTPException) as error:
        return reason(error)
    finally:
        connection.close()


def _connect(options: RaySettings) -> None:
    own: dict[str, Any] = {"include_dashboard": False, "num_cpus": usable_cpus()}
    try:
        ray.init(
            "local" if options.address is None else options.address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **(own if options.address is None else {}),
        )
    except SystemExit:  # raised by Ray's own handler of SIGTERM
        raise Ended from None
    except Exception as error:  # of many kinds
        what = "Ray cannot be started"
        if options.address is not None:
            what = f"The Ray cluster {options.address} cannot be joined"
        raise UsageError(f"{what}: {reason(error)}.") from None
    take_over("ray", "ray.serve")


def _start_serve(host: str, port: int, joined: bool) -> None:
    if port == 0:
        raise UsageError(
            "Ray Serve does not run in this cluster yet, and takes no free port of its own: choose one, --port."
        )
    try:
        serve.start(http_options={"host": host, "port": port})
    except Ended:
        if joined:
            serve.shutdown()
        raise
    except Exception as error:  # of Ray: an actor that died, a time that was up
        raise UsageError(f"Ray Serve cannot be started: {reason(error)}. Its logs say more; try again.") from None


def _others() -> list[str]:
    """Applications that are neither this command's own nor being deleted."""
    found = serve.status().applications.items()
    return [name for name, application in found if name != NAME and application.status != "DELETING"]
