"""What the replicas load: files that are new or have changed go to the cluster's store, each content once."""

from __future__ import annotations

from collections.abc import Sequence
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

    def publish(self) -> None:
        """Sends the files that are new, and has the replicas load them.

        Raises:
            KbnError: as `Collector.collect` and `read` raise them; nothing is published then.
        """
        packages = self._collector.collect()
        self._send(packages)
        self._published = self._collector.collected()
        log("published", "info", models=len(packages))

    def refresh(self, force: bool) -> None:
        """Publishes the files if they have changed; what cannot be served leaves what is.

        A file counts as changed once two looks in a row see it the same, or at once with `force`.
        """
        try:
            found = self._collector.look()
            settled = force or found == self._seen
            self._seen = found
            if settled and (force or found != self._failed) and found != self._published:
                self._failed = found  # what fails is not tried again before it changes
                self.publish()
                self._failed = {}
            self._complaint = ""
        except KbnError as error:
            self._complain(str(error), force)
        except Exception as error:  # of Ray: an actor that died, an object store that is full
            self._failed = {}  # which may pass: it is tried again
            self._complain(reason(error), force)

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

    def _complain(self, why: str, force: bool) -> None:
        if force or self._complaint != why:
            log("reload", "error", reason=why)
        self._complaint = why
