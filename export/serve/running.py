"""What the routes that run a model have in common: the request's body, the model's queue, and what is counted."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray
from starlette.types import Receive, Scope

from .bodies import read_body
from .refusal import RefusedError
from .registry import Registry
from .scope import DISCONNECTED, FACTS, HEADERS
from .served import Served
from .settings import Settings

Array = NDArray[Any]


class Running:
    """Runs the registry's models for requests."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self._registry = registry
        self._settings = settings

    async def receive(self, scope: Scope, receive: Receive, name: str, version: str | None) -> tuple[Served, bytes]:
        """The body, and the model as it is once the body is there: it may have been exchanged meanwhile."""
        self._registry.get(name, version)
        scope[FACTS]["model"] = name
        body = await read_body(scope[HEADERS], receive, self._settings.max_body)
        return self._registry.get(name, version), body

    async def run(
        self, scope: Scope, receive: Receive, served: Served, feeds: Mapping[str, Array], timeout: float | None = None
    ) -> dict[str, Array]:
        """The outputs by name; what is no longer wanted is not run."""
        limit = self._settings.timeout
        future = served.batcher.submit(feeds, min(limit, timeout or limit))
        drop = functools.partial(served.batcher.drop, future)
        unwatch = _when_client_goes(scope, receive, drop)
        try:
            arrays = await future
        except asyncio.CancelledError:
            drop()
            task = asyncio.current_task()
            if task is None or not task.cancelling():
                raise RefusedError(499, "The client has gone.") from None
            raise RefusedError(503, "The server is being stopped.") from None
        finally:
            unwatch()
        return {port.name: array for port, array in zip(served.model.outputs, arrays, strict=True)}

    def only_model(self) -> str:
        """The name of the only model, for who names none."""
        names = {served.name for served in self._registry.all()}
        if len(names) > 1:
            raise RefusedError(400, f"There are several models; POST to /predict/NAME: {', '.join(sorted(names))}.")
        return next(iter(names), "")


def _when_client_goes(scope: Scope, receive: Receive, call: Callable[[], Any]) -> Callable[[], Any]:
    """Has `call` called when the client has gone, until what this returns is called."""
    if extension := scope.get("extensions", {}).get(DISCONNECTED):
        return extension["call"](call)

    async def watch() -> None:  # in other servers than kbn's
        while (await receive())["type"] != "http.disconnect":
            pass
        call()

    return asyncio.get_running_loop().create_task(watch()).cancel
