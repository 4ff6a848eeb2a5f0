"""The models that are loaded, and how they are exchanged.

A changed file is loaded and warmed up beside the old one; then the name stands for the new one, from one request to the
next. Requests that have come to the old one are answered by it. A file that cannot be loaded changes nothing but the log.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from ..errors import KbnError
from .logs import log
from .metrics import Metrics
from .refusal import RefusedError
from .repository import Fingerprint, Place, find, fingerprint
from .served import Served
from .settings import Settings


class Registry:
    """The models of one server, by name and version.

    Attributes:
        failed_before: failures of files that did not get as far as the sources, on Ray.
    """

    def __init__(self, sources: Sequence[Path], settings: Settings, metrics: Metrics) -> None:
        self._sources = sources
        self._settings = settings
        self._metrics = metrics
        self._served: dict[Place, Served] = {}
        self._newest: dict[str, str] = {}
        self._loaded: dict[Place, Fingerprint] = {}
        self._seen: dict[Place, Fingerprint] = {}
        self._failures: dict[Place, str] = {}
        self._begun: dict[Place, Future[tuple[Served, Fingerprint]]] = {}
        self._loading: threading.Thread | None = None
        self._complaint = ""
        self._exchanging = asyncio.Lock()
        self.failed_before: Mapping[str, str] = {}
        self.loaded = False

    def __len__(self) -> int:
        return len(self._served)

    def all(self) -> list[Served]:
        return [self._served[place] for place in sorted(self._served, key=lambda place: (place[0], int(place[1])))]

    def versions(self, name: str) -> list[str]:
        return sorted((version for found, version in self._served if found == name), key=int)

    def get(self, name: str, version: str | None = None) -> Served:
        """The model of that name, of its highest version where none is given; RefusedError is 404, or 503 while loading."""
        served = self._served.get((name, version or self._newest.get(name, "")))
        if served is not None:
            return served
        if not self.loaded:
            raise RefusedError(503, "The models are being loaded; try again.", {"retry-after": "1"})
        if name not in self._newest:
            raise RefusedError(404, f"There is no model {name[:100]!r}; GET /v2 lists those that there are.")
        raise RefusedError(
            404, f"Model {name!r} has no version {(version or '')[:20]!r}, but {', '.join(self.versions(name))}."
        )

    def failures(self) -> dict[str, str]:
        """By NAME/VERSION why a file that was found is not, or no longer as it lies there, served."""
        return {**self.failed_before, **{"/".join(place): message for place, message in self._failures.items()}}

    def begin(self) -> None:
        """Has a thread load the first file, for who has other things to do before `load_all`; raises as `find` does."""
        place, path = next(iter(find(self._sources).items()))
        self._begun[place] = self._start_loading(place, path)

    @property
    def is_loading(self) -> bool:
        """Whether a thread loads a file."""
        return self._loading is not None and self._loading.is_alive()

    def wait(self) -> None:
        """Returns once no thread loads a file: the interpreter must not end beside one."""
        if self._loading is not None:
            self._loading.join()

    async def load_all(self) -> None:
        """Loads every file, one after another; raises what the first that fails raises."""
        async with self._exchanging:
            for place, path in find(self._sources).items():
                begun = self._begun.pop(place, None) or self._start_loading(place, path)
                self._put(place, *await asyncio.wrap_future(begun))
            self._begun.clear()  # of a file that has gone meanwhile
            self.loaded = True

    async def refresh(self, force: bool = False) -> None:
        """Looks at the files: loads what is new or changed (all with `force`), lets go of what is gone.

        A file counts as changed once two looks in a row see it the same: one that is being written is left to settle.
        """
        async with self._exchanging:
            try:
                found = await asyncio.to_thread(find, self._sources)
            except KbnError as error:
                if self._complaint != str(error):
                    log("reload", "error", reason=str(error))
                self._complaint = str(error)
                return
            self._complaint = ""
            for place, path in found.items():
                mark = await asyncio.to_thread(fingerprint, path, self._weights(place))
                settled = force or self._seen.get(place) == mark
                self._seen[place] = mark
                if mark and settled and (force or self._loaded.get(place) != mark):
                    await self._exchange(place, path, mark)
            for place in set(self._served) - set(found):
                self._remove(place)
            for gone in set(self._failures) - set(found):
                del self._failures[gone]

    async def _exchange(self, place: Place, path: Path, mark: Fingerprint) -> None:
        self._loaded[place] = mark  # a file that fails is not tried again before it changes
        try:
            served, mark = await asyncio.wrap_future(self._start_loading(place, path))
        except KbnError as error:
            self._failures[place] = str(error)
            self._metrics.reloads.labels(place[0], "failed").inc()
            log("reload", "error", model=place[0], version=place[1], reason=str(error))
            return
        self._put(place, served, mark)
        self._metrics.reloads.labels(place[0], "done").inc()

    def _weights(self, place: Place) -> Iterable[str]:
        served = self._served.get(place)
        return served.model.file.weights_sha256 if served else ()

    def _start_loading(self, place: Place, path: Path) -> Future[tuple[Served, Fingerprint]]:
        """In a daemon thread, for which the event loop does not wait when it ends, as it does for those of a pool."""
        future: Future[tuple[Served, Fingerprint]] = Future()
        future.set_running_or_notify_cancel()  # who asked may be cancelled, the thread goes on

        def load() -> None:
            try:
                future.set_result(self._load(place, path))
            except BaseException as error:
                future.set_exception(error)

        self._loading = threading.Thread(target=load, name="load", daemon=True)
        self._loading.start()
        return future

    def _load(self, place: Place, path: Path) -> tuple[Served, Fingerprint]:
        """In a thread: the model, and what its files were when they were read."""
        name, version = place
        before = fingerprint(path)
        served = Served.load(name, version, path, self._settings, self._metrics.of(name, version))
        after = fingerprint(path, served.model.file.weights_sha256)
        return served, after if after[:1] == before else before

    def _put(self, place: Place, served: Served, mark: Fingerprint) -> None:
        self._served[place] = served
        self._loaded[place] = self._seen[place] = mark
        self._failures.pop(place, None)
        self._name_newest()
        _tell(served)

    def _remove(self, place: Place) -> None:
        for known in (self._served, self._loaded, self._seen):
            known.pop(place, None)
        self._name_newest()
        log("removed", "info", model=place[0], version=place[1])

    def _name_newest(self) -> None:
        self._newest = {name: self.versions(name)[-1] for name, _ in self._served}


def _tell(served: Served) -> None:
    file = served.model.file
    facts: dict[str, Any] = {
        "model": served.name,
        "version": served.version,
        "file": str(served.model.path),
        "sha256": file.sha256,
        "check": file.check.verdict,
        "merges": served.warm.merges,
        "seconds": round(served.seconds, 3),
    }
    log("loaded", "info", **facts)
    about = {"model": served.name, "version": served.version}
    if file.check.verdict != "passed":
        log("check", "warning", **about, reason=file.check.sentence())
    if file.checker != "passed":
        log("checker", "warning", **about, reason=f"The ONNX checker: {file.checker}.")
    if served.warm.why:
        log("merging", "info", **about, reason=f"Requests are not merged: {served.warm.why}.")
