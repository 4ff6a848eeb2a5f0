"""One replica on a Ray cluster: the same application as the embedded server's, with models, queues and metrics of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import serve
from starlette.types import ASGIApp

from . import logs
from .app import build
from .metrics import Metrics
from .ray_files import Package, replica_folder, unpack
from .registry import Registry
from .settings import Settings

_RETRY = 5  # seconds


class _Hosted:
    """The application of the replica that this process is; Ray asks for it when the replica has been made."""

    app: ASGIApp


def _application() -> ASGIApp:
    return _Hosted.app


@serve.ingress(_application)
class Replica:
    """Takes its files from the store, and follows what is published there.

    Args:
        store: a handle of the actor `ray_store.Store`.
    """

    async def __init__(self, store: Any, settings: Settings, log_level: str) -> None:  # type: ignore[misc]  # as Ray takes it
        logs.set_up(log_level)
        self._store = store
        self._folder = replica_folder()
        self._state = await store.newer.remote(0)
        metrics = Metrics()
        self._registry = Registry([Path(self._folder.name)], settings, metrics)
        self._registry.failed_before = self._state.failures
        await self._unpack(self._state.packages)
        await self._registry.load_all()
        _Hosted.app = build(self._registry, metrics, settings, lambda: self._state.draining, tells_id=False)
        self._following = asyncio.ensure_future(self._follow())

    def __del__(self) -> None:
        """Called by Ray when the replica ends; its process is killed afterwards, which removes nothing."""
        if hasattr(self, "_folder"):
            self._folder.cleanup()

    async def _follow(self) -> None:
        while True:
            try:
                new = await self._store.newer.remote(self._state.number)
                self._registry.failed_before = new.failures
                if new.packages != self._state.packages:
                    await self._unpack(new.packages)
                    for _ in range(2):  # a file counts as changed once two looks in a row see it the same
                        await self._registry.refresh()
                self._state = new
            except Exception as error:  # the store has gone, with the command; what is loaded is served on
                logs.log("reload", "error", reason=repr(error)[:500])
                await asyncio.sleep(_RETRY)

    async def _unpack(self, packages: Sequence[Package]) -> None:
        fetched = []
        for package in packages:
            contents = {name: await reference for name, reference in package.contents.items()}
            fetched.append(replace(package, contents=contents))
        await asyncio.to_thread(unpack, fetched, Path(self._folder.name))
