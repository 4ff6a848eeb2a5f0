"""Where the server listens: a bound socket, before anything that takes long, and what is told of its address."""

from __future__ import annotations

import contextlib
import ipaddress
import socket

from ..errors import UsageError
from .logs import log
from .settings import Settings

_OTHER_FILES = 256  # than connections that are open, or being refused


def listen(settings: Settings) -> socket.socket:
    """A bound socket; raises UsageError where there is none to be had, or TLS cannot be set up."""
    _check_tls(settings)
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, UnicodeError) as error:
        if listener is not None:
            listener.close()
        raise UsageError(
            f"{settings.host} port {settings.port} cannot be listened on: {error}. Choose others with --host and --port."
        ) from None
    return listener


def take_files(connections: int) -> None:
    """Has the system allow this process as many open files as so many connections need; says so where it does not.

    Without one for each, strangers who connect and say nothing would keep it from answering that there are too many.
    """
    try:
        import resource  # of Unix
    except ModuleNotFoundError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * connections + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < needed:
        why = f"{allowed} files may be open, --connections {connections} needs {needed}: raise ulimit -n, or ask for fewer."
        log("files", "warning", reason=why)


def _check_tls(settings: Settings) -> None:
    if settings.keyfile is not None and settings.certfile is None:
        raise UsageError("--keyfile has no meaning without --certfile, the certificate that it belongs to.")
    for option, path in (("--certfile", settings.certfile), ("--keyfile", settings.keyfile)):
        if path is None:
            continue
        try:
            path.open("rb").close()
        except OSError as error:
            raise UsageError(f"{option} {str(path)!r} cannot be read: {error.strerror}. Give a PEM file.") from None
    if settings.certfile is not None:
        import ssl

        try:
            # A password is given, as OpenSSL would ask for one on the terminal.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.certfile, settings.keyfile, password="")
        except OSError as error:  # ssl.SSLError is one
            raise UsageError(
                f"TLS cannot be set up: {error}. Give a certificate and its key, both PEM, the key without a password: "
                "--certfile, --keyfile."
            ) from None


def tell_address(settings: Settings, host: str, port: int) -> None:
    """Logs where the server listens, and whether that is open to everyone."""
    scheme = "https" if settings.certfile else "http"
    log("listening", "info", url=f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/")
    if not _is_loopback(host) and settings.token is None:
        log("open", "warning", reason="Everyone who reaches this address may use it; --token-file asks for a token.")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"
