"""The application in a cluster, from its deployment to its end, and the store that its replicas follow."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ray
from ray import serve
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ..errors import KbnError, UsageError
from ..wording import reason
from .logs import log
from .ray_files import Collector, Package, read
from .ray_replica import Replica
from .ray_settings import RaySettings
from .ray_signals import Ended
from .ray_store import NAME, Store
from .repository import Fingerprint, Place
from .settings import Settings

_OTHERS = 16  # requests beside inference that a replica answers at a time


class Application:
    """What this command runs in the cluster; leaving it deletes it, after what was taken has been answered."""

    def __init__(self, settings: Settings, options: RaySettings, log_level: str) -> None:
        self._settings = settings
        self._options = options
        self._log_level = log_level
        self._references: dict[str, Any] = {}
        self._seen: dict[Place, Fingerprint] = {}
        self._failed: dict[Place, Fingerprint] = {}
        self._complaint = ""
        self._published: dict[Place, Fingerprint] = {}

    def __enter__(self) -> Application:
        """Raises UsageError where the cluster has an application of this name."""
        if NAME in serve.status().applications:
            raise UsageError(
                f"An application {NAME!r} runs in this cluster already. End the command that serves it; what a command "
                f"left that was killed outright, `serve.delete({NAME!r})` deletes in Python."
            )
        with contextlib.suppress(ValueError):
            ray.kill(ray.get_actor(NAME, NAME))  # of a command that was killed outright
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(Store).options(
            name=NAME, namespace=NAME, lifetime="detached", scheduling_strategy=here, num_cpus=0
        )
        self._store: Any = actor.remote()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        try:
            serve.delete(NAME, _blocking=kind is not Ended)
        except Ended:
            serve.delete(NAME, _blocking=False)
        finally:
            ray.kill(self._store)

    def publish(self, collector: Collector) -> None:
        """Sends the files that are new, and has the replicas load them.

        Raises:
            KbnError: as `Collector.collect` and `read` raise them; nothing is published then.
        """
        packages = collector.collect()
        self._send(packages)
        self._published = collector.collected()
        log("published", "info", models=len(packages))

    def _send(self, packages: Sequence[Package]) -> None:
        references, sent = {}, []
        for package in packages:
            for name, sha256 in package.sha256.items():
                if sha256 not in references:
                    known = self._references.get(sha256)
                    (references[sha256],) = [known] if known else ray.get(self._store.keep.remote(read(package, name)))
            sent.append(replace(package, contents={name: references[key] for name, key in package.sha256.items()}))
        ray.get(self._store.publish.remote(sent))
        self._references = references

    def deploy(self) -> None:
        """Starts the replicas, and waits until all are ready.

        Raises:
            UsageError: Ray could not start them.
        """
        settings, options = self._settings, self._options
        scale: dict[str, Any] = {"num_replicas": options.replicas}
        if options.max_replicas is not None:
            autoscaling = {
                "min_replicas": options.replicas,
                "max_replicas": options.max_replicas,
                "target_ongoing_requests": options.target_ongoing_requests,
            }
            scale = {"autoscaling_config": autoscaling}
        deployment: Any = serve.deployment(
            Replica,
            name="Replica",
            # As many as the queues of all models take: then the replica itself refuses what is too much.
            max_ongoing_requests=len(self._published) * (settings.queue + settings.max_batch) + _OTHERS,
            ray_actor_options={"num_cpus": settings.threads},
            graceful_shutdown_timeout_s=settings.drain_timeout,
            graceful_shutdown_wait_loop_s=0.2,
            logging_config={"enable_access_log": False},
            **scale,
        )
        # What sockets take and files are is no business of a replica.
        told = replace(settings, certfile=None, keyfile=None)
        try:
            serve.run(deployment.bind(self._store, told, self._log_level), name=NAME, route_prefix="/")
        except Exception as error:  # ValueError, RuntimeError, RayServeException
            raise UsageError(f"Ray could not start the replicas: {reason(error)}.") from None
        log("proxy", "info", kind=ray.get(self._store.proxy.remote()))

    def refresh(self, collector: Collector, force: bool) -> None:
        """Publishes the files if they have changed; what cannot be served leaves what is.

        A file counts as changed once two looks in a row see it the same, or at once with `force`.
        """
        try:
            found = collector.look()
            settled = force or found == self._seen
            self._seen = found
            if settled and (force or found != self._failed) and found != self._published:
                self._failed = found  # what fails is not tried again before it changes
                self.publish(collector)
                self._failed = {}
            self._complaint = ""
        except KbnError as error:
            if force or self._complaint != str(error):
                log("reload", "error", reason=str(error))
            self._complaint = str(error)

    def drain(self) -> None:
        """Has the replicas say that they are not ready."""
        ray.get(self._store.drain.remote())
