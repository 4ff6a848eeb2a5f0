"""The application on Ray Serve: the files go to a cluster, replicas there answer, and this process looks after them.

files ──look into──> Store (an actor) ──> Replica, Replica, ... <── HAProxy or Ray's Python proxy <── clients

SIGTERM ──> not ready ──pause──> an own HAProxy stops listening ──> the application is deleted: what was taken is answered
SIGINT      the same without the pause; a second signal waits for nothing
SIGHUP      the files are looked at now; each replica loads what changed beside the old, and then exchanges the two
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from ..errors import UsageError
from .logs import log
from .ray_environment import environment
from .ray_files import Collector
from .ray_settings import RaySettings, check_address
from .ray_signals import Ended, Signals
from .settings import Settings, usable_cpus


def serve(sources: Sequence[Path], settings: Settings, options: RaySettings, log_level: str) -> None:
    """Serves these files and folders on Ray until a signal ends it.

    Raises:
        UsageError: there is no model, the address cannot be listened on or joined, or the cluster cannot take the application.
        KbnError: a model cannot be served. Nothing was deployed then.
    """
    began = time.monotonic()
    _check(settings, options)
    collector = Collector(sources, settings.threads)
    collector.collect()  # what is wrong with a file is told before a cluster is started
    with environment(options.address is None, settings.drain_timeout), Signals() as signals, contextlib.suppress(Ended):
        try:  # here, as Ray reads its environment when it is imported
            from .ray_application import Application
            from .ray_cluster import cluster, until_routed
            from .ray_haproxy import stop_listening
            from .ray_publishing import Publisher
        except ModuleNotFoundError as missing:  # Ray alone is there, without what its Serve needs
            raise UsageError(
                f"--engine ray needs {missing.name}, which is not installed: pip install 'kbn[ray]'"
            ) from None
        with (
            cluster(settings, options, signals.take) as (host, port),
            Application(settings, options, log_level) as application,
        ):
            publisher = Publisher(collector, application.store)
            publisher.publish()
            application.deploy()
            until_routed(host, port)
            seconds = round(time.monotonic() - began, 3)
            log("ready", "info", models=len(collector.collected()), replicas=options.replicas, seconds=seconds)
            while (number := signals.next(settings.watch or None)) in (None, signal.SIGHUP):
                publisher.refresh(force=number is not None)
            pause = settings.drain_pause if number == signal.SIGTERM else 0
            log("draining", "info", pause=pause)
            application.drain()
            time.sleep(pause)
            if options.address is None:
                stop_listening()
    log("stopped", "info")


def _check(settings: Settings, options: RaySettings) -> None:
    if options.max_replicas is not None and options.max_replicas < options.replicas:
        raise UsageError(f"--max-replicas {options.max_replicas} is less than --replicas {options.replicas}.")
    most = max(options.replicas, options.max_replicas or 0)
    if options.address is None and most * settings.threads > usable_cpus():
        raise UsageError(
            f"{most} replicas of {settings.threads} threads take more than the {usable_cpus()} CPUs that there are here. Ask "
            "for fewer, or join a cluster: --address."
        )
    if options.address is not None:
        check_address(options.address)
