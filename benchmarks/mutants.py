"""Small deliberate faults in exported files: how many the check finds by its outputs, and how many by its layers.

    python benchmarks/mutants.py [--networks 12] [--each 3]

Random networks are trained by nobody, but have random statistics, gammas and betas of both signs; each is folded and exported,
and then its file is changed in one place. "by outputs" is `kbn check`, "by layers" `kbn check --layers`. A fault that rounding
could explain as well is none that any check could tell: the last column is the largest share of the rounding bound that an
excused fault used. The first row is the files as they are, of which none may be rejected.
"""

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
import onnx
from alternating import console
from onnx import numpy_helper
from rich.table import Table

from kbn.export.quiet import import_quietly

os.environ["KERAS_BACKEND"] = "tensorflow"
import_quietly("tensorflow", "tf2onnx")

import keras
from keras import layers

from kbn.export import check, export


def network(seed):
    """A small model of padded, strided, depthwise, separable, grouped and dense layers, with BN before and after."""
    random = np.random.default_rng(seed)
    keras.utils.set_random_seed(seed)

    def norm():
        return layers.BatchNormalization(epsilon=float(random.choice([1e-3, 1e-5])))

    inputs = keras.Input((12, 10, 3), name="image")
    tensor = norm()(layers.Conv2D(8, 3, padding="same", use_bias=bool(random.integers(2)))(inputs))
    tensor = layers.ReLU()(tensor)
    middle = [
        layers.DepthwiseConv2D(3, padding="same"),
        layers.SeparableConv2D(8, 3, padding="same"),
        layers.Conv2D(8, 3, groups=2, padding="same"),
        layers.Conv2DTranspose(8, 3, padding="same"),
    ]
    for index in random.permutation(len(middle))[:2]:
        tensor = layers.Activation(str(random.choice(["relu", "gelu", "tanh"])))(norm()(middle[index](tensor)))
    tensor = layers.Conv2D(6, 3, strides=2, padding="same")(norm()(tensor))
    tensor = layers.Flatten()(layers.MaxPooling2D(2)(layers.ReLU()(tensor)))
    tensor = layers.ReLU()(norm()(layers.Dense(12)(tensor)))
    model = keras.Model(inputs, layers.Dense(4, activation="softmax", name="classes")(tensor))
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            shape = layer.moving_mean.shape
            layer.moving_mean.assign(random.normal(0, 0.5, shape))
            layer.moving_variance.assign(random.uniform(0.2, 2.0, shape))
            layer.gamma.assign(random.uniform(0.5, 1.5, shape) * random.choice([-1, 1], shape))
            layer.beta.assign(random.normal(0, 0.3, shape))
    return model


def _kernel(proto, random):
    """A kernel of a convolution or a dense layer, and the axis of its output channels."""
    nodes = [node for node in proto.graph.node if node.op_type in ("Conv", "MatMul", "Gemm")]
    node = nodes[random.integers(len(nodes))]
    (tensor,) = [tensor for tensor in proto.graph.initializer if tensor.name == node.input[1]]
    return node, tensor, 0 if node.op_type == "Conv" else -1


def _change(tensor, array):
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array, np.float32), tensor.name))


def kernel_element(proto, random):
    """One weight, by a hundredth of the largest."""
    _, tensor, _ = _kernel(proto, random)
    array = numpy_helper.to_array(tensor).copy()
    array.flat[random.integers(array.size)] += 0.01 * np.abs(array).max()
    _change(tensor, array)


def kernel_unit(proto, random):
    """One weight, by 64 units in its last place."""
    _, tensor, _ = _kernel(proto, random)
    array = numpy_helper.to_array(tensor).copy()
    array.flat[random.integers(array.size)] *= 1 + 64 * 2.0**-24
    _change(tensor, array)


def swapped_channels(proto, random):
    """Two output channels of a kernel."""
    _, tensor, axis = _kernel(proto, random)
    array = np.moveaxis(numpy_helper.to_array(tensor).copy(), axis, 0)
    first, second = random.choice(len(array), 2, replace=False)
    array[[first, second]] = array[[second, first]]
    _change(tensor, np.moveaxis(array, 0, axis))


def wrong_axis(proto, random):
    """Height and width of a kernel."""
    nodes = [node for node in proto.graph.node if node.op_type == "Conv"]
    node = nodes[random.integers(len(nodes))]
    (tensor,) = [tensor for tensor in proto.graph.initializer if tensor.name == node.input[1]]
    array = numpy_helper.to_array(tensor)
    _change(tensor, array.swapaxes(2, 3) if array.shape[2] > 1 else array[::-1])


def forgotten_epsilon(proto, random):
    """The weights of one channel, as if epsilon had been left out at a variance of 0.2 to 2: 1e-3 / (2 variance)."""
    _, tensor, axis = _kernel(proto, random)
    array = np.moveaxis(numpy_helper.to_array(tensor).copy(), axis, 0)
    array[random.integers(len(array))] *= np.sqrt(1 + 1e-3 / random.uniform(0.2, 2.0))
    _change(tensor, np.moveaxis(array, 0, axis))


def border(proto, random):
    """One row of padding, from one side to the other."""
    nodes = [
        node
        for node in proto.graph.node
        if node.op_type == "Conv" and any(a.name == "pads" and any(a.ints) for a in node.attribute)
    ]
    (pads,) = [a for a in nodes[random.integers(len(nodes))].attribute if a.name == "pads"]
    before, after = pads.ints[0], pads.ints[2]
    pads.ints[0], pads.ints[2] = (before - 1, after + 1) if before else (before + 1, after - 1)


def bias(proto, random):
    """One bias, by 1e-4 of the range of all."""
    found = [tensor for tensor in proto.graph.initializer if tensor.name.endswith("/bias") and np.prod(tensor.dims) > 1]
    tensor = found[random.integers(len(found))]
    array = numpy_helper.to_array(tensor).copy()
    array.flat[random.integers(array.size)] += 1e-4 * (np.ptp(array) or 1.0)
    _change(tensor, array)


FAULTS = [kernel_element, kernel_unit, swapped_channels, wrong_axis, forgotten_epsilon, border, bias]


def verdicts(model, path):
    """Whether the check rejects the file by its outputs, by its layers, and the largest share of a layer's bound."""
    report = check(model, path, layers=True)
    shares = [layer.local.use for layer in report.layers if layer.local is not None]
    return not all(output.passed for output in report.outputs), not report.passed, max(shares)


def mutants(model, path, random, each):
    """(fault, verdicts) for the file as it is, None, and with each fault in it."""
    yield None, verdicts(model, path)
    original = onnx.load(path)
    for fault in FAULTS:
        for _ in range(each):
            proto = onnx.ModelProto()
            proto.CopyFrom(original)
            fault(proto, random)
            changed = path.with_name("mutant.onnx")
            onnx.save(proto, changed)
            yield fault, verdicts(model, changed)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=int, default=12)
    parser.add_argument("--each", type=int, default=3)
    options = parser.parse_args()
    found = {fault: [] for fault in (None, *FAULTS)}
    for seed in range(options.networks):
        model = network(seed)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.onnx")
            export(model, path)
            for fault, verdict in mutants(model, path, np.random.default_rng(seed), options.each):
                found[fault].append(verdict)
    table = Table("fault", "files", "by outputs", "by layers", "share of the bound, excused", box=None)
    for fault, rows in found.items():
        name = fault.__doc__.rstrip(".") if fault else "none: the file as it is"
        shares = [share for _, rejected, share in rows if not rejected]
        excused = f"{max(shares):.2g}" if shares else ""
        table.add_row(name, str(len(rows)), *(str(sum(row[i] for row in rows)) for i in (0, 1)), excused)
    console.print(table)


if __name__ == "__main__":
    main()
