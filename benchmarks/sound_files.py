"""The sound model files that `mutated_files.py` mutates: small, with what folds, branches, and a function."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def sound_file(kind: str, folder: Path) -> Path:
    """A model's file in the folder, `sound.keras`, `sound.h5` or `sound.onnx`; the same bytes' worth each time."""
    path = folder / f"sound.{kind}"
    if kind == "onnx":
        onnx.save(sound_onnx(), path)
        return path
    import keras

    keras.utils.set_random_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras calls HDF5 legacy
        sound_keras().save(path)
    return path


def sound_keras():  # type: ignore[no-untyped-def]  # Keras is imported late
    """Convolutions, two normalizations, a branch, a nested model and a wrapped layer."""
    import keras
    from keras import layers

    inputs = keras.Input((6, 6, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", name="conv")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    y = layers.BatchNormalization(name="norm2")(layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x))
    x = layers.MaxPooling2D()(layers.Add()([x, y]))
    x = layers.Reshape((9, 4))(x)
    x = layers.TimeDistributed(layers.Dense(3))(x)
    x = layers.GlobalAveragePooling1D()(x)
    head = keras.Sequential([keras.Input((3,)), layers.Dense(2, activation="softmax")], name="head")
    return keras.Model(inputs, head(x), name="sound")


def sound_onnx() -> onnx.ModelProto:
    """Conv, BatchNormalization, a function of the model's own, an If, a Constant, pooling, LSTM-free; Gemm and Softmax."""
    random = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name)

    def branch(name: str, operator: str) -> onnx.GraphProto:
        node = helper.make_node(operator, ["pooled"], [f"{name}_out"], name=f"{name}/{operator}")
        return helper.make_graph(
            [node], name, [], [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)]
        )

    halved = helper.make_function(
        "own",
        "Halved",
        ["v"],
        ["h"],
        [
            helper.make_node("Constant", [], ["half"], value=numpy_helper.from_array(np.float32(0.5))),
            helper.make_node("Mul", ["v", "half"], ["h"]),
        ],
        [helper.make_opsetid("", 18)],
    )
    variance = numpy_helper.from_array(random.uniform(0.5, 2, 4).astype(np.float32), "variance")
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "variance"], ["n"], name="norm"),
        helper.make_node("Relu", ["n"], ["r"], name="relu"),
        helper.make_node("Halved", ["r"], ["h"], name="halved", domain="own"),
        helper.make_node("MaxPool", ["h"], ["p"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["p"], ["g"], name="mean_over_space"),
        helper.make_node("Flatten", ["g"], ["pooled"], name="flat", axis=1),
        helper.make_node("Constant", [], ["yes"], name="yes", value=numpy_helper.from_array(np.array(True))),
        helper.make_node(
            "If", ["yes"], ["i"], name="if", then_branch=branch("then", "Tanh"), else_branch=branch("else", "Neg")
        ),
        helper.make_node("Gemm", ["i", "k", "d"], ["s"], name="dense"),
        helper.make_node("Softmax", ["s"], ["y"], name="softmax", axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "sound",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [
            weight("w", 4, 3, 3, 3),
            weight("b", 4),
            weight("scale", 4),
            weight("shift", 4),
            weight("mean", 4),
            variance,
            weight("k", 4, 2),
            weight("d", 2),
        ],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=[halved], ir_version=9)
