"""The application: routes to what answers them. It is plain ASGI, so that other servers than kbn's can host it."""

from __future__ import annotations

from collections.abc import Callable

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from .inference import Inference
from .metrics import Metrics
from .middleware import FACTS, Middleware
from .refusal import RefusedError
from .registry import Registry
from .settings import Settings
from .status import Status


def build(
    registry: Registry, metrics: Metrics, settings: Settings, is_draining: Callable[[], bool] = lambda: False
) -> ASGIApp:
    """The ASGI application that serves the registry's models.

    Args:
        is_draining: whether the server is about to stop: it is not ready then, and connections are closed behind their answers.
    """
    inference = Inference(registry, settings)
    status = Status(registry, metrics, is_draining, guarded=settings.token is not None)
    model = "/v2/models/{name}"
    routes = [Route(f"{prefix}/infer", inference.infer, methods=["POST"]) for prefix in _versioned(model)]
    routes += [Route(f"{prefix}/ready", status.model_ready) for prefix in _versioned(model)]
    routes += [Route(prefix, status.model) for prefix in _versioned(model)]
    routes += [
        Route(path, inference.predict, methods=["POST"]) for path in ("/predict", *_versioned("/predict/{name}"))
    ]
    routes += [
        Route("/v2/health/live", status.live),
        Route("/v2/health/ready", status.ready),
        Route("/v2", status.server),
        Route("/metrics", status.metrics),
        Route("/openapi.json", status.openapi),
        Route("/state", status.state),
        Route("/", status.page),
        Route("/page.js", status.script),
    ]
    starlette = Starlette(routes=routes, exception_handlers={RefusedError: _refused, HTTPException: _of_starlette})
    starlette.router.redirect_slashes = False
    return Middleware(starlette, metrics, settings.token, is_draining)


def _versioned(path: str) -> tuple[str, str]:
    return path, f"{path}/versions/{{version}}"


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    request.scope[FACTS].update(status=error.status, reason=error.message[:300])
    return _answer(error.status, error.message, error.headers)


async def _of_starlette(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = {
        404: f"There is no {request.url.path[:100]!r}; GET /openapi.json describes what there is.",
        405: f"{request.method} is not what {request.url.path[:100]!r} takes.",
    }.get(error.status_code, str(error.detail))
    return _answer(error.status_code, message, dict(error.headers or {}))


def _answer(status: int, message: str, headers: dict[str, str]) -> Response:
    return Response(orjson.dumps({"error": message}), status, headers, media_type="application/json")
