"""Signals around Ray, which has handlers of its own: none is lost, and what libraries make of one is still an end."""

import signal

import pytest

from kbn.export.serve.ray_signals import Ended, Signals


def test_signals_are_told_to_who_asks_and_raised_where_nobody_does():
    with Signals() as signals:
        signal.raise_signal(signal.SIGHUP)  # before there is anything to load anew
        with pytest.raises(Ended):
            signal.raise_signal(signal.SIGTERM)
        assert signals.next(0.01) is None
        signal.raise_signal(signal.SIGHUP)
        assert signals.next(1) == signal.SIGHUP
        signal.raise_signal(signal.SIGTERM)
        assert signals.next(1) == signal.SIGTERM
        with pytest.raises(Ended):
            signal.raise_signal(signal.SIGTERM)


def test_what_a_library_makes_of_an_end_is_one():
    reached = False
    with Signals():
        try:
            signal.raise_signal(signal.SIGTERM)
        except Ended:
            raise SystemError("returned a result with an exception set") from None  # seen of Ray while Ray Serve starts
        reached = True
    assert not reached
    with pytest.raises(SystemError), Signals():
        raise SystemError("of its own accord")
