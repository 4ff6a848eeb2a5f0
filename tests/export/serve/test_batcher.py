"""The queue of a model: what runs together, what does not, and what is left out; the model is one that a test holds back."""

import asyncio
import gc
import math
import threading
import time
import weakref

import numpy as np
import pytest

from kbn.export.serve import batcher as batching
from kbn.export.serve.batcher import Batcher
from kbn.export.serve.refusal import RefusedError
from serving import wait_until


@pytest.fixture(autouse=True)
def slow(monkeypatch):
    """No run counts as quick, however fast the machine is."""
    monkeypatch.setattr(batching, "_QUICK", 0)


class HeldModel:
    """Doubles its rows once `free` is set; a row of 13 fails its whole run."""

    def __init__(self):
        self.free = threading.Event()
        self.started = threading.Event()
        self.runs = []

    def run(self, feeds, names=None, options=None):
        self.started.set()
        self.runs.append([array.shape for array in feeds.values()])
        while not self.free.wait(0.001):
            if options.terminate:
                raise RefusedError(400, "terminated")
        if any((array == 13).any() for array in feeds.values()):
            raise RefusedError(400, "13")
        return [2 * array for array in feeds.values()]


def rows(*values, width=2):
    return {"x": np.repeat(np.array(values, np.float32)[:, None], width, 1)}


async def after_the_first(model, batcher, *feeds, timeout=30):
    """Futures of these requests, all submitted while a first one runs."""
    first = batcher.submit(rows(0), 30)
    await asyncio.to_thread(model.started.wait)
    futures = [batcher.submit(each, timeout) for each in feeds]
    return first, futures


def run(test, **options):
    """Runs a coroutine function on a model that is held back and its batcher, and lets both go."""

    async def main():
        model = HeldModel()
        told = []
        batcher = Batcher(model, **{"merges": True, "max_rows": 4, "limit": 8, "tell": told.append, **options})
        try:
            await test(model, batcher)
            return model, told
        finally:
            model.free.set()

    return asyncio.run(main())


def test_what_waits_runs_together_and_each_gets_its_own():
    async def test(model, batcher):
        first, futures = await after_the_first(model, batcher, rows(1), rows(2, 3), rows(4))
        model.free.set()
        answers = await asyncio.gather(first, *futures)
        assert [answer[0][:, 0].tolist() for answer in answers] == [[0], [2], [4, 6], [8]]

    model, told = run(test)
    assert model.runs == [[(1, 2)], [(4, 2)]]
    assert [(each.rows, each.requests) for each in told] == [(1, 1), (4, 3)]


def test_requests_that_arrive_together_run_together_though_the_model_was_idle():
    async def test(model, batcher):
        model.free.set()
        await asyncio.gather(batcher.submit(rows(1), 30), batcher.submit(rows(2), 30))

    assert run(test)[0].runs == [[(2, 2)]]


def test_a_quick_model_runs_half_of_what_is_under_way(monkeypatch):
    async def test(model, batcher):
        first, futures = await after_the_first(model, batcher, *[rows(value) for value in range(1, 8)])
        model.free.set()
        answers = await asyncio.gather(first, *futures)
        assert [answer[0][0, 0] for answer in answers] == [2 * value for value in range(8)]

    monkeypatch.setattr(batching, "_QUICK", math.inf)
    # Of 7 and 1 answered; of 3 and 4 answered; of none and 3 answered.
    assert run(test, max_rows=16)[0].runs == [[(1, 2)], [(4, 2)], [(3, 2)]]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["float16", "bool", "int64", "object"])
def test_merged_inputs_lie_one_behind_the_other(dtype, order):
    first, second = (np.arange(start, start + 6).reshape(2, 3).astype(dtype, order=order) for start in (0, 6))
    merged = batching._joined([first, second[1:]])
    np.testing.assert_array_equal(merged, np.concatenate([first, second[1:]]))
    assert merged.dtype == dtype


@pytest.mark.parametrize(
    ("feeds", "shapes"),
    [
        ([rows(1), rows(2, width=3), rows(3)], [[(2, 2)], [(1, 3)]]),  # by tails, the oldest first
        ([rows(1, 2, 3), rows(4, 5), rows(6)], [[(3, 2)], [(3, 2)]]),  # never more than the limit
        ([rows(1, 2, 3, 4, 5), rows(6)], [[(5, 2)], [(1, 2)]]),  # larger than the limit: alone
    ],
)
def test_what_does_not_go_together_runs_apart(feeds, shapes):
    async def test(model, batcher):
        first, futures = await after_the_first(model, batcher, *feeds)
        model.free.set()
        await asyncio.gather(first, *futures)

    assert run(test)[0].runs[1:] == shapes


def test_a_model_that_does_not_merge_runs_each_alone():
    async def test(model, batcher):
        first, futures = await after_the_first(model, batcher, rows(1), rows(2))
        model.free.set()
        await asyncio.gather(first, *futures)

    assert run(test, merges=False)[0].runs == [[(1, 2)]] * 3


def test_inputs_of_different_lengths_run_alone():
    async def test(model, batcher):
        odd = {**rows(1), "y": np.zeros((2, 2), np.float32)}
        first, futures = await after_the_first(model, batcher, odd, odd)
        model.free.set()
        await asyncio.gather(first, *futures)

    assert run(test)[0].runs[1:] == [[(1, 2), (2, 2)]] * 2


def test_one_that_fails_does_not_fail_the_others():
    async def test(model, batcher):
        first, futures = await after_the_first(model, batcher, rows(1), rows(13), rows(3))
        model.free.set()
        answers = await asyncio.gather(first, *futures, return_exceptions=True)
        assert [answers[1][0][0, 0], answers[3][0][0, 0]] == [2, 6]
        assert isinstance(answers[2], RefusedError)

    run(test)


def test_an_output_without_the_rows_is_run_again_for_each():
    class Summing(HeldModel):
        def run(self, feeds, names=None, options=None):
            (array,) = super().run(feeds, names, options)
            return [array.sum(0, keepdims=True)]

    async def main():
        model = Summing()
        batcher = Batcher(model, merges=True, max_rows=4, limit=8)
        first, futures = await after_the_first(model, batcher, rows(1), rows(3))
        model.free.set()
        answers = await asyncio.gather(first, *futures)
        assert [answer[0][0, 0] for answer in answers] == [0, 2, 6]

    asyncio.run(main())


def test_a_full_queue_refuses_and_takes_again():
    async def test(model, batcher):
        first, futures = await after_the_first(model, batcher, *[rows(1)] * 8)
        with pytest.raises(RefusedError) as refused:
            batcher.submit(rows(1), 30)
        assert (refused.value.status, refused.value.headers) == (503, {"retry-after": "1"})
        futures.pop().cancel()
        again = batcher.submit(rows(5), 30)  # what is cancelled waits no longer
        model.free.set()
        await asyncio.gather(first, *futures)
        assert (await again)[0][0, 0] == 10

    run(test)


def test_what_is_cancelled_or_late_is_not_run():
    async def test(model, batcher):
        first, (gone, kept) = await after_the_first(model, batcher, rows(1), rows(2))
        late = batcher.submit(rows(3), 0.01)
        gone.cancel()
        with pytest.raises(RefusedError) as refused:
            await late
        assert refused.value.status == 504
        model.free.set()
        await asyncio.gather(first, kept)

    assert run(test)[0].runs == [[(1, 2)], [(1, 2)]]


def test_a_run_that_nobody_wants_is_stopped():
    async def test(model, batcher):
        only = batcher.submit(rows(1), 0.01)
        with pytest.raises(RefusedError) as refused:
            await only
        assert refused.value.status == 504
        while not batcher.idle:  # though the model is never let go
            await asyncio.sleep(0.001)

    assert len(run(test)[0].runs) == 1


@pytest.mark.parametrize("late", [False, True])
def test_a_run_goes_on_while_one_of_its_requests_is_wanted(late):
    async def test(model, batcher):
        model.free.set()
        await batcher.submit(rows(0), 30)
        model.free.clear()
        gone = batcher.submit(rows(1), 0.01 if late else 30)
        kept = batcher.submit(rows(2), 30)
        while not batcher._running:
            await asyncio.sleep(0.001)
        if late:
            with pytest.raises(RefusedError):
                await gone
        else:
            batcher.drop(gone)
        await asyncio.sleep(0.05)  # in which the model would see that it is to stop
        model.free.set()
        assert (await kept)[0][0, 0] == 4

    assert run(test)[0].runs == [[(1, 2)], [(2, 2)]]


def test_a_run_that_is_dropped_is_stopped():
    async def test(model, batcher):
        only = batcher.submit(rows(1), 30)
        await asyncio.to_thread(model.started.wait)
        batcher.drop(only)
        for _ in range(10_000):  # far less than the 30 s after which it would be ended anyhow
            if batcher.idle:  # though the model is never let go
                break
            await asyncio.sleep(0.001)
        assert batcher.idle
        assert only.cancelled()

    run(test)


def test_each_request_has_a_time_of_its_own():
    async def test(model, batcher):
        first = batcher.submit(rows(0), 30)
        waits = [0.2, 0.05, 0.3, 0.1, 30]
        began = time.monotonic()
        futures = [batcher.submit(rows(1), wait) for wait in waits]
        for index in (1, 3, 0, 2):
            with pytest.raises(RefusedError, match=f"{waits[index]:g} s"):
                await futures[index]
            assert time.monotonic() - began > waits[index] - 0.01
        model.free.set()
        assert (await first)[0][0, 0] == 0
        assert (await futures[4])[0][0, 0] == 2

    run(test)


def test_what_is_no_longer_wanted_does_not_gather_in_the_queue():
    async def test(model, batcher):
        first = batcher.submit(rows(0), 30)
        await asyncio.to_thread(model.started.wait)
        for _ in range(100):
            batcher.drop(batcher.submit(rows(1), 30))
        assert sum(map(len, batcher._queues.values())) <= 8
        model.free.set()
        await first

    run(test)


def test_a_run_that_fails_does_not_count_as_quick(monkeypatch):
    async def test(model, batcher):
        model.free.set()
        with pytest.raises(RefusedError):
            await batcher.submit(rows(13), 30)
        model.free.clear()
        model.started.clear()
        first, futures = await after_the_first(model, batcher, rows(1), rows(2), rows(3))
        monkeypatch.setattr(batching, "_QUICK", 0)
        model.free.set()
        await asyncio.gather(first, *futures)

    monkeypatch.setattr(batching, "_QUICK", math.inf)
    assert run(test)[0].runs == [[(1, 2)], [(1, 2)], [(3, 2)]]


def test_a_request_that_is_answered_leaves_no_garbage():
    gone = []

    async def test(model, batcher):
        model.free.set()
        for value in range(3):
            feeds = rows(value)
            gone.append(weakref.ref(feeds["x"]))
            await batcher.submit(feeds, 30)
            del feeds
        await asyncio.sleep(0.01)  # what is done once a request is answered

    gc.disable()
    try:
        run(test)
        assert [each() for each in gone[:-1]] == [None, None]
    finally:
        gc.enable()


def test_the_thread_ends_with_the_batcher_after_what_it_has():
    async def test(model, batcher):
        first, futures = await after_the_first(model, batcher, rows(1))
        del batcher
        model.free.set()
        assert [answer[0][0, 0] for answer in await asyncio.gather(first, *futures)] == [0, 2]

    before = threading.enumerate()
    run(test)
    wait_until(lambda: all(thread in before for thread in threading.enumerate() if thread.name == "kbn-run"))
