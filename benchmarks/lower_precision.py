"""What float16 and int8 cost in accuracy and bring in speed, of kbn's folded file and of tf2onnx's own.

    python benchmarks/lower_precision.py FOLDER_OR_MODEL... [--rounds 40]

A model is a `.keras` file with the `.npz` of its inputs beside it (x, or image as the demo has it in digits_test.npz); of a
folder, every such pair. Folded without ones channels, as `kbn export --int8` does. Half of the inputs calibrate int8, the other
half are measured; a single input does both. The last
columns are int8 of tf2onnx's unfolded file, made with the same settings. Accuracy is against the float32 file each was made
from: the signal-to-noise ratio in dB of the first output, as onnxruntime runs it by default, and top-1 agreement. Speed is how
many times as long kbn's float32 file takes, in turns, on one thread.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import onnxruntime
from alternating import console, quartiles
from rich.table import Table

from kbn.export.quiet import import_quietly

os.environ["KERAS_BACKEND"] = "tensorflow"
import_quietly("tensorflow", "tf2onnx")

import tensorflow as tf
import tf2onnx

from kbn.export.archive import load_model
from kbn.export.errors import KbnError
from kbn.export.folding import fold
from kbn.export.half_precision import to_float16
from kbn.export.int8 import to_int8
from kbn.export.lower_report import signal_to_noise
from kbn.export.onnx_conversion import convert

BATCH = 8


def unfolded(model):
    """What tf2onnx alone makes of the model."""
    signature = [tf.TensorSpec((None, *x.shape[1:]), x.dtype, name=x.name) for x in model.inputs]
    function = tf.function(lambda x: model(x, training=False))
    return tf2onnx.convert.from_function(function, input_signature=signature, opset=18)[0]


def inputs_of(path):
    for name in (path.with_suffix(".npz"), path.with_name(f"{path.stem}_test.npz")):
        if name.is_file():
            with np.load(name) as arrays:
                return next((arrays[key].astype(np.float32) for key in ("x", "image") if key in arrays), None)
    return None


def batches_of(proto, array):
    name = proto.graph.input[0].name
    return [{name: array[start : start + BATCH]} for start in range(0, len(array), BATCH)]


def session(proto):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def first_output(runner, batches):
    return np.concatenate([runner.run(None, batch)[0] for batch in batches]).astype(np.float64)


def accuracy(expected, found):
    ratio = signal_to_noise(np.square(expected).sum(), np.square(expected - found).sum())
    shown = "no error" if ratio is None else f"{ratio:.1f}"
    if expected.ndim == 2 and expected.shape[1] > 1:
        shown += f", {np.mean(expected.argmax(1) == found.argmax(1)):.1%}"
    return shown


def measure(path, array, rounds):
    """The cells of one row."""
    calibration, test = (array[::2], array[1::2]) if len(array) > 1 else (array, array)
    model = load_model(path)
    sources = {"folded": convert(fold(model, ones_channel=False)[0]).proto, "unfolded": unfolded(model)}
    operators = [len(proto.graph.node) for proto in sources.values()]
    wanted = {
        "float16": ("folded", to_float16(sources["folded"])),
        "int8": ("folded", to_int8(sources["folded"], batches_of(sources["folded"], calibration))),
        "int8 unfolded": ("unfolded", to_int8(sources["unfolded"], batches_of(sources["unfolded"], calibration))),
    }
    feeds = {name: batches_of(proto, test) for name, proto in sources.items()}
    plain = {name: session(proto) for name, proto in sources.items()}
    lowered = {name: session(proto) for name, (_, proto) in wanted.items()}
    steps = {"float32": lambda: plain["folded"].run(None, feeds["folded"][0])}
    for name, (source, _) in wanted.items():
        steps[name] = lambda name=name, source=source: lowered[name].run(None, feeds[source][0])
    ratios = quartiles(steps, "float32", rounds)
    cells = [" / ".join(map(str, operators))]
    for name, (source, _) in wanted.items():
        expected = first_output(plain[source], feeds[source])
        low, median, high = ratios[name]
        cells += [
            accuracy(expected, first_output(lowered[name], feeds[source])),
            f"{median:.2f} ({low:.2f}-{high:.2f})",
        ]
    return cells


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", type=Path, help="folders or .keras files")
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    found = [p for path in options.paths for p in (sorted(path.glob("*.keras")) if path.is_dir() else [path])]
    console.width = 150
    table = Table("model", "operators", "float16", "speed", "int8", "speed", "int8 unfolded", "speed", box=None)
    for path in found:
        array = inputs_of(path)
        if array is None:
            console.print(f"{path.name}: no inputs beside it, left out")
            continue
        try:
            table.add_row(path.stem, *measure(path, array, options.rounds))
        except KbnError as error:
            console.print(f"{path.name}: {error}")
    console.print(table)


if __name__ == "__main__":
    main()
