"""Names for the free dimensions: batch; height, width, length, depth; and which of them an output shares with an input.

Two dimensions of one name are one number to a runtime, which plans its memory by it. So an output's dimension takes an
input's name only where shape inference, run twice with different sizes for every named dimension, gives the output that
dimension's size both times; else it gets a name of its own. TensorFlow infers; Keras does where TensorFlow cannot (loops).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf
from keras import tree

from .model_ports import Port, pack_inputs
from .rules.rule import Shape
from .tracing import Trace

Dimensions = tuple[int | str, ...]

_SPATIAL = {3: ("length",), 4: ("height", "width"), 5: ("depth", "height", "width")}


def meanings(shape: Shape, channels_first: bool) -> tuple[str, ...]:
    """What each axis of an input or output of this shape is called."""
    rank = len(shape)
    spatial = _SPATIAL.get(rank)
    if rank == 2:
        return ("batch", "length")
    if spatial is None:
        return ("batch", *(f"axis_{axis}" for axis in range(1, rank)))[:rank]
    return ("batch", "channels", *spatial) if channels_first else ("batch", *spatial, "channels")


def name_inputs(ports: Sequence[Port], names: Sequence[str]) -> list[Dimensions]:
    """The dimensions of each input: sizes where fixed, names where free."""
    free = [
        [
            meaning
            for meaning, size in zip(meanings(port.shape, port.channels_first), port.shape, strict=True)
            if size is None
        ]
        for port in ports
    ]
    inputs_with = Counter(meaning for found in free for meaning in found)

    def dimension(size: int | None, meaning: str, name: str) -> int | str:
        if size is not None:
            return size
        return meaning if meaning == "batch" or inputs_with[meaning] == 1 else f"{name}_{meaning}"

    return [
        tuple(
            dimension(size, meaning, name)
            for size, meaning in zip(port.shape, meanings(port.shape, port.channels_first), strict=True)
        )
        for port, name in zip(ports, names, strict=True)
    ]


def name_outputs(trace: Trace, inputs: Mapping[str, Dimensions], names: Sequence[str]) -> list[Dimensions]:
    """The dimensions of each output: sizes where fixed, an input's name where always equal to it, else its own.

    inputs: by TensorFlow's names, `input_0:0`.
    """
    symbols = list(dict.fromkeys(d for shape in inputs.values() for d in shape if isinstance(d, str)))
    # Multiples of 64 pass through pooling and upsampling; no size is in both lists, nor twice in one.
    probes = [
        {symbol: batch if symbol == "batch" else 64 * (first + 2 * i) for i, symbol in enumerate(symbols)}
        for batch, first in ((5, 3), (7, 4))
    ]
    runs = [
        _infer(trace, {name: [probe[d] if isinstance(d, str) else d for d in shape] for name, shape in inputs.items()})
        for probe in probes
    ]
    by_sizes: dict[tuple[int | None, ...], str] = {
        tuple(probe[symbol] for probe in probes): symbol for symbol in symbols
    }

    def dimension(size: int | None, index: int, axis: int, own: str) -> int | str:
        found = tuple(run[index][axis] for run in runs if run is not None)
        return size if size is not None else by_sizes.get(found, own)

    return [
        tuple(
            dimension(size, index, axis, f"{name}_{meaning}")
            for axis, (size, meaning) in enumerate(
                zip(port.shape, meanings(port.shape, port.channels_first), strict=True)
            )
        )
        for index, (port, name) in enumerate(zip(trace.outputs.values(), names, strict=True))
    ]


def _infer(trace: Trace, inputs: Mapping[str, list[int]]) -> list[list[int | None]] | None:
    """The shapes of the outputs for inputs of these shapes, None where unknown; None where the inputs do not fit."""
    probe = tf.compat.v1.GraphDef()
    probe.CopyFrom(trace.graph_def)
    for node in probe.node:
        node.attr.pop("_output_shapes", None)
        if f"{node.name}:0" in inputs:
            node.attr["shape"].shape.CopyFrom(tf.TensorShape(inputs[f"{node.name}:0"]).as_proto())
    with tf.Graph().as_default() as graph:
        try:
            tf.import_graph_def(probe, name="")
        except ValueError:  # two inputs, say, whose heights must be equal
            return None
        found = [graph.get_tensor_by_name(name).shape for name in trace.outputs]
    if all(shape.is_fully_defined() for shape in found):
        return [shape.as_list() for shape in found]
    return _infer_by_keras(trace, inputs)


def _infer_by_keras(trace: Trace, inputs: Mapping[str, list[int]]) -> list[list[int | None]]:
    tensors = [
        keras.KerasTensor([inputs[name][axis] for axis in port.transposition or range(len(port.shape))], tensor.dtype)
        for (name, port), tensor in zip(trace.inputs.items(), trace.model.inputs, strict=True)
    ]
    outputs = trace.model.compute_output_spec(pack_inputs(trace.model, tensors))
    return [list(output.shape) for output in tree.flatten(outputs)]
