"""Lines of the log: which are written, when, and what they hold."""

import asyncio
import io
import json
import logging
from datetime import UTC, datetime, timedelta

import pytest

from kbn.export.serve import logs


class Counting(io.StringIO):
    """A stream that counts its writes."""

    writes = 0

    def write(self, text):
        self.writes += 1
        return super().write(text)


@pytest.fixture
def stream(monkeypatch):
    stream = Counting()
    monkeypatch.setattr(logs._Log, "stream", stream)
    monkeypatch.setattr(logs._Log, "threshold", logs._LEVELS["info"])
    return stream


def lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_lines_of_one_turn_are_written_together_and_in_order(stream):
    async def main():
        for number in range(3):
            logs.log_soon("request", "info", number=number)
        assert not stream.writes
        await asyncio.sleep(0)
        assert stream.writes == 1
        logs.log_soon("request", "info", number=3)
        logs.log("stopped", "info", number=4)  # which writes what waits first
        logs.log_soon("request", "debug", number=5)  # below the level
        await asyncio.sleep(0)

    asyncio.run(main())
    assert [line["number"] for line in lines(stream)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("value", ["plain", "\udcff"])  # the second is of a file name that is not UTF-8
def test_a_line_has_its_time(stream, value):
    logs.log("loaded", "info", file=value)
    (line,) = lines(stream)
    assert abs(datetime.fromisoformat(line["time"]) - datetime.now(UTC)) < timedelta(minutes=1)
    assert (line["event"], line["level"], line["file"]) == ("loaded", "info", value)


def test_a_stream_that_fails_ends_the_log_and_nothing_else(stream, monkeypatch):
    def full(_text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stream, "write", full)
    logs.log("request", "info")
    assert logs._Log.stream is None
    logs.log("request", "info")


def test_a_fault_of_a_library_that_comes_over_and_over_is_told_once_a_second(stream):
    handler = logs._OfLibraries()
    for message, seconds in (("a", 0), ("a", 0.9), ("a", 1.1), ("b", 1.2), ("a", 1.3)):
        handler.emit(logging.makeLogRecord({"msg": message, "created": seconds}))
    handler.emit(logging.makeLogRecord({"msg": "a", "created": 1.4, "exc_info": (ValueError, ValueError("why"), None)}))
    told = lines(stream)
    assert [line["reason"] for line in told] == ["a", "a", "b", "a", "a"]
    assert "ValueError: why" in told[-1]["traceback"]
