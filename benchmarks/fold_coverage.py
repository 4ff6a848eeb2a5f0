"""Which batch normalizations are gone from the ONNX file: kbn beside tf2onnx and what optimises tf2onnx's file.

    python benchmarks/fold_coverage.py [--only NAME]

Each pattern is a small model with Keras' own BatchNormalization, all four of its weights random. A cell is the number of
Mul, Add, Sub, Div and BatchNormalization nodes above those in the same tool's file of the same model with an identity in
place of each affine layer: "folded" is none, "wrong" an output off by more than 1e-3 of the largest, "fails" no file that
onnxruntime runs. onnxruntime's own file is that of its extended optimisations. The table is Markdown, on stdout. onnxsim
and onnxslim are no dependencies of kbn: `pip install onnxsim onnxslim` fills their columns.
"""

import argparse
import io
import logging
import os
import tempfile
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path

from kbn.export.quiet import import_quietly

os.environ["KERAS_BACKEND"] = "tensorflow"
import_quietly("tensorflow", "tf2onnx")

import keras
import numpy as np
import onnx
import onnxruntime
import tensorflow as tf
import tf2onnx
from keras import layers as L  # noqa: N812
from keras.layers import BatchNormalization as BN  # noqa: N817
from rich.console import Console
from rich.progress import track

import kbn.export

console = Console(stderr=True)

ARITHMETIC = {"BatchNormalization", "Mul", "Add", "Sub", "Div"}
TOLERANCE = 1e-3
POSITIVE, NO_SHIFT = {"gamma_constraint": "non_neg"}, {"center": False}  # `randomise` keeps to them
ROW, SEQUENCE, IMAGE, VOLUME, ANY_SIZE = (6,), (6, 4), (8, 8, 4), (6, 6, 6, 4), (None, None, 4)


def conv(size=3, filters=6, **options):
    return L.Conv2D(filters, size, **options)


def same(**options):
    return conv(padding="same", **options)


def einsum():
    return L.EinsumDense("abc,cd->abd", (6, 5), bias_axes="d")


def indices(x):
    return keras.ops.cast(x > 0, "int32")


def joined(merge, *branches):
    return lambda x: merge()([chain(x, *branch) for branch in branches])


def forked(*branches):
    return lambda x: [chain(x, *branch) for branch in branches]


def attention(x):
    return L.MultiHeadAttention(2, 3)(x, x)


def one_conv_twice(a):
    one = conv()
    return [forked([one, a(BN())], [L.ReLU(), one, a(BN())])]


def squeeze_and_excite():
    return joined(L.Multiply, [], [L.GlobalAveragePooling2D(keepdims=True), conv(1, activation="sigmoid")])


def resnet_v2(a):
    bottleneck = [conv(1, 4), a(BN()), L.ReLU(), same(filters=4), a(BN()), L.ReLU(), conv(1, 8)]
    block = [a(BN()), L.ReLU(), joined(L.Add, [conv(1, 8)], bottleneck)]
    return [conv(), *block, a(BN()), L.ReLU(), L.GlobalAveragePooling2D(), L.Dense(5)]


# The input's shape, and the layers one after the other, where `a` marks an affine one.
PATTERNS = {
    "Backward, into what comes before": {
        "Conv1D, BN": (SEQUENCE, lambda a: [L.Conv1D(6, 3), a(BN())]),
        "Conv2D, BN": (IMAGE, lambda a: [conv(), a(BN())]),
        "grouped Conv2D, BN": (IMAGE, lambda a: [conv(groups=2), a(BN())]),
        "Conv3D, BN": (VOLUME, lambda a: [L.Conv3D(6, 3), a(BN())]),
        "DepthwiseConv2D, multiplier 2, BN": (IMAGE, lambda a: [L.DepthwiseConv2D(3, depth_multiplier=2), a(BN())]),
        "SeparableConv2D, BN": (IMAGE, lambda a: [L.SeparableConv2D(6, 3), a(BN())]),
        "Conv2DTranspose, BN": (IMAGE, lambda a: [L.Conv2DTranspose(6, 3, 2), a(BN())]),
        "Dense of rank 2, BN": (ROW, lambda a: [L.Dense(5), a(BN())]),
        "Dense of rank 3, BN": (SEQUENCE, lambda a: [L.Dense(5), a(BN())]),
        "Dense, Permute, BN on axis 1": (SEQUENCE, lambda a: [L.Dense(5), L.Permute((2, 1)), a(BN(axis=1))]),
        "EinsumDense, BN": (SEQUENCE, lambda a: [einsum(), a(BN())]),
        "TimeDistributed(Dense), BN": (SEQUENCE, lambda a: [L.TimeDistributed(L.Dense(5)), a(BN())]),
        "Embedding, BN": (ROW, lambda a: [indices, L.Embedding(2, 5), a(BN())]),
        "LayerNormalization, BN": (SEQUENCE, lambda a: [L.LayerNormalization(), a(BN())]),
        "Conv2D, BN, BN": (IMAGE, lambda a: [conv(), a(BN()), a(BN())]),
        "one Conv2D called twice, each call with a BN": (IMAGE, one_conv_twice),
        "Conv2D in a nested Sequential, BN": (IMAGE, lambda a: [keras.Sequential([L.Input(IMAGE), conv()]), a(BN())]),
    },
    "Forward, into what comes after": {
        "BN, Conv2D": (IMAGE, lambda a: [a(BN()), conv()]),
        "BN, grouped Conv2D": (IMAGE, lambda a: [a(BN()), conv(groups=2)]),
        "BN, DepthwiseConv2D": (IMAGE, lambda a: [a(BN()), L.DepthwiseConv2D(3)]),
        "BN, Dense": (ROW, lambda a: [a(BN()), L.Dense(5)]),
        "BN, Flatten, Dense": (IMAGE, lambda a: [a(BN()), L.Flatten(), L.Dense(5)]),
        "BN, EinsumDense": (SEQUENCE, lambda a: [a(BN()), einsum()]),
        "BN, LSTM": (SEQUENCE, lambda a: [a(BN()), L.LSTM(5)]),
        "BN, GRU": (SEQUENCE, lambda a: [a(BN()), L.GRU(5)]),
        "BN, Bidirectional(LSTM)": (SEQUENCE, lambda a: [a(BN()), L.Bidirectional(L.LSTM(5))]),
        "BN, MultiHeadAttention": (SEQUENCE, lambda a: [a(BN()), attention]),
    },
    "Through other layers": {
        "Conv2D, AveragePooling, BN": (IMAGE, lambda a: [conv(), L.AveragePooling2D(2), a(BN())]),
        "Conv2D, MaxPooling, BN of positive scale": (IMAGE, lambda a: [conv(), L.MaxPooling2D(2), a(BN(**POSITIVE))]),
        "Conv2D, UpSampling, BN": (IMAGE, lambda a: [conv(), L.UpSampling2D(), a(BN())]),
        "Conv2D, ZeroPadding, BN without shift": (IMAGE, lambda a: [conv(), L.ZeroPadding2D(), a(BN(**NO_SHIFT))]),
        "Conv2D(relu), Flatten, BN, Dense": (
            IMAGE,
            lambda a: [conv(activation="relu"), L.Flatten(), a(BN()), L.Dense(5)],
        ),
        "Conv2D, ReLU, BN, Conv2D": (IMAGE, lambda a: [conv(), L.ReLU(), a(BN()), conv()]),
        "Conv2D(relu), BN of positive scale, MaxPooling, Flatten, Dense": (
            IMAGE,
            lambda a: [conv(activation="relu"), a(BN(**POSITIVE)), L.MaxPooling2D(2), L.Flatten(), L.Dense(5)],
        ),
        "Conv2D, ReLU, GlobalAveragePooling, BN, Dense": (
            IMAGE,
            lambda a: [conv(), L.ReLU(), L.GlobalAveragePooling2D(), a(BN()), L.Dense(5)],
        ),
    },
    "Branches": {
        "Concatenate of Conv2Ds, BN": (IMAGE, lambda a: [joined(L.Concatenate, [conv()], [conv()]), a(BN())]),
        "Concatenate of Conv2D and Conv2D(tanh), BN": (
            IMAGE,
            lambda a: [joined(L.Concatenate, [conv()], [conv(activation="tanh")]), a(BN())],
        ),
        "Add of Conv2Ds, BN": (IMAGE, lambda a: [joined(L.Add, [conv()], [conv()]), a(BN())]),
        "Conv2D, squeeze and excite, BN, Conv2D": (IMAGE, lambda a: [conv(), squeeze_and_excite(), a(BN()), conv()]),
        "BN, two Conv2Ds": (IMAGE, lambda a: [a(BN()), forked([conv()], [conv(1)])]),
    },
    "Zero padding": {
        "BN at the input, Conv2D same": (IMAGE, lambda a: [a(BN()), same()]),
        "Conv2D(relu), BN, Conv2D same": (IMAGE, lambda a: [conv(activation="relu"), a(BN()), same()]),
        "Conv2D(relu), BN, Conv2D same, any height and width": (
            ANY_SIZE,
            lambda a: [conv(activation="relu"), a(BN()), same()],
        ),
    },
    "Pre-activation": {
        "Add of Conv2D and a shortcut, BN of positive scale, ReLU, Conv2D same": (
            IMAGE,
            lambda a: [conv(), joined(L.Add, [same()], [L.Activation("tanh")]), a(BN(**POSITIVE)), L.ReLU(), same()],
        ),
        "Add, then BN, ReLU, Conv2D same beside a shortcut": (
            IMAGE,
            lambda a: [joined(L.Add, [conv()], [conv()]), joined(L.Add, [], [a(BN()), L.ReLU(), same()])],
        ),
        "ResNetV2 block, four BN": (IMAGE, resnet_v2),
    },
    "Other affine layers": {
        "Rescaling, Conv2D": (IMAGE, lambda a: [a(L.Rescaling(0.7, -1)), conv()]),
        "Normalization, Conv2D": (
            IMAGE,
            lambda a: [a(L.Normalization(mean=[0.5, -0.3, 0.2, 1], variance=[0.5, 2, 1.5, 0.8])), conv()],
        ),
        "times and plus a constant, Dense": (ROW, lambda a: [a(lambda x: x * 1.7 + 0.4), L.Dense(5)]),
    },
}


def chain(x, *steps):
    for step in steps:
        x = step(x)
    return x


def model_of(shape, layers, affine):
    """The model with its affine layers, or with an identity in the place of each."""
    x = keras.Input(shape)
    model = keras.Model(x, chain(x, *layers((lambda step: step) if affine else lambda _: L.Activation("linear"))))
    randomise(model)
    return model


def randomise(model):
    """Every weight anew, as a bias of 0 or a scale of 1 may be dropped from a graph; gamma in both signs."""
    random = np.random.default_rng(0)
    for layer in model._flatten_layers():
        for weight in (*layer._trainable_variables, *layer._non_trainable_variables):
            value = random.normal(0, 0.5, weight.shape)
            if weight.name == "gamma":
                value = random.uniform(0.5, 1.5, weight.shape)
                if getattr(layer, "gamma_constraint", None) is None:
                    value[::2] *= -1
            elif weight.name == "moving_variance":
                value = random.uniform(0.3, 3, weight.shape)
            elif weight.name == "moving_mean" and not layer.center:
                value = np.zeros(weight.shape)
            weight.assign(value)


def by_kbn(model, _, folder):
    kbn.export.export(model, folder / "kbn.onnx", force=True)
    return onnx.load(folder / "kbn.onnx")


def by_kbn_from_the_file(_, converted, __):
    return kbn.export.fold(converted)[0]


def by_tf2onnx(model, *_):
    signature = [tf.TensorSpec(model.inputs[0].shape, model.inputs[0].dtype)]
    call = tf.function(lambda x: model(x, training=False))
    return tf2onnx.convert.from_function(call, signature, opset=18)[0]


def by_onnxruntime(_, converted, folder):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "onnxruntime.onnx")
    onnxruntime.InferenceSession(converted.SerializeToString(), options)
    return onnx.load(folder / "onnxruntime.onnx")


def by_onnxsim(_, converted, __):
    import onnxsim

    return onnxsim.simplify(converted)[0]


def by_onnxslim(_, converted, __):
    import onnxslim

    return onnxslim.slim(onnx.ModelProto.FromString(converted.SerializeToString()))


TOOLS = {
    "kbn": by_kbn,
    "tf2onnx": by_tf2onnx,
    "onnxruntime": by_onnxruntime,
    "onnxsim": by_onnxsim,
    "onnxslim": by_onnxslim,
    "kbn on tf2onnx's file": by_kbn_from_the_file,
}


def cells(name, shape, layers):
    """What each tool leaves of this pattern."""
    found = {tool: [] for tool in TOOLS}  # two files, with and without the affine layers
    with tempfile.TemporaryDirectory() as folder:
        for affine in (True, False):
            model, converted = model_of(shape, layers, affine), None
            for tool, convert in TOOLS.items():
                if tool in ("onnxsim", "onnxslim") and find_spec(tool) is None:
                    found[tool].append("not installed")
                elif converted is None and tool not in ("kbn", "tf2onnx"):
                    found[tool].append("fails")
                else:
                    try:
                        with quiet(log_too=tool != "kbn"):
                            proto = convert(model, converted, Path(folder))
                            found[tool].append(arithmetic(proto.graph) if agrees(proto, model) else "wrong")
                        converted = proto if tool == "tf2onnx" else converted
                    except Exception as error:
                        console.print(f"{name}: {tool}: {str(error)[:150]}", markup=False, soft_wrap=True)
                        found[tool].append("fails")
    return [left(*each) for each in found.values()]


def left(count, without):
    if isinstance(count, str) or isinstance(without, str):
        return count if isinstance(count, str) else without
    return max(count - without, 0)


def arithmetic(graph):
    inner = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    return sum(node.op_type in ARITHMETIC for node in graph.node) + sum(map(arithmetic, inner))


def agrees(proto, model):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    x = np.random.default_rng(1).normal(size=[8 if n is None else n for n in model.input_shape]).astype("float32")
    truths = [np.asarray(truth) for truth in keras.tree.flatten(model(x, training=False))]
    outputs = session.run(None, {session.get_inputs()[0].name: x})
    return all(abs(y - truth).max() <= TOLERANCE * abs(truth).max() for y, truth in zip(outputs, truths, strict=True))


@contextmanager
def quiet(log_too):
    """Keeps the tools off the terminal; kbn reads tf2onnx's log, so that is left on for it."""
    logging.disable(logging.CRITICAL if log_too else logging.NOTSET)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="NAME", help="patterns whose name contains this")
    only = parser.parse_args().only.lower()
    onnxruntime.set_default_logger_severity(4)
    chosen = [
        (group, name, *pattern)
        for group, patterns in PATTERNS.items()
        for name, pattern in patterns.items()
        if only in name.lower()
    ]
    if not chosen:
        parser.error(f"no pattern has {only!r} in its name")
    rows = []
    for group, name, shape, layers in track(chosen, console=console, description="patterns", transient=True):
        if all(group != other for other, *_ in rows):
            rows.append((group, f"**{group}**", *([""] * len(TOOLS))))
        rows.append((group, name, *cells(name, shape, layers)))
    columns = list(zip(*(row[2:] for row in rows), strict=True))
    whole = ["" if "not installed" in column else f"**{column.count(0)}**" for column in columns]
    print(table([row[1:] for row in rows], [f"**folded whole, of {len(chosen)}**", *whole]))


def table(rows, last):
    lines = [["pattern", *TOOLS], ["---"] * (1 + len(TOOLS))]
    lines += [["folded" if cell == 0 else str(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in [*lines, last])


if __name__ == "__main__":
    main()
