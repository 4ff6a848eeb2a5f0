"""From Keras to ONNX: time, peak memory and what comes out, kbn beside tf2onnx, Keras' own export, onnxsim and onnxslim.

    python benchmarks/conversion.py FOLDER [--models ResNet50 ...] [--tools kbn ...]

Each tool converts each model in a process of its own, the model already in memory. Time is of the conversion up to the file on
disk (kbn's includes folding, not the check); memory is the peak above what was resident before. onnxsim and onnxslim work on
tf2onnx's file, and their time and memory are theirs alone. The files stay in FOLDER as MODEL.TOOL.onnx, for latency.py.
"checked" is kbn's check of the file against the model in float64 ("wrong" where an output is off by more than it allows,
"fails" where onnxruntime cannot run it). A conversion gets 20 GiB at most. onnxsim and onnxslim are no dependencies of kbn:
`pip install onnxsim onnxslim` fills their rows. Linux only.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from alternating import console
from layer_memory import resident
from rich.table import Table

FAMILIES = [
    "Xception",
    "VGG16",
    "ResNet50",
    "ResNet50V2",
    "InceptionV3",
    "InceptionResNetV2",
    "MobileNet",
    "MobileNetV2",
    "MobileNetV3Small",
    "MobileNetV3Large",
    "DenseNet121",
    "NASNetMobile",
    "EfficientNetB0",
    "EfficientNetV2B0",
    "ConvNeXtTiny",
]
OTHERS = ["Dense100MiB", "LSTM", "Transformer"]
TOOLS = ["kbn", "tf2onnx", "keras", "onnxsim", "onnxslim"]
AFTER_TF2ONNX = ("onnxsim", "onnxslim")
MEMORY = 20 * 2**30  # bytes of address space for one conversion
SECONDS = 1200  # for one conversion


def build(name):
    """The model, called once, as Keras' export asks for; with random weights, statistics, gammas and betas of both signs."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    if name == "Dense100MiB":
        model = keras.Sequential([keras.Input((5120,)), layers.Dense(5120, activation="relu"), layers.Dense(10)])
    elif name == "LSTM":
        model = keras.Sequential([keras.Input((100, 64)), layers.LSTM(256, return_sequences=True), layers.LSTM(128)])
    elif name == "Transformer":
        inputs = keras.Input((128, 256))
        attended = layers.MultiHeadAttention(8, 32)(*[layers.LayerNormalization()(inputs)] * 2)
        tensor = layers.Add()([inputs, attended])
        hidden = layers.Dense(1024, activation="gelu")(layers.LayerNormalization()(tensor))
        model = keras.Model(inputs, layers.Add()([tensor, layers.Dense(256)(hidden)]))
    else:
        model = getattr(keras.applications, name)(weights=None)
    random = np.random.default_rng(0)
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            shape = layer.moving_mean.shape
            layer.moving_mean.assign(random.normal(0, 0.3, shape))
            layer.moving_variance.assign(random.uniform(0.5, 2.0, shape))
            if layer.gamma is not None:
                layer.gamma.assign(random.uniform(0.5, 1.5, shape) * random.choice([-1, 1], shape))
            if layer.beta is not None:
                layer.beta.assign(random.normal(0, 0.3, shape))
    model(np.zeros([1, *(size or 64 for size in model.inputs[0].shape[1:])]))
    return model


def by_kbn(model, path):
    from kbn.export import fold
    from kbn.export.onnx_conversion import convert
    from kbn.export.saving import save

    save(convert(fold(model)[0]).model, path)


def by_tf2onnx(model, path):
    import tensorflow as tf
    import tf2onnx

    signature = [tf.TensorSpec((None, *x.shape[1:]), x.dtype, name=x.name) for x in model.inputs]
    function = tf.function(lambda x: model(x, training=False))
    tf2onnx.convert.from_function(function, input_signature=signature, opset=18, output_path=str(path))


def by_keras(model, path):
    model.export(str(path), format="onnx", verbose=False)


def by_onnxsim(source, path):
    import onnx
    import onnxsim

    onnx.save(onnxsim.simplify(onnx.load(source))[0], path)


def by_onnxslim(source, path):
    import onnx
    import onnxslim

    onnx.save(onnxslim.slim(onnx.load(source)), path)


WAYS = {"kbn": by_kbn, "tf2onnx": by_tf2onnx, "keras": by_keras, "onnxsim": by_onnxsim, "onnxslim": by_onnxslim}


def file_of(folder, name, tool):
    return folder / f"{name}.{tool}.onnx"


def convert_one(name, tool, folder):
    """Seconds, bytes of memory above what was resident, bytes of the weights."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    start_keras()
    import keras

    way = WAYS[tool]
    if tool in AFTER_TF2ONNX:
        subject, weights = file_of(folder, name, "tf2onnx"), 0
    else:
        small = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(3, 3), keras.layers.Flatten()])
        small(np.zeros((1, 4, 4, 3)))
        way(small, folder / "small.onnx")  # loads what is loaded once
        subject = build(name)
        weights = sum(int(np.prod(weight.shape)) * 4 for weight in subject.weights)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark is what is resident now
    before = resident("VmHWM")
    start = time.perf_counter()
    way(subject, file_of(folder, name, tool))
    return {"seconds": time.perf_counter() - start, "bytes": resident("VmHWM") - before, "weights": weights}


def check_one(name, tool, folder):
    """What kbn's check says of the file."""
    start_keras()
    from kbn.export import check
    from kbn.export.errors import KbnError

    try:
        report = check(build(name), file_of(folder, name, tool))
    except KbnError:
        return "fails"
    return "passed" if report.passed else "wrong"


def start_keras():
    os.environ["KERAS_BACKEND"] = "tensorflow"
    from kbn.export.quiet import import_quietly

    import_quietly("tensorflow", "tf2onnx")


def in_process(step, name, tool, folder):
    """What `step` returns, in a process of its own; None where it fails."""
    command = [sys.executable, __file__, str(folder), "--one", step, name, tool]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return None
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def graph_of(path):
    import onnx

    nodes = Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)
    return sum(nodes.values()), nodes["Transpose"], path.stat().st_size / 2**20


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", default=[*FAMILIES, *OTHERS])
    parser.add_argument("--tools", nargs="+", default=TOOLS)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        step, name, tool = options.one
        print(json.dumps({"convert": convert_one, "check": check_one}[step](name, tool, options.folder)))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    heads = ["model", "tool", "seconds", "peak MiB", "/ weights", "nodes", "Transpose", "file MiB", "checked"]
    table = Table(*heads, box=None)
    for name in options.models:
        for tool in options.tools:
            if tool in AFTER_TF2ONNX and find_spec(tool) is None:
                continue
            found = in_process("convert", name, tool, options.folder)
            if found is None:
                table.add_row(name, tool, "fails")
                continue
            nodes, transposes, size = graph_of(file_of(options.folder, name, tool))
            share = f"{found['bytes'] / found['weights']:.1f}" if found["weights"] else ""
            measured = [f"{found['seconds']:.1f}", f"{found['bytes'] / 2**20:.0f}", share]
            verdict = in_process("check", name, tool, options.folder) or "fails"
            table.add_row(name, tool, *measured, str(nodes), str(transposes), f"{size:.1f}", verdict)
            console.print(name, tool, *measured, nodes, transposes, f"{size:.1f}", verdict, style="dim")
    console.print(table)


if __name__ == "__main__":
    main()
