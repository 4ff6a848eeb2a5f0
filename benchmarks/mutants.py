"""Small deliberate faults in exported files: how many the check finds by its outputs, and how many by its layers.

    python benchmarks/mutants.py [--networks 12] [--each 3]

Random networks are trained by nobody, but have random statistics, gammas and betas of both signs; each is folded and exported,
and then its file is changed in one place. "outputs" counts the files that `kbn check` rejects; "own errors" and "weights" those
that `kbn check --layers` rejects for what a layer makes of its input, and for what is stored; "any" all that it rejects. The
first row is the files as they are, of which none may be rejected.
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
from kbn.export.layer_check import ROUNDED_ONCE


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
    """One weight, by 32 to 64 units in its last place."""
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
    shapes = {tensor.name: tensor.dims for tensor in proto.graph.initializer}
    nodes = [node for node in proto.graph.node if node.op_type == "Conv" and shapes[node.input[1]][2] > 1]
    node = nodes[random.integers(len(nodes))]
    (tensor,) = [tensor for tensor in proto.graph.initializer if tensor.name == node.input[1]]
    _change(tensor, numpy_helper.to_array(tensor).swapaxes(2, 3))


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
    """By what the check rejects the file: its outputs, the own errors of layers, stored weights; and whether by any."""
    report = check(model, path, layers=True)
    return {
        "outputs": not all(output.passed for output in report.outputs),
        "own errors": any(layer.local is not None and not layer.local.passed for layer in report.layers),
        "weights": any(layer.weights is not None and layer.weights > ROUNDED_ONCE for layer in report.layers),
        "any": not report.passed,
    }


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
    table = Table("fault", "files", *found[None][0], box=None)
    for fault, rows in found.items():
        name = fault.__doc__.rstrip(".") if fault else "none: the file as it is"
        table.add_row(name, str(len(rows)), *(str(sum(row[by] for row in rows)) for by in rows[0]))
    console.print(table)


if __name__ == "__main__":
    main()
