"""A generator of requests in a process of its own: closed loop, open loop, and onnxruntime alone on the same input.

Its clients are asyncio protocols that write prepared bytes and look for the end of the answer, so that on the cores that it
shares with the server it takes little of them.
"""

import asyncio
import json
import multiprocessing
import random
import time

import numpy as np
import uvloop


def request(host, port, model, array):
    """An inference request with its tensor, and its answer's, as bytes."""
    document = {
        "inputs": [
            {
                "name": "image",
                "datatype": "FP32",
                "shape": array.shape,
                "parameters": {"binary_data_size": array.nbytes},
            }
        ],
        "parameters": {"binary_data_output": True},
    }
    text = json.dumps(document).encode()
    body = text + array.tobytes()
    head = (
        f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: {host}:{port}\r\nInference-Header-Content-Length: {len(text)}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Client(asyncio.Protocol):
    """One connection; `ask` sends, `done` is called with nothing once the answer is there."""

    def __init__(self, message):
        self.message = message
        self.received = b""
        self.done = None
        self.waiting = False

    def connection_made(self, transport):
        self.transport = transport

    def ask(self, done):
        self.done, self.waiting = done, True
        self.transport.write(self.message)

    def connection_lost(self, error):
        if self.waiting:
            raise SystemExit(f"a connection was closed instead of an answer: {error}")

    def data_received(self, data):
        self.received += data
        head, found, body = self.received.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head[head.index(b"content-length: ") + 16 :].split(b"\r", 1)[0])
        if len(body) >= length:
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(self.received.decode("latin-1"))
            self.received, self.waiting = b"", False
            self.done()


async def connected(port, message, count):
    loop = asyncio.get_running_loop()
    return [(await loop.create_connection(lambda: Client(message), "127.0.0.1", port))[1] for _ in range(count)]


async def closed_loop(port, message, clients, seconds):
    """Each client asks again as soon as it has its answer; the seconds that each answer took, after a warm-up."""
    loop, taken, asking = asyncio.get_running_loop(), [], clients
    begin = time.perf_counter() + seconds * 0.2
    end = begin + seconds
    finished = loop.create_future()

    def ask(client):
        asked = time.perf_counter()

        def done():
            nonlocal asking
            now = time.perf_counter()
            if begin <= now < end:
                taken.append(now - asked)
            if now < end:
                ask(client)
                return
            asking -= 1
            if not asking:
                finished.set_result(None)

        client.ask(done)

    pool = await connected(port, message, clients)
    for client in pool:
        ask(client)
    await finished
    for client in pool:
        client.transport.close()
    return taken, len(taken) / seconds


async def open_loop(port, message, rate, seconds):
    """Requests arrive at random times, whether or not earlier ones are answered; time counts from when they were due."""
    taken, idle, due, waiting = [], [], time.perf_counter(), 0
    idle = await connected(port, message, 200)
    pool, draw = list(idle), random.Random(0)
    end = due + seconds
    while due < end:
        due += draw.expovariate(rate)
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        while not idle:
            await asyncio.sleep(0.0005)
        client = idle.pop()
        waiting += 1

        def done(client=client, due=due):
            nonlocal waiting
            taken.append(time.perf_counter() - due)
            idle.append(client)
            waiting -= 1

        client.ask(done)
    while waiting:
        await asyncio.sleep(0.01)
    for client in pool:
        client.transport.close()
    return taken, len(taken) / seconds


def alone(path, array, threads, seconds):
    """onnxruntime in one thread of this process, one image after another, with kbn's own session options."""
    from kbn.export.serve.model import load

    model, taken = load(path, threads), []
    end = time.perf_counter() + seconds * 1.2
    while (started := time.perf_counter()) < end:
        model.run({"image": array})
        taken.append(time.perf_counter() - started)
    kept = taken[len(taken) // 6 :]
    return kept, len(kept) / sum(kept)


def _work(pipe):
    while (job := pipe.recv()) is not None:
        name, arguments = job
        result = alone(*arguments) if name == "alone" else uvloop.run(globals()[name](*arguments))
        pipe.send((np.array(result[0]), result[1]))


class Generator:
    """The process; each call returns the seconds that each request took, and how many were answered per second."""

    def __enter__(self):
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_work, args=(other,))
        self._process.start()
        return self

    def __call__(self, name, *arguments):
        self._pipe.send((name, arguments))
        while not self._pipe.poll(0.5):
            if not self._process.is_alive():
                raise RuntimeError("the generator has died; its traceback is above")
        return self._pipe.recv()

    def __exit__(self, *_error):
        if self._process.is_alive():
            self._pipe.send(None)
        self._process.join(10)
