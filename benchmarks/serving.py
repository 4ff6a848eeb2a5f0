"""kbn serve beside onnxruntime alone and beside itself without batching: rates, latencies, start and memory.

    python benchmarks/serving.py [--only small] [--rounds 7] [--threads 1] [--python PATH] [--ray] [FILE.onnx ...]

Two CNNs are made and served: a small one, and one whose inference takes over 5 ms. FILEs are started and measured idle only.
The generator of requests shares the cores with the server. Sides take turns within each round, in an order drawn anew, and a
ratio is taken within its round; shown is the median, in brackets the quartiles over the rounds. CPU is what the server
used for a request: on a machine that others use, too, it tells more than the rate. --ray shows the embedded server beside one
replica on a Ray cluster of this machine instead.

Closed loop: so many clients, each asks again when it has its answer. Open loop: requests arrive at random at a fixed rate,
whether or not earlier ones are answered, and time counts from when they were due.
"""

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from load import Generator, request
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

console = Console(width=150)

CLIENTS = (1, 4, 16, 64)
LOADS = (0.5, 0.9)  # of what the unbatched server answers per second


def cnn(path, size, channels, convolutions, seed=0):
    """A stack of 3 x 3 convolutions with ReLU, every other one of stride 2, and a classifier."""
    draw, nodes, weights, tensor, wide = np.random.default_rng(seed), [], [], "image", 3
    for index in range(convolutions):
        kernel = draw.normal(size=(channels, wide, 3, 3)) / np.sqrt(9 * wide)
        weights.append(numpy_helper.from_array(kernel.astype(np.float32), f"w{index}"))
        strides = [1 if index % 2 else 2] * 2
        nodes.append(helper.make_node("Conv", [tensor, f"w{index}"], [f"c{index}"], pads=[1] * 4, strides=strides))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"]))
        tensor, wide = f"r{index}", channels
    weights.append(numpy_helper.from_array(draw.normal(size=(channels, 10)).astype(np.float32), "dense"))
    nodes += [
        helper.make_node("GlobalAveragePool", [tensor], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
    ]
    nodes += [
        helper.make_node("MatMul", ["flat", "dense"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, size, size])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 10])
    graph = helper.make_graph(nodes, "cnn", [image], [scores], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return draw.normal(size=(1, 3, size, size)).astype(np.float32)


@contextlib.contextmanager
def serving(*arguments, python=sys.executable):
    """`kbn serve` as it comes: its port, its process, and the seconds from its start to its first "ready"."""
    line = [python, "-m", "kbn.export", "serve", *map(str, arguments), "--port", "0"]
    with tempfile.NamedTemporaryFile() as logs:
        started = time.perf_counter()
        process = subprocess.Popen(line, stderr=logs, cwd=tempfile.gettempdir())  # not where kbn's source may lie
        try:
            while True:
                time.sleep(0.005)
                told = Path(logs.name).read_text()  # not by `logs`, whose place in the file is the server's, too
                lines = [json.loads(each) for each in told.splitlines() if each.endswith("}")]
                events = {each["event"]: each for each in lines}
                if "ready" in events:
                    break
                if process.poll() is not None:
                    raise RuntimeError(f"kbn serve ended with {process.returncode}")
            yield int(events["listening"]["url"].rstrip("/").rpartition(":")[2]), process, time.perf_counter() - started
        finally:
            process.terminate()
            process.wait(60)


def resident(process):
    """Resident memory in MB."""
    text = Path(f"/proc/{process.pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) / 1024


def cpu(process):
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def spread(values, form="{:.2f}"):
    low, middle, high = (form.format(each) for each in np.percentile(values, (25, 50, 75)))
    return f"{middle} ({low} to {high})"


def measure(name, path, array, options, generate):
    """Both servers, side by side, in turns."""
    model = path.stem
    common = [path, "--threads", options.threads]
    with serving(*common) as (batched, process, _), serving(*common, "--max-batch", 1) as (single, other, _):
        sides, processes = {"batched": batched, "unbatched": single}, {"batched": process, "unbatched": other}
        messages = {side: request("127.0.0.1", port, model, array) for side, port in sides.items()}
        found, order = {}, random.Random(0)  # who comes first matters: it finds the caches that others left
        for _ in range(options.rounds):
            for clients in CLIENTS:
                alone = generate("alone", path, array, options.threads, options.seconds)
                found.setdefault(("alone", clients), []).append(alone)
                for side, port in order.sample(list(sides.items()), 2):
                    before = cpu(processes[side])
                    times, rate = generate("closed_loop", port, messages[side], clients, options.seconds)
                    spent = (cpu(processes[side]) - before) / (len(times) * 1.2) * 1e3
                    found.setdefault((side, clients), []).append((times, rate, spent))
        show_closed(name, found)
        capacity = np.median([rate for _, rate, _ in found["unbatched", 16]])
        opened = {}
        for _ in range(options.rounds):
            for load in LOADS:
                for side, port in order.sample(list(sides.items()), 2):
                    result = generate("open_loop", port, messages[side], load * capacity, options.seconds)
                    opened.setdefault((side, load), []).append(result)
        show_open(name, opened, capacity)
        console.print(f"Resident after all of this: {resident(process):.0f} MB.\n")


def show_closed(name, found):
    table = Table(title=f"{name}, closed loop", title_justify="left", box=None)
    heads = ["clients", "requests/s", "over unbatched", "over onnxruntime alone", "median, 99 %, ms", "unbatched"]
    for head in [*heads, "CPU, ms per request", "unbatched"]:
        table.add_column(head, justify="right")
    sides = ("alone", "batched", "unbatched")
    for clients in CLIENTS:
        rates = {side: np.array([each[1] for each in found[side, clients]]) for side in sides}
        times = {side: np.concatenate([each[0] for each in found[side, clients]]) * 1e3 for side in sides}
        late = {side: f"{np.median(times[side]):.2f}, {np.percentile(times[side], 99):.1f}" for side in sides}
        spent = {side: spread([each[2] for each in found[side, clients]]) for side in sides[1:]}
        table.add_row(
            str(clients),
            f"{np.median(rates['batched']):.0f}",
            spread(rates["batched"] / rates["unbatched"]),
            spread(rates["batched"] / rates["alone"]),
            late["batched"],
            late["unbatched"],
            spent["batched"],
            spent["unbatched"],
        )
    console.print(table)
    alone = [np.median(each[0]) * 1e3 for each in found["alone", 1]]
    served = [np.median(each[0]) * 1e3 for each in found["batched", 1]]
    console.print(
        f"onnxruntime alone: median {spread(alone, '{:.3f}')} ms. A single client's median above that: "
        f"{spread(np.array(served) - alone, '{:.3f}')} ms."
    )


def show_open(name, found, capacity):
    table = Table(title=f"\n{name}, open loop", title_justify="left", box=None)
    for head in ("requests/s", "batched: median, 99 %, ms", "unbatched: median, 99 %, ms"):
        table.add_column(head, justify="right")
    for load in LOADS:
        cells = []
        for side in ("batched", "unbatched"):
            times = np.concatenate([each for each, _ in found[side, load]]) * 1e3
            cells.append(f"{np.median(times):.2f}, {np.percentile(times, 99):.2f}")
        table.add_row(f"{load * capacity:.0f}", *cells)
    console.print(table)


def beside_ray(name, path, array, options, generate):
    """The embedded server and one replica on Ray, in turns."""
    common = [path, "--threads", options.threads]
    with serving(*common) as (embedded, _, _), serving(*common, "--engine", "ray") as (ray, _, spent):
        messages = {
            side: request("127.0.0.1", port, path.stem, array) for side, port in (("embedded", embedded), ("ray", ray))
        }
        ports, found, order = {"embedded": embedded, "ray": ray}, {}, random.Random(0)
        time.sleep(5)  # HAProxy, which learns of the replica, closes the connections that it has
        for _ in range(options.rounds):
            for clients in CLIENTS:
                for side in order.sample(["embedded", "ray"], 2):
                    result = generate("closed_loop", ports[side], messages[side], clients, options.seconds)
                    found.setdefault((side, clients), []).append(result)
    table = Table(title=f"{name}, closed loop, Ray was ready after {spent:.0f} s", title_justify="left", box=None)
    for head in ("clients", "Ray over embedded", "Ray: requests/s", "median, 99 %, ms", "embedded", "median, 99 %, ms"):
        table.add_column(head, justify="right")
    for clients in CLIENTS:
        rates = {side: np.array([rate for _, rate in found[side, clients]]) for side in ports}
        times = {side: np.concatenate([each for each, _ in found[side, clients]]) * 1e3 for side in ports}
        late = {side: f"{np.median(times[side]):.2f}, {np.percentile(times[side], 99):.1f}" for side in ports}
        middle = {side: f"{np.median(rates[side]):.0f}" for side in ports}
        ratio = spread(rates["ray"] / rates["embedded"])
        table.add_row(str(clients), ratio, middle["ray"], late["ray"], middle["embedded"], late["embedded"])
    console.print(table)


def starts(paths, rounds, python):
    """Start and idle memory; the interpreter's own start is within."""
    table = Table(title="Start and idle memory", title_justify="left", box=None)
    for head in ("file", "MB", "seconds to ready", "resident, MB", "less the file, MB"):
        table.add_column(head, justify="left" if head == "file" else "right")
    for path in paths:
        seconds, memory = [], []
        for _ in range(rounds):
            with serving(path, python=python) as (_, process, spent):
                seconds.append(spent)
                memory.append(resident(process))
        size = path.stat().st_size / 1e6
        table.add_row(
            path.name, f"{size:.1f}", spread(seconds), spread(memory, "{:.0f}"), f"{np.median(memory) - size:.0f}"
        )
    console.print(table)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="files whose start and idle memory are measured, too")
    parser.add_argument("--only", choices=("small", "large"), help="of the two CNNs")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each window")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--python", default=sys.executable, help="of an environment with kbn[serve] alone, whose start is measured"
    )
    parser.add_argument(
        "--ray", action="store_true", help="one replica on Ray beside the embedded server, and nothing else"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Generator() as generate:
        small, large = Path(folder, "small.onnx"), Path(folder, "large.onnx")
        images = {small: cnn(small, 32, 32, 4), large: cnn(large, 112, 64, 7)}
        for path, name in ((small, "Small CNN, 32 px"), (large, "CNN, 112 px")):
            if options.only in (None, path.stem):
                (beside_ray if options.ray else measure)(name, path, images[path], options, generate)
        if not options.ray:
            starts([small, *(path.resolve() for path in options.files)], options.rounds, options.python)


if __name__ == "__main__":
    main()
