"""Signals for a thread that calls functions which wait: told one by one, and raised where nobody asks for them."""

from __future__ import annotations

import queue
import signal
from types import FrameType

_NAMES = ("SIGTERM", "SIGINT", "SIGHUP")
_NUMBERS = [number for name in _NAMES if (number := getattr(signal, name, None)) is not None]


class Ended(BaseException):
    """A signal asks to end what waits; no Exception, which libraries would take for a fault."""


class Signals:
    """Takes the signals over while it is entered.

    The first SIGTERM or SIGINT raises Ended unless `next` was called before; of the second on, each raises it.
    """

    def __init__(self) -> None:
        self._came: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._asked = self._ending = self._raised = False

    def __enter__(self) -> Signals:
        self._before = {number: signal.getsignal(number) for number in _NUMBERS}
        self.take()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        """Takes for Ended, and suppresses, what came of it in a library: compiled code makes a SystemError of it."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        return self._raised and isinstance(error, Exception)

    def take(self) -> None:
        """Takes them over again, from whatever has taken them since."""
        for number in _NUMBERS:
            signal.signal(number, self._on_signal)

    def next(self, seconds: float | None) -> int | None:
        """The next signal, or None after so many seconds without one; None seconds wait for ever."""
        self._asked = True
        try:
            return self._came.get(timeout=seconds)
        except queue.Empty:
            return None

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number == getattr(signal, "SIGHUP", None):
            if self._asked:
                self._came.put(number)
        elif self._asked and not self._ending:
            self._ending = True
            self._came.put(number)
        else:
            self._raised = True
            raise Ended
