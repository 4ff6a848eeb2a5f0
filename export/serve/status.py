"""The routes that tell: health, metadata, metrics, the description of all routes, and the page with what it shows."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from kbn._version import __version__

from .metrics import Metrics
from .openapi import document
from .registry import Registry

# No part of the page comes from elsewhere, and none goes there.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'self'; connect-src 'self'; img-src 'self' blob: data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Status:
    """The handlers of requests that run no model."""

    def __init__(self, registry: Registry, metrics: Metrics, is_draining: Callable[[], bool], guarded: bool) -> None:
        self._registry = registry
        self._metrics = metrics
        self._is_draining = is_draining
        self._guarded = guarded
        self._started = time.monotonic()

    @property
    def is_ready(self) -> bool:
        return self._registry.loaded and not self._is_draining()

    async def live(self, _request: Request) -> Response:
        """GET /v2/health/live"""
        return _json({"live": True})

    async def ready(self, _request: Request) -> Response:
        """GET /v2/health/ready"""
        return _json({"ready": True}) if self.is_ready else self._not_ready({"ready": False})

    async def server(self, _request: Request) -> Response:
        """GET /v2"""
        names = sorted({served.name for served in self._registry.all()})
        return _json({"name": "kbn", "version": __version__, "extensions": ["binary_tensor_data"], "models": names})

    async def model(self, request: Request) -> Response:
        """GET /v2/models/NAME[/versions/VERSION]"""
        name = request.path_params["name"]
        served = self._registry.get(name, request.path_params.get("version"))
        return _json({"name": name, "versions": self._registry.versions(name), **served.metadata()})

    async def model_ready(self, request: Request) -> Response:
        """GET /v2/models/NAME[/versions/VERSION]/ready"""
        name = request.path_params["name"]
        self._registry.get(name, request.path_params.get("version"))
        return (
            _json({"name": name, "ready": True}) if self.is_ready else self._not_ready({"name": name, "ready": False})
        )

    async def metrics(self, _request: Request) -> Response:
        """GET /metrics"""
        self._metrics.ready.set(self.is_ready)
        for served in self._registry.all():
            self._metrics.waiting.labels(served.name, served.version).set(served.batcher.waiting)
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def openapi(self, _request: Request) -> Response:
        """GET /openapi.json"""
        return _json(document(self._guarded))

    async def state(self, _request: Request) -> Response:
        """GET /state: what the page shows."""
        return _json(
            {
                "version": __version__,
                "ready": self.is_ready,
                "seconds": time.monotonic() - self._started,
                "models": [served.state() for served in self._registry.all()],
                "failures": self._registry.failures(),
            }
        )

    async def page(self, _request: Request) -> Response:
        """GET /"""
        return Response(_file("page.html"), media_type="text/html", headers={"content-security-policy": _POLICY})

    async def script(self, _request: Request) -> Response:
        """GET /page.js"""
        return Response(_file("page.js"), media_type="text/javascript", headers={"cache-control": "no-cache"})

    def _not_ready(self, value: dict[str, Any]) -> Response:
        why = "The server is being stopped." if self._is_draining() else "The models are being loaded."
        return _json({**value, "error": why}, 503)


def _json(value: Any, status: int = 200) -> Response:
    option = orjson.OPT_SERIALIZE_NUMPY
    return Response(orjson.dumps(value, option=option), status, media_type="application/json")


def _file(name: str) -> bytes:
    return files(__package__).joinpath(name).read_bytes()
