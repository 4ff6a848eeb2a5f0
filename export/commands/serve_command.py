"""`kbn serve FILE.onnx... | DIR`"""

from __future__ import annotations

import gc
import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError

if TYPE_CHECKING:
    from ..serve.settings import Settings

TOKEN_VARIABLE = "KBN_TOKEN"


# What only one of the engines has; on Ray, Ray's proxy owns the sockets.
_EMBEDDED_ALONE = ("receive_timeout", "connections", "certfile", "keyfile")
_TARGET = "target_ongoing_requests"
_RAY_ALONE = ("address", "replicas", "max_replicas", _TARGET)


def serve(
    context: typer.Context,
    models: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE.onnx...|DIR",
            help="The models; of a folder FILE.onnx and NAME/VERSION/model.onnx.",
            show_default=False,
        ),
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; this machine alone by default, 0.0.0.0 for everyone.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8080,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=256,
            help="Threads inside an operator; the CPUs there are by default, 1 on Ray.",
            show_default=False,
        ),
    ] = None,
    max_batch: Annotated[
        int, typer.Option(min=1, max=4096, help="Examples of waiting requests that are run together; 1 merges none.")
    ] = 16,
    queue: Annotated[int, typer.Option(min=1, max=65536, help="Requests that wait for a model; more get 503.")] = 256,
    timeout: Annotated[float, typer.Option(min=0.01, help="Seconds to an answer; then 504.")] = 30.0,
    max_body: Annotated[
        int, typer.Option(min=1, metavar="MIB", help="MiB that a request may have; more get 413.")
    ] = 32,
    receive_timeout: Annotated[
        float,
        typer.Option(min=0.1, help="Seconds that a client has to send a request, beside those that its size takes."),
    ] = 10.0,
    connections: Annotated[int, typer.Option(min=1, help="Open at a time; more get 503.")] = 1024,
    watch: Annotated[
        float, typer.Option(min=0, help="Seconds between looks at the files; 0 for none: SIGHUP reloads.")
    ] = 2.0,
    drain_pause: Annotated[
        float, typer.Option(min=0, help="Seconds that a SIGTERM leaves to notice that the server is not ready.")
    ] = 1.0,
    drain_timeout: Annotated[float, typer.Option(min=1, help="Seconds that requests have to end then.")] = 30.0,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help=f"Holds the token that clients must send; or {TOKEN_VARIABLE}.", show_default=False
        ),
    ] = None,
    certfile: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TLS: the certificate and its chain, PEM.", show_default=False)
    ] = None,
    keyfile: Annotated[Path | None, typer.Option(metavar="FILE", help="TLS: its key, PEM.", show_default=False)] = None,
    log_level: Annotated[
        str, typer.Option(metavar="debug|info|warning|error", help="What is logged, on stderr.")
    ] = "info",
    engine: Annotated[
        str, typer.Option(metavar="embedded|ray", help="What runs the models: this process, or Ray Serve.")
    ] = "embedded",
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT|auto",
            help="Ray: the cluster to join; one is started here by default.",
            show_default=False,
        ),
    ] = None,
    replicas: Annotated[int, typer.Option(min=1, max=4096, help="Ray: replicas, of --threads CPUs each.")] = 1,
    max_replicas: Annotated[
        int | None,
        typer.Option(
            min=1, max=4096, help="Ray: scale from --replicas up to so many with the load.", show_default=False
        ),
    ] = None,
    target_ongoing_requests: Annotated[
        int, typer.Option(min=1, help="Ray: requests per replica that the scaling aims at.")
    ] = 16,
) -> None:
    """Serve ONNX files over HTTP: the Open Inference Protocol v2, and a page at /."""
    if engine not in ("embedded", "ray"):
        raise UsageError(f"The engine {engine!r} must be embedded or ray.")
    _refuse_options(context, engine)
    if log_level not in ("debug", "info", "warning", "error"):
        raise UsageError(f"The log level {log_level!r} must be debug, info, warning or error.")
    token = read_token(token_file)
    gc.disable()  # until the server is ready: what is imported is no garbage, and to look through it delays the start
    from ..serve import logs
    from ..serve.settings import MIB, Settings, usable_cpus

    settings = Settings(
        host=host,
        port=port,
        threads=threads or (1 if engine == "ray" else usable_cpus()),
        max_batch=max_batch,
        queue=queue,
        timeout=timeout,
        max_body=max_body * MIB,
        receive_timeout=receive_timeout,
        connections=connections,
        watch=watch,
        drain_pause=drain_pause,
        drain_timeout=drain_timeout,
        token=token,
        certfile=certfile,
        keyfile=keyfile,
    )
    logs.set_up(log_level)
    if engine == "embedded":
        _serve_here(models, settings)
        return
    gc.enable()
    if importlib.util.find_spec("ray") is None:
        raise UsageError("--engine ray needs ray, which is not installed: pip install 'kbn[ray]'")
    from ..serve.ray_engine import serve as run_on_ray
    from ..serve.ray_settings import RaySettings

    run_on_ray(models, settings, RaySettings(address, replicas, max_replicas, target_ongoing_requests), log_level)


def _serve_here(models: list[Path], settings: Settings) -> None:
    """The embedded engine; a model is loaded while what serves it is imported."""
    from ..serve.listening import listen, take_files
    from ..serve.metrics import Metrics
    from ..serve.registry import Registry

    def look_for_garbage() -> None:
        gc.collect()
        gc.freeze()  # what lives as long as the server
        gc.enable()

    take_files(settings.connections)
    metrics = Metrics()
    registry = Registry(models, settings, metrics)
    with listen(settings) as listener:
        registry.begin()
        try:
            from ..serve.server import serve

            serve(registry, metrics, settings, listener, when_ready=look_for_garbage)
        except BaseException:
            registry.wait()
            raise
    if registry.is_loading:  # a signal came; a large file, or a long first run, may take minutes
        os._exit(0)


def _refuse_options(context: typer.Context, engine: str) -> None:
    """Raises UsageError where an option was given that the engine has no use for."""
    given = [
        name
        for name in (*_EMBEDDED_ALONE, *_RAY_ALONE)
        if getattr(context.get_parameter_source(name), "name", "") != "DEFAULT"
    ]
    if engine == "ray" and _TARGET in given and "max_replicas" not in given:
        raise UsageError("--target-ongoing-requests has no meaning without --max-replicas, which has replicas scaled.")
    given = [name for name in given if name in (_EMBEDDED_ALONE if engine == "ray" else _RAY_ALONE)]
    if not given:
        return
    option = f"--{given[0].replace('_', '-')}"
    if engine == "embedded":
        raise UsageError(f"{option} is for --engine ray.")
    raise UsageError(
        f"{option} has no meaning with --engine ray, where Ray's proxy owns the sockets. Leave it out; for TLS put a "
        "proxy that ends it before Ray's."
    )


def read_token(path: Path | None) -> str | None:
    """The token of a file, else of the environment; command lines are seen by everyone on the machine.

    Raises:
        UsageError: the file cannot be read, or the token is not 16 or more visible ASCII characters.
    """
    if path is None:
        token = os.environ.get(TOKEN_VARIABLE)
        if token is None:
            return None
    else:
        try:
            token = path.read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise UsageError(f"The token file {str(path)!r} cannot be read: {error}.") from None
    token = token.strip()
    if len(token) < 16 or not all("!" <= character <= "~" for character in token):
        raise UsageError("The token must be 16 or more visible ASCII characters: openssl rand -hex 16 makes one.")
    return token
