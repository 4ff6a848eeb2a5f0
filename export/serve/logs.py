"""Structured logs: one JSON object a line on stderr, each with its event; those of a request with its id."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from datetime import UTC, datetime
from typing import Any

import orjson

_LOGGER = logging.getLogger("kbn.serve")
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def log(event: str, level: str, **facts: Any) -> None:
    """Writes an event; values must be what JSON has, and may be any text, whoever chose it."""
    number = _LEVELS[level]
    if _LOGGER.isEnabledFor(number):
        _LOGGER.log(number, event, extra={"facts": facts})


def set_up(level: str) -> None:
    """Sends the server's logs, and what uvicorn and asyncio have to say of faults, to stderr, and nothing else there."""
    warnings.simplefilter("ignore")  # of libraries to programmers
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    _LOGGER.handlers, _LOGGER.propagate = [handler], False
    _LOGGER.setLevel(_LEVELS[level])
    for name in ("uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.ERROR)


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(line, default=str).decode()
        except TypeError:  # a file name that is not UTF-8
            return json.dumps(line, default=str)
