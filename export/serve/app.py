"""The application: routes to what answers them. It is plain ASGI, so that other servers than kbn's can host it."""

from __future__ import annotations

from collections.abc import Callable

from starlette.routing import Route, Router
from starlette.types import ASGIApp

from .inference import Inference
from .metrics import Metrics
from .middleware import Middleware
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
    return Middleware(Router(routes, redirect_slashes=False), metrics, settings.token, is_draining)


def _versioned(path: str) -> tuple[str, str]:
    return path, f"{path}/versions/{{version}}"
