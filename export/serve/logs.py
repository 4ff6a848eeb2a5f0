"""Structured logs: one JSON object a line on stderr, each with its event; those of a request with its id.

Lines are written without Python's logging, whose records would cost each request a fifth of what the server itself does for it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import sys
import warnings
from datetime import UTC, datetime
from typing import Any, TextIO

import orjson

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class _Log:
    """Where lines go, and from which level on; nowhere, before `set_up`."""

    threshold = logging.CRITICAL
    stream: TextIO | None = None
    waiting: list[bytes] = []  # noqa: RUF012  # there is one log


def log(event: str, level: str, **facts: Any) -> None:
    """Writes an event; values must be what JSON has, and may be any text, whoever chose it."""
    _add(event, level, facts)
    _write()


def log_soon(event: str, level: str, **facts: Any) -> None:
    """Writes an event together with the others of this turn of the running event loop, as a call of the system for each takes
    long. Only that loop's thread may log while lines wait."""
    is_first = not _Log.waiting
    _add(event, level, facts)
    if is_first and _Log.waiting:
        asyncio.get_running_loop().call_soon(_write)


def traceback_of(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error))


def _add(event: str, level: str, facts: dict[str, Any]) -> None:
    if _LEVELS[level] < _Log.threshold or _Log.stream is None:
        return
    line = {"time": datetime.now(UTC), "level": level, "event": event, **facts}
    try:
        text = orjson.dumps(line, default=str, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # a file name that is not UTF-8
        text = json.dumps({**line, "time": line["time"].isoformat()}, default=str).encode() + b"\n"
    _Log.waiting.append(text)


def _write() -> None:
    lines, _Log.waiting = _Log.waiting, []
    if lines and _Log.stream is not None:
        try:
            _Log.stream.write(b"".join(lines).decode())
            _Log.stream.flush()
        except OSError:  # a full disk or a closed pipe must not end the service
            _Log.stream = None


def set_up(level: str, stream: TextIO | None = None) -> None:
    """Sends the server's logs, and what uvicorn and asyncio have to say of faults, to stderr, and nothing else there."""
    warnings.simplefilter("ignore")  # of libraries to programmers
    _Log.threshold, _Log.stream = _LEVELS[level], stream or sys.stderr
    take_over("uvicorn.error", "asyncio")


def take_over(*names: str) -> None:
    """Has these loggers tell here what went wrong, and nothing else anywhere."""
    handler = _OfLibraries()
    for name in names:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.ERROR)


class _OfLibraries(logging.Handler):
    """Tells what goes wrong over and over, such as an accept without files, once a second."""

    def __init__(self) -> None:
        super().__init__()
        self._last, self._when = ("", ""), -math.inf

    def emit(self, record: logging.LogRecord) -> None:
        trace = logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
        fault = (record.getMessage(), trace)
        if fault == self._last and record.created - self._when < 1:
            return
        self._last, self._when = fault, record.created
        log("fault", "error", logger=record.name, reason=fault[0], traceback=trace)
