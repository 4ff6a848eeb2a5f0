"""Opportunistic batching: whatever waits for a model while it runs is run together next.

Nobody waits for company: a request that finds the model idle runs at once. Requests go together if the tails of their
shapes (all axes but the first) are equal, up to `max_rows` examples; one that is larger runs alone. The queue is bounded.
What is no longer wanted, as its client has gone or its time is up, is left out, or stopped where all of a run is unwanted.

Where runs are quick, as what the event loop does for their requests, one takes half of the requests that are under way: the
loop answers the one half while the model runs the other, instead of the two waiting for each other.

All methods are called in the event loop's thread; the model runs in one thread of the batcher's own, which ends once nobody
holds the batcher. So a request that holds one whose model has been exchanged meanwhile is still answered by it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import math
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .model import Model, run_options
from .refusal import RefusedError

Array = NDArray[Any]
Key = tuple[Any, ...]
Answer = list[Array] | Exception

# Seconds of a run for each of its requests. If the loop takes N t for N requests, and a run T, of whatever size, then a round
# takes N t + T with whole runs and 2 T with halves, which is less up to T / (N / 2) = 2 t. On a core of 2021 t is some 0.25 ms.
_QUICK = 0.0005
_LARGE = 1024 * 1024  # bytes of merged inputs


@dataclass(frozen=True)
class RunFacts:
    """What is told of each run: examples and requests in it, seconds that it took, seconds that each request waited."""

    rows: int
    requests: int
    seconds: float
    waited: Sequence[float]


@dataclass(eq=False, slots=True)
class _Pending:
    feeds: Mapping[str, Array]
    rows: int
    number: int
    arrived: float
    expires: float
    future: asyncio.Future[list[Array]]


@dataclass(eq=False, slots=True)
class _Run:
    requests: list[_Pending]
    options: Any


class Batcher:
    """The queue of one model and the thread that it runs in.

    Args:
        merges: whether the model's examples may be run together.
        max_rows: examples in one run of several requests.
        limit: requests that wait.
        tell: called after each run.
    """

    def __init__(
        self, model: Model, merges: bool, max_rows: int, limit: int, tell: Callable[[RunFacts], None] = lambda _: None
    ) -> None:
        self._model = model
        self._merges = merges
        self._max_rows = max_rows
        self._limit = limit
        self._tell = tell
        self._queues: dict[Key, deque[_Pending]] = {}
        self._numbers = itertools.count()
        self._running: _Run | None = None
        self._start_asked = False
        self._is_quick = False  # known after a first run
        self._alarm: asyncio.TimerHandle | None = None  # one for all requests, when the first of them expires
        self._alarm_at = math.inf
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        weakref.finalize(self, self._jobs.put, None)
        threading.Thread(target=_work, args=[self._jobs], name="kbn-run", daemon=True).start()

    @property
    def waiting(self) -> int:
        """The requests in the queue that are still wanted."""
        return sum(not each.future.done() for queue in self._queues.values() for each in queue)

    @property
    def _is_full(self) -> bool:
        if sum(map(len, self._queues.values())) < self._limit:
            return False
        # Those that are no longer wanted are let go only where it matters.
        kept = {key: deque(each for each in queue if not each.future.done()) for key, queue in self._queues.items()}
        self._queues = {key: queue for key, queue in kept.items() if queue}
        return sum(map(len, self._queues.values())) >= self._limit

    @property
    def idle(self) -> bool:
        return self._running is None and not self._queues

    def submit(self, feeds: Mapping[str, Array], timeout: float) -> asyncio.Future[list[Array]]:
        """A future of all outputs; `drop` it when they are no longer wanted.

        Raises:
            RefusedError: the queue is full (503). The future raises it after `timeout` seconds (504), or as `Model.run` does.
        """
        if self._is_full:
            raise RefusedError(
                503, f"{self._limit} requests wait for this model already; try again.", {"retry-after": "1"}
            )
        loop = asyncio.get_running_loop()
        rows = len(next(iter(feeds.values()))) if self._merges else 1
        now = time.monotonic()
        request = _Pending(feeds, rows, next(self._numbers), now, now + timeout, loop.create_future())
        self._queues.setdefault(self._key(request), deque()).append(request)
        if request.expires < self._alarm_at:
            self._set_alarm(request.expires)
        if self._running is None and not self._start_asked:
            # At the loop's next turn, so that the requests which have arrived together run together.
            self._start_asked = True
            loop.call_soon(self._start, loop, 0)
        return request.future

    def drop(self, future: asyncio.Future[list[Array]]) -> None:
        """Cancels what `submit` has given, and stops its run where nobody else wants it."""
        future.cancel()
        self._stop_if_unwanted()

    def _key(self, request: _Pending) -> Key:
        if not self._merges or request.rows > self._max_rows:
            return (request.number,)
        if len(request.feeds) > 1 and len({len(array) for array in request.feeds.values()}) > 1:
            return (request.number,)
        return tuple([(name, array.shape[1:]) for name, array in sorted(request.feeds.items())])

    def _start(self, loop: asyncio.AbstractEventLoop, answered: int) -> None:
        """Starts the next run; `answered` requests are being answered, whose clients may ask again soon."""
        self._start_asked = False
        if self._running is not None:
            return
        if requests := self._take(answered):
            size = sum(array.nbytes for each in requests for array in each.feeds.values())
            self._running = run = _Run(requests, run_options(size))
            self._jobs.put(functools.partial(self._run, run, loop))

    def _take(self, answered: int) -> list[_Pending]:
        """The requests that run next: the one that has waited longest, and what goes with it."""
        taken: list[_Pending] = []
        under_way = answered + sum(map(len, self._queues.values()))
        most = (under_way + 1) // 2 if self._is_quick else under_way
        while self._queues and not taken:
            key = min(self._queues, key=lambda each: self._queues[each][0].number)
            queue, rows = self._queues[key], 0
            while queue and (not taken or (rows + queue[0].rows <= self._max_rows and len(taken) < most)):
                request = queue.popleft()
                if not request.future.done():
                    taken.append(request)
                    rows += request.rows
            if not queue:
                del self._queues[key]
        return taken

    def _run(self, run: _Run, loop: asyncio.AbstractEventLoop) -> None:
        """In the thread: runs, splits, and hands the answers back."""
        started = time.monotonic()
        try:
            answers = self._answers(run)
        except Exception as error:  # the thread must go on
            answers = [error] * len(run.requests)
        with contextlib.suppress(RuntimeError):  # the loop has been closed, by a second signal
            loop.call_soon_threadsafe(self._finish, run, answers, started, time.monotonic(), loop)

    def _answers(self, run: _Run) -> list[Answer]:
        requests = run.requests
        if len(requests) == 1:
            return [self._alone(requests[0], run)]
        try:
            merged = {name: _joined([each.feeds[name] for each in requests]) for name in requests[0].feeds}
            outputs = self._model.run(merged, None, run.options)
        except (RefusedError, MemoryError):
            return [self._alone(each, run) for each in requests]  # one of them must not spoil the others
        ends = list(itertools.accumulate(each.rows for each in requests))
        if any(not array.ndim or len(array) != ends[-1] for array in outputs):
            return [self._alone(each, run) for each in requests]
        return [[array[end - each.rows : end] for array in outputs] for each, end in zip(requests, ends, strict=True)]

    def _alone(self, request: _Pending, run: _Run) -> Answer:
        try:
            return self._model.run(request.feeds, None, run.options)
        except RefusedError as refusal:
            return refusal

    def _finish(
        self, run: _Run, answers: Sequence[Answer], started: float, ended: float, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._running = None
        if not any(isinstance(answer, Exception) for answer in answers):
            self._is_quick = ended - started < _QUICK * len(run.requests)
        self._start(loop, len(run.requests))  # the next run goes on while these answers are written
        for request, answer in zip(run.requests, answers, strict=True):
            if request.future.done():
                continue
            if isinstance(answer, Exception):
                request.future.set_exception(answer)
            else:
                request.future.set_result(answer)
        waited = [max(0.0, started - each.arrived) for each in run.requests]
        self._tell(RunFacts(sum([each.rows for each in run.requests]), len(run.requests), ended - started, waited))

    def _set_alarm(self, at: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        delay = max(0.0, at - time.monotonic())
        self._alarm, self._alarm_at = asyncio.get_running_loop().call_later(delay, _ring, weakref.ref(self)), at

    def expire(self) -> None:
        """Ends the requests whose time is up; the alarm calls this."""
        due, self._alarm, self._alarm_at = self._alarm_at, None, math.inf  # by the clock it may be a millisecond early
        for each in self._pending():
            if each.expires <= due:
                each.future.set_exception(RefusedError(504, f"No answer within {each.expires - each.arrived:g} s."))
        if left := [each.expires for each in self._pending()]:
            self._set_alarm(min(left))
        self._stop_if_unwanted()

    def _pending(self) -> Iterator[_Pending]:
        running = [] if self._running is None else self._running.requests
        return (each for each in itertools.chain(running, *self._queues.values()) if not each.future.done())

    def _stop_if_unwanted(self) -> None:
        run = self._running
        if run is not None and all(each.future.done() for each in run.requests):
            run.options.terminate = True


def _joined(arrays: Sequence[Array]) -> Array:
    """Arrays one behind the other along their first axis.

    numpy gives the interpreter away at each array that it copies, and waits for it again; `join` keeps it, which is quicker
    where there is little to copy.
    """
    first = arrays[0]
    is_large = sum(array.nbytes for array in arrays) > _LARGE
    if is_large or first.dtype.hasobject or not all(array.flags.c_contiguous for array in arrays):
        return np.concatenate(arrays)
    return np.frombuffer(b"".join([array.data for array in arrays]), first.dtype).reshape(-1, *first.shape[1:])


def _work(jobs: SimpleQueue[Callable[[], None] | None]) -> None:
    """The thread of a batcher, which it must not hold while it waits."""
    while (job := jobs.get()) is not None:
        job()
        del job


def _ring(batcher: weakref.ref[Batcher]) -> None:
    """The alarm of a batcher, which it must not hold until it goes off."""
    if (there := batcher()) is not None:
        there.expire()
