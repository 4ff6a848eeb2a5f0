"""What all replicas must know, in one actor of the cluster: which files to serve, and whether the end is near.

The command publishes; each replica asks for what is newer than what it knows, and is answered once there is something.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray

from ..errors import UsageError
from .ray_environment import HAPROXY
from .ray_files import Package

NAME = "kbn"  # of the actor, its namespace, and the application


class TakenError(UsageError):
    """Another command serves in this cluster, or has left there what it served."""


@dataclass(frozen=True)
class State:
    """What the replicas are to do.

    Attributes:
        number: counts what was published.
        packages: the models to serve; their contents are references to the object store.
        failures: by NAME/VERSION why a file is not served as it lies where the command runs.
        draining: whether the server is about to stop.
    """

    number: int
    packages: Sequence[Package]
    failures: Mapping[str, str] = field(default_factory=dict)
    draining: bool = False


class Store:
    """The actor: holds the files' bytes, of which it is the owner, so that replicas that start later find them, too.

    There is one in a cluster at most: who makes it has the right to serve there.

    Args:
        job: the id of the command's, in Ray.
    """

    def __init__(self, job: str) -> None:
        self._job = job
        self._state = State(0, ())
        self._changed = asyncio.Condition()

    async def job(self) -> str:
        """Of the command that made it."""
        return self._job

    async def keep(self, content: Any) -> list[Any]:
        """A reference to these bytes, in a list, as Ray would otherwise send what it refers to."""
        return [ray.put(content)]

    async def publish(self, packages: Sequence[Package], failures: Mapping[str, str]) -> None:
        await self._set(replace(self._state, packages=packages, failures=failures))

    async def drain(self) -> None:
        await self._set(replace(self._state, draining=True))

    async def newer(self, number: int) -> State:
        """The state, once it is another than that of this number."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._state.number != number)
        return self._state

    async def proxy(self) -> str:
        """What takes the requests in this cluster, whose processes have the variable or have it not."""
        return "HAProxy" if os.environ.get(HAPROXY) == "1" else "Ray's Python proxy"

    async def _set(self, state: State) -> None:
        async with self._changed:
            self._state = replace(state, number=self._state.number + 1)
            self._changed.notify_all()
