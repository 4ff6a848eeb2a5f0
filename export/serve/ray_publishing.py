"""What the replicas load: new and changed files go to the cluster's store, each content once, and why others do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray

from ..errors import KbnError
from ..wording import reason
from .logs import log
from .ray_files import Collector, Package, read
from .repository import Fingerprint, Place


class Publisher:
    """Sends what a collector finds to a store."""

    def __init__(self, collector: Collector, store: Any) -> None:
        self._collector = collector
        self._store = store
        self._references: dict[str, Any] = {}
        self._seen: dict[Place, Fingerprint] = {}
        self._failed: dict[Place, Fingerprint] = {}
        self._published: dict[Place, Fingerprint] = {}
        self._complaint = ""

    def publish(self, strict: bool = True, retry: bool = False) -> None:
        """Sends the files that are new, and has the replicas load them; the arguments are those of `Collector.collect`.

        Raises:
            KbnError: as `Collector.collect` and `read` raise them; nothing is published then.
        """
        before = {} if retry else self._collector.failures
        packages = self._collector.collect(strict, retry)
        failures = self._collector.failures
        for (name, version), why in failures.items() - before.items():
            log("reload", "error", model=name, version=version, reason=why)
        self._send(packages, {"/".join(place): why for place, why in failures.items()})
        self._collector.keep()
        self._published = self._collector.collected()
        log("published", "info", models=len(packages))

    def refresh(self, force: bool) -> None:
        """Publishes the files if they have changed; one that cannot be served leaves what is, and is told.

        A file counts as changed once two looks in a row see it the same, or at once with `force`.
        """
        if force:
            log("reload", "info", reason="SIGHUP")
        try:
            found = self._collector.look()
            settled = force or found == self._seen
            self._seen = found
            changed = found != self._published or (force and self._collector.failures)
            if settled and (force or found != self._failed) and changed:
                self._failed = found  # what fails is not tried again before it changes
                self.publish(strict=False, retry=force)
                self._failed = {}
            self._complaint = ""
        except KbnError as error:
            self._complain(str(error), force)
        except Exception as error:  # of Ray: an actor that died, an object store that is full
            self._failed = {}  # which may pass: it is tried again
            self._complain(reason(error), force)

    def _send(self, packages: Sequence[Package], failures: Mapping[str, str]) -> None:
        references, sent = {}, []
        for package in packages:
            for name, sha256 in package.sha256.items():
                if sha256 not in references:
                    known = self._references.get(sha256)
                    (references[sha256],) = [known] if known else ray.get(self._store.keep.remote(read(package, name)))
            sent.append(replace(package, contents={name: references[key] for name, key in package.sha256.items()}))
        ray.get(self._store.publish.remote(sent, failures))
        self._references = references

    def _complain(self, why: str, force: bool) -> None:
        if force or self._complaint != why:
            log("reload", "error", reason=why)
        self._complaint = why
