"""What a client is told when its request is not answered: a status, one sentence, and the kind that the metrics count."""

from __future__ import annotations

_KINDS = {
    400: "invalid",
    401: "unauthorized",
    404: "not_found",
    405: "not_found",
    408: "slow",
    413: "too_large",
    415: "encoding",
    431: "too_large",
    499: "client_gone",
    503: "busy",
    504: "timeout",
}


class RefusedError(Exception):
    """The answer is `status` with the body {"error": message}; never the server's own fault."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers or {}


def kind_of(status: int) -> str:
    """The word that the metrics count a status under."""
    return _KINDS.get(status, "invalid" if status < 500 else "internal")
