"""Minutes of mixed load with faults on `kbn serve`: is every answer right, is any request lost, does memory stay flat?

    python benchmarks/soak.py [--minutes 10] [--clients 12] [--seed 0]

A server of two models is asked by polite clients, in bytes, in JSON and by /predict, each answer compared with what onnxruntime
alone computes. Meanwhile others send half a request and vanish, vanish behind a whole one, send bodies that are wrong in a
dozen ways, trickle, and come in bursts beyond the queue; and the file of one model is exchanged between two sets of weights
every few seconds, now and then by way of a broken file and of SIGHUP.

Exits 1 where an answer was wrong, a polite request got neither an answer nor a documented refusal (503, 504), a bad body
got anything but a 4xx or a refusal of those two, or memory rose over the second half of the time by more than 5 %.
"""

import argparse
import asyncio
import contextlib
import io
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table

from serving import cnn, resident, serving

BUSY = {503, 504}  # what the README names for a polite request that comes at a bad time


class Soak:
    """What all clients share: where the server is, the right answers, and the counts of what happened."""

    def __init__(self, port, folder, seed, end):
        self.port, self.folder, self.end = port, folder, end
        self.draw = random.Random(seed)
        self.random = np.random.default_rng(seed)
        self.counts, self.wrong = Counter(), []
        self.images = {
            name: self.random.normal(size=(4, 3, size, size)).astype(np.float32) for name, size in SIZES.items()
        }
        self.right = {name: [run(path, self.images[name]) for path in paths(folder, name)] for name in SIZES}

    def running(self):
        return time.monotonic() < self.end

    def complain(self, what):
        self.counts["WRONG"] += 1
        if len(self.wrong) < 20:
            self.wrong.append(what)


SIZES = {"steady": 24, "changing": 16}


def paths(folder, name):
    """The files that may answer under a name."""
    return [folder / f"{name}.a", folder / f"{name}.b"] if name == "changing" else [folder / f"{name}.a"]


def run(path, images):
    return onnxruntime.InferenceSession(path.read_bytes()).run(None, {"image": images})[0]


def inference(name, images, binary):
    """The body of an inference request, and its headers."""
    tensor = {"name": "image", "datatype": "FP32", "shape": images.shape}
    if not binary:
        return json.dumps({"inputs": [tensor | {"data": images.ravel().tolist()}]}).encode(), ""
    tensor["parameters"] = {"binary_data_size": images.nbytes}
    text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return text + images.tobytes(), f"Inference-Header-Content-Length: {len(text)}\r\n"


def message(path, body, headers=""):
    return f"POST {path} HTTP/1.1\r\nHost: soak\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def answer(reader):
    """Status, headers and body of the next answer of a connection."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
    return int(head.split()[1]), fields, await reader.readexactly(int(fields["content-length"]))


def scores(kind, fields, body):
    """The array of an answer."""
    if kind == "predict":
        return np.array(json.loads(body)["outputs"]["scores"], np.float32)
    if kind == "binary":
        length = int(fields["inference-header-content-length"])
        shape = json.loads(body[:length])["outputs"][0]["shape"]
        return np.frombuffer(body[length:], np.float32).reshape(shape)
    (output,) = json.loads(body)["outputs"]
    return np.array(output["data"], np.float32).reshape(output["shape"])


async def polite(soak):
    """Asks, waits for the answer, and compares it, on one connection for as long as that lasts."""
    reader = writer = None
    while soak.running():
        name, kind = soak.draw.choice(list(SIZES)), soak.draw.choice(["binary", "binary", "json", "predict"])
        chosen = slice(first := soak.draw.randrange(4), first + soak.draw.randrange(1, 4))
        images = soak.images[name][chosen]
        if kind == "predict":
            file = io.BytesIO()
            np.save(file, images)
            request = message(f"/predict/{name}", file.getvalue())
        else:
            request = message(f"/v2/models/{name}/infer", *inference(name, images, kind == "binary"))
        try:
            if writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", soak.port)
            writer.write(request)
            status, fields, body = await asyncio.wait_for(answer(reader), 60)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            soak.counts["LOST"] += 1
            soak.complain(f"{kind} to {name} got no answer: {error!r}")
            writer = None
            continue
        if status in BUSY:
            soak.counts[f"refused with {status}"] += 1
        elif status != 200:
            soak.complain(f"{kind} to {name}: {status} {body[:200]!r}")
        else:
            found = scores(kind, fields, body)
            if not any(np.allclose(found, right[chosen], rtol=1e-4, atol=1e-6) for right in soak.right[name]):
                soak.complain(f"{kind} to {name} of {len(images)} images: {found.tolist()}")
            soak.counts[f"right, {kind}"] += 1
        if fields.get("connection") == "close":
            writer.close()
            writer = None
    if writer is not None:
        writer.close()


async def vanishing(soak):
    """Sends some of a request, or all of it, and resets the connection."""
    while soak.running():
        await asyncio.sleep(soak.draw.uniform(0.01, 0.2))
        name = soak.draw.choice(list(SIZES))
        request = message(f"/v2/models/{name}/infer", *inference(name, soak.images[name], soak.draw.random() < 0.5))
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", soak.port)
            writer.write(request[: soak.draw.choice([1, 40, len(request) // 2, len(request)])])
            await asyncio.sleep(soak.draw.choice([0, 0.001, 0.05]))
            writer.transport.abort()
            soak.counts["clients that vanished"] += 1


def bad_messages(soak):
    """Requests each of which is wrong in a way of its own."""
    images = soak.images["steady"]
    body, headers = inference("steady", images, True)
    path, plain = "/v2/models/steady/infer", inference("steady", images, False)[0]
    document = json.loads(plain)
    changed = [
        {"name": "other"}, {"shape": [1, 3, 24, 23]}, {"datatype": "INT8"}, {"datatype": 7}, {"shape": [-1]},
        {"data": "text"}, {"data": [None]}, {"shape": [2**40, 3, 24, 24]},
    ]  # fmt: skip
    wrong = [json.dumps({"inputs": [document["inputs"][0] | change]}).encode() for change in changed]
    return [
        message(path, plain[:-9]),
        message(path, b"{"),
        message(path, b"[" * 5000),
        message(path, soak.random.bytes(500)),
        message(path, body, "Inference-Header-Content-Length: 99999999\r\n"),
        message(path, body[:-4], headers),
        message(path, body + b"more", headers),
        message("/v2/models/none/infer", plain),
        message("/predict/steady", b"\x89PNG\r\n\x1a\n and no more"),
        message("/predict/steady", b"x", "Content-Type: multipart/form-data; boundary=b\r\n"),
        b"POST /v2/models/steady/infer HTTP/1.1\r\nHost: soak\r\nContent-Length: 999999999999\r\n\r\n",
        *(message(path, each) for each in wrong),
    ]


async def once(soak, request, what):
    """Asks on a connection of its own; status 0 where there is no answer, which is complained of."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", soak.port)
        writer.write(request)
        found = await asyncio.wait_for(answer(reader), 60)
        writer.close()
    except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
        soak.counts["LOST"] += 1
        soak.complain(f"{what} got no answer: {error!r} to {request[:150]!r}")
        return 0, {}, b""
    return found


async def rude(soak):
    """Sends what is wrong and looks at how it is refused."""
    wrong = bad_messages(soak)
    while soak.running():
        await asyncio.sleep(soak.draw.uniform(0.01, 0.1))
        status, _, body = await once(soak, soak.draw.choice(wrong), "a bad body")
        if not status:
            continue
        soak.counts[f"bad bodies, {status}"] += 1
        if not (400 <= status < 500 and json.loads(body)["error"]) and status not in BUSY:
            soak.complain(f"a bad body got {status} {body[:200]!r}")


async def trickling(soak):
    """Sends a byte now and then, until the server has had enough."""
    request = message("/v2/models/steady/infer", *inference("steady", soak.images["steady"], True))
    while soak.running():
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", soak.port)
            for place in range(300):
                writer.write(request[place : place + 1])
                await asyncio.sleep(0.2)
                if writer.is_closing() or not soak.running():
                    break
            soak.counts["clients that trickled"] += 1
            writer.transport.abort()


async def bursts(soak):
    """Hundreds of requests at once, more than the queue holds, each of which is answered or refused."""
    request = message("/v2/models/steady/infer", *inference("steady", soak.images["steady"][:1], True))

    async def one():
        status, fields, body = await once(soak, request, "a request of a burst")
        if not status:
            return
        if status == 200 and not np.allclose(
            scores("binary", fields, body), soak.right["steady"][0][:1], rtol=1e-4, atol=1e-6
        ):
            soak.complain("a wrong answer in a burst")
        if status not in (200, *BUSY):
            soak.complain(f"a request of a burst got {status} {body[:200]!r}")
        soak.counts[f"in bursts, {status}"] += 1

    while soak.running():
        await asyncio.sleep(soak.draw.uniform(3, 8))
        await asyncio.gather(*(one() for _ in range(400)))


async def changing(soak, process):
    """Exchanges the changing model's file, at times by way of one that is broken."""
    files, target = paths(soak.folder, "changing"), soak.folder / "models" / "changing.onnx"
    turn = 0
    while soak.running():
        await asyncio.sleep(soak.draw.uniform(1, 4))
        turn += 1
        if turn % 5 == 0:
            target.write_bytes(b"half a file")
            await asyncio.sleep(2.5)
        temporary = target.with_suffix(".part")
        shutil.copy(files[turn % 2], temporary)
        temporary.replace(target)
        if turn % 3 == 0:
            process.send_signal(signal.SIGHUP)
        soak.counts["files exchanged"] += 1


async def watching(soak, process, sizes):
    while soak.running():
        sizes.append(resident(process))
        await asyncio.sleep(2)


async def together(soak, process, clients, sizes):
    others = [vanishing(soak), vanishing(soak), rude(soak), rude(soak), trickling(soak), bursts(soak)]
    await asyncio.gather(
        *(polite(soak) for _ in range(clients)), *others, changing(soak, process), watching(soak, process, sizes)
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=12, help="polite ones")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "models").mkdir()
        for seed, path in enumerate(path for model in SIZES for path in paths(folder, model)):
            cnn(path, SIZES[path.stem], 8, 4, seed)
        for model in SIZES:
            shutil.copy(folder / f"{model}.a", folder / "models" / f"{model}.onnx")
        with serving(folder / "models", "--watch", 0.5, "--receive-timeout", 3) as (port, process, _):
            soak, sizes = Soak(port, folder, options.seed, time.monotonic() + options.minutes * 60), []
            asyncio.run(together(soak, process, options.clients, sizes))
            process.terminate()
            code = process.wait(60)
    if code:
        soak.complain(f"the server ended with {code}")
    half = sizes[len(sizes) // 2 :]
    rise = np.median(half[-len(half) // 4 :]) / np.median(half[: len(half) // 4 + 1]) - 1
    table = Table(
        title=f"{options.minutes:g} minutes, {options.clients} polite clients", title_justify="left", box=None
    )
    table.add_column("what")
    table.add_column("count", justify="right")
    for what, count in sorted({"LOST": 0, "WRONG": 0, **soak.counts}.items()):
        table.add_row(what, f"{count:,}")
    console = Console(width=120)
    console.print(table)
    console.print(f"Resident: {sizes[0]:.0f} MB at first, {max(sizes):.0f} at most, {sizes[-1]:.0f} at last.")
    console.print(f"Over the second half of the time it rose by {rise:.1%}.")
    for what in soak.wrong:
        console.print(what, markup=False)
    sys.exit(bool(soak.counts["WRONG"] or rise > 0.05))


if __name__ == "__main__":
    main()
