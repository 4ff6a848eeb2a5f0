"""The application in a cluster, from its deployment to its end, and the store that its replicas follow."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from typing import Any

import ray
from ray import serve
from ray._private.state import jobs  # of the public ones, `ray.util.state` needs the dashboard
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ..errors import UsageError
from ..wording import reason
from .logs import log
from .ray_replica import Replica
from .ray_settings import RaySettings
from .ray_signals import Ended
from .ray_store import NAME, Store, TakenError
from .settings import Settings

# More than the queues of any models hold, also of such as come later: the replica itself refuses what is too much.
_ONGOING = 1 << 20
_MARGIN = 60  # seconds beside --drain-timeout in which Ray must have deleted the application
_CLAIM = 10  # seconds that Ray has to forget the name of an actor that it has ended
_POLL = 0.2  # seconds


class Application:
    """What this command runs in the cluster; leaving it deletes it, after what was taken has been answered.

    Attributes:
        store: once it is entered, the actor from which replicas learn what to load.
    """

    def __init__(self, settings: Settings, options: RaySettings, log_level: str) -> None:
        self._settings = settings
        self._options = options
        self._log_level = log_level
        self._deployed = False

    def __enter__(self) -> Application:
        """Raises TakenError where the cluster has an application of this name, or a command that is about to deploy one."""
        self.store: Any = _claim()
        if NAME in serve.status().applications:
            ray.kill(self.store)
            raise _taken()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        try:
            if self._deployed:
                serve.delete(NAME, _blocking=False)
                if kind is not Ended:
                    self._wait_until_deleted()
        except Ended:  # a second signal, which waits for nothing; it may have come before the first word
            serve.delete(NAME, _blocking=False)
        except Exception as error:  # of a cluster that has gone, or part of it
            log("delete", "error", reason=reason(error))
        finally:
            with contextlib.suppress(Exception):
                ray.kill(self.store)

    def _wait_until_deleted(self) -> None:
        """Not by `serve.delete`, whose patience is a minute, whatever the replicas have been given."""
        end = time.monotonic() + self._settings.drain_timeout + _MARGIN
        while NAME in serve.status().applications:
            if time.monotonic() > end:
                raise TimeoutError("Ray has not deleted the application in time; it may still do so.")
            time.sleep(_POLL)

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
            max_ongoing_requests=_ONGOING,
            ray_actor_options={"num_cpus": settings.threads},
            graceful_shutdown_timeout_s=settings.drain_timeout,
            graceful_shutdown_wait_loop_s=0.2,
            logging_config={"enable_access_log": False},
            **scale,
        )
        # What sockets take and files are is no business of a replica.
        told = replace(settings, certfile=None, keyfile=None)
        self._deployed = True
        try:
            serve.run(deployment.bind(self.store, told, self._log_level), name=NAME, route_prefix="/")
        except Exception as error:  # ValueError, RuntimeError, RayServeException
            raise UsageError(f"Ray could not start the replicas: {reason(error)}.") from None
        log("proxy", "info", kind=ray.get(self.store.proxy.remote()))

    def drain(self) -> None:
        """Has the replicas say that they are not ready; where the store is gone they cannot know, and the end goes on."""
        try:
            ray.get(self.store.drain.remote())
        except Exception as error:  # of Ray
            log("drain", "error", reason=reason(error))


def _claim() -> Any:
    """The store, which one command at a time can make in a cluster; raises TakenError for all others."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(Store).options(
        name=NAME, namespace=NAME, lifetime="detached", scheduling_strategy=here, num_cpus=0
    )
    end = time.monotonic() + _CLAIM
    while True:
        try:
            return actor.remote(ray.get_runtime_context().get_job_id())
        except ValueError:  # the name is taken
            if time.monotonic() > end:
                raise _taken() from None
        _end_left_over()
        time.sleep(_POLL)


def _end_left_over() -> None:
    """Kills the store of a command that was killed outright; raises TakenError where the command, or what it served, lives."""
    try:
        store = ray.get_actor(NAME, NAME)
        job: Any = ray.get(store.job.remote(), timeout=_CLAIM)
    except (ValueError, ray.exceptions.RayError):  # it has ended meanwhile, or is about to
        return
    if job in _running_jobs() or NAME in serve.status().applications:
        raise _taken()
    ray.kill(store)  # this very actor, and no other that has its name since


def _running_jobs() -> list[str]:
    known: list[dict[str, Any]] = jobs()
    return [job["JobID"] for job in known if not job["IsDead"]]


def _taken() -> TakenError:
    return TakenError(
        f"An application {NAME!r} runs in this cluster already. End the command that serves it; what a command "
        f"left that was killed outright, `serve.delete({NAME!r})` deletes in Python."
    )
