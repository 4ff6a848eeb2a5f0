"""The application: routes to what answers them. It is plain ASGI, so that other servers than kbn's can host it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from starlette.exceptions import HTTPException
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from .answering import Answer
from .infer import Infer
from .metrics import Metrics
from .middleware import Middleware
from .predict import Predict
from .registry import Registry
from .running import Running
from .settings import Settings
from .status import Status

_INFER = re.compile(r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?/infer")


def build(
    registry: Registry,
    metrics: Metrics,
    settings: Settings,
    is_draining: Callable[[], bool] = lambda: False,
    tells_id: bool = True,
) -> ASGIApp:
    """The ASGI application that serves the registry's models.

    Args:
        is_draining: whether the server is about to stop: it is not ready then, and connections are closed behind their answers.
        tells_id: whether answers have the request's id in a header, which hosts such as Ray add themselves.
    """
    running = Running(registry, settings)
    infer, predict = Infer(running), Predict(running)
    status = Status(registry, metrics, is_draining, guarded=settings.token is not None)
    model = "/v2/models/{name}"
    routes = [Route(f"{prefix}/ready", status.model_ready) for prefix in _versioned(model)]
    routes += [Route(prefix, status.model) for prefix in _versioned(model)]
    routes += [Route(path, predict.answer, methods=["POST"]) for path in ("/predict", *_versioned("/predict/{name}"))]
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
    routed = _Direct(infer, Router(routes, redirect_slashes=False))
    return Middleware(routed, metrics, settings.token, is_draining, tells_id)


class _Direct:
    """Passes requests to run a model, which are most, by the router, whose way through routes and wrappers they do not need."""

    def __init__(self, infer: Infer, router: Router) -> None:
        self._infer = infer
        self._router = router

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[Answer | None]:
        if scope["type"] == "http" and (found := _INFER.fullmatch(_path(scope))):
            if scope["method"] != "POST":
                raise HTTPException(405, headers={"allow": "POST"})
            return self._infer.answer(scope, receive, found["name"], found["version"])
        return self._router(scope, receive, send)


def _path(scope: Scope) -> str:
    """The path below where a host has mounted the application."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path[len(root) :] if path.startswith(f"{root}/") else path


def _versioned(path: str) -> tuple[str, str]:
    return path, f"{path}/versions/{{version}}"
