"""convert(): every kind of layer computes in onnxruntime what it computes in Keras, in a graph fit to be read."""

from __future__ import annotations

import logging
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tensorflow as tf
from keras import layers
from tf2onnx.onnx_opset.nn import ConvOp

import kbn
from kbn.export import onnx_conversion, tf2onnx_fixes
from kbn.export.errors import UnsupportedError, UsageError
from kbn.export.onnx_conversion import NEWEST_OPSET, OLDEST_OPSET, Conversion, convert
from trained_models import computed, float64_outputs, random_inputs, randomized, real_models


def chain(shape: tuple[int | None, ...], *steps: Any, dtype: str = "float32") -> keras.Model:
    """A functional model of one input called x."""
    x = keras.Input(shape, dtype=dtype, name="x")
    y = x
    for step in steps:
        y = step(y)
    return keras.Model(x, y)


def run(proto: onnx.ModelProto, arrays: list[np.ndarray], *, optimised: bool) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {value.name: array for value, array in zip(proto.graph.input, arrays, strict=True)})


def flat_inputs(model: keras.Model, **sizes: int) -> list[np.ndarray]:
    flat = keras.tree.flatten(random_inputs(model, **sizes))
    return [array.astype(tensor.dtype) for array, tensor in zip(flat, model.inputs, strict=True)]


def assert_equal_numbers(model: keras.Model, proto: onnx.ModelProto, **sizes: int) -> None:
    """Without and with the runtime's optimisations, each output within 1e-5 of the largest value."""
    arrays = flat_inputs(model, **sizes)
    packed = arrays[0] if isinstance(model, keras.Sequential) else keras.tree.pack_sequence_as(model.input, arrays)
    expected = computed(model, packed)
    for optimised in (False, True):
        found = run(proto, arrays, optimised=optimised)
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert a.shape == b.shape
            assert np.abs(b).max() > 1e-3  # a comparison of zeros would prove nothing
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


def assert_clean(proto: onnx.ModelProto) -> None:
    """Only ONNX operators, nothing unused, no Identity but to give one tensor two names, every name once."""
    graph = proto.graph
    onnx.checker.check_model(proto, full_check=True)
    assert [opset.domain for opset in proto.opset_import] == [""]
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                read |= {name for inner in attribute.g.node for name in inner.input}
                read |= {value.name for value in attribute.g.output}
    assert {tensor.name for tensor in graph.initializer} <= read
    assert all(set(node.output) & read for node in graph.node)
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    assert "" not in names
    outputs = {value.name for value in graph.output}
    assert all(set(node.output) <= outputs for node in graph.node if node.op_type == "Identity")


def operators(proto: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in proto.graph.node)


def converted(model: keras.Model, **options: Any) -> Conversion:
    conversion = convert(randomized(model), **options)
    assert_clean(conversion.proto)
    return conversion


def shapes(values: Any) -> dict[str, list[int | str]]:
    return {value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] for value in values}


LAYERS = {
    "dense": lambda: chain((7,), layers.Dense(5, activation="tanh")),
    "dense on rank 3": lambda: chain((4, 7), layers.Dense(5)),
    "conv1d": lambda: chain((9, 3), layers.Conv1D(5, 3, strides=2, padding="same")),
    "conv1d causal": lambda: chain((9, 3), layers.Conv1D(5, 3, padding="causal", dilation_rate=2)),
    "conv2d": lambda: chain((9, 9, 3), layers.Conv2D(5, 3, strides=2, padding="same", activation="relu")),
    "conv2d dilated": lambda: chain((9, 9, 3), layers.Conv2D(5, 3, dilation_rate=2)),
    "conv2d without bias": lambda: chain((9, 9, 3), layers.Conv2D(5, 3, use_bias=False)),
    "conv3d": lambda: chain((5, 5, 5, 3), layers.Conv3D(4, 2)),
    "depthwise conv1d": lambda: chain((9, 3), layers.DepthwiseConv1D(3, depth_multiplier=2)),
    "depthwise conv2d": lambda: chain((9, 9, 3), layers.DepthwiseConv2D(3, depth_multiplier=2)),
    "separable conv1d": lambda: chain((9, 3), layers.SeparableConv1D(5, 3, depth_multiplier=2, padding="same")),
    "separable conv2d": lambda: chain((9, 9, 3), layers.SeparableConv2D(5, 3, depth_multiplier=2, padding="same")),
    "conv1d transpose": lambda: chain((9, 3), layers.Conv1DTranspose(5, 3, strides=2, padding="same")),
    "conv2d transpose": lambda: chain((5, 5, 3), layers.Conv2DTranspose(5, 3, strides=2, padding="same")),
    "conv3d transpose": lambda: chain((4, 4, 4, 3), layers.Conv3DTranspose(5, 3, strides=2, padding="same")),
    "einsum dense": lambda: chain((7, 6), layers.EinsumDense("abc,cde->abde", (None, 5, 4), bias_axes="de")),
    "embedding": lambda: chain((9,), layers.Embedding(10, 4), layers.Flatten(), layers.Dense(3), dtype="int32"),
    "layer normalization": lambda: chain((6, 6, 4), layers.LayerNormalization(), layers.GroupNormalization(2)),
    "rescaling": lambda: chain((6, 6, 3), layers.Rescaling(1 / 127.5, -1.0), layers.Conv2D(4, 3)),
    "prelu": lambda: chain((6, 6, 3), layers.PReLU(shared_axes=[1, 2]), layers.Conv2D(4, 3)),
    "pooling": lambda: chain(
        (9, 9, 3),
        layers.ZeroPadding2D(1),
        layers.MaxPooling2D(2),
        layers.AveragePooling2D(2, padding="same"),
        layers.Flatten(),
        layers.Dropout(0.3),
        layers.Dense(4, activation="softmax"),
    ),
    "upsampling": lambda: chain((5, 5, 3), layers.UpSampling2D(2), layers.Conv2D(3, 3)),
    "upsampling bilinear": lambda: chain((5, 5, 3), layers.UpSampling2D(2, interpolation="bilinear")),
    "upsampling 1d": lambda: chain((5, 3), layers.UpSampling1D(2)),
    "hard swish": lambda: chain((9, 9, 3), layers.Conv2D(4, 3, activation="hard_swish"), layers.Conv2D(4, 3)),
    "squeeze and excite": lambda: chain((9, 9, 3), layers.Conv2D(4, 3), squeeze_and_excite(4)),
    "channels first": lambda: chain((3, 5, 5, 5), layers.Conv3D(4, 3, data_format="channels_first")),
    "time distributed": lambda: chain((3, 6, 6, 2), layers.TimeDistributed(layers.Conv2D(3, 3))),
    "nested model": lambda: chain((9, 9, 3), chain((9, 9, 3), layers.Conv2D(4, 3)), layers.Conv2D(3, 3)),
    "dynamic size": lambda: chain((None, None, 3), layers.Conv2D(4, 3), layers.UpSampling2D(2), layers.Conv2D(2, 3)),
    "dynamic length": lambda: chain(
        (None,), layers.Embedding(10, 4), layers.GlobalAveragePooling1D(), layers.Dense(3), dtype="int32"
    ),
}


def squeeze_and_excite(channels: int) -> Any:
    def block(x: Any) -> Any:
        y = layers.GlobalAveragePooling2D(keepdims=True)(x)
        y = layers.Conv2D(2, 1, activation="swish")(y)
        return layers.Multiply()([x, layers.Conv2D(channels, 1, activation="sigmoid")(y)])

    return block


@pytest.mark.parametrize("build", LAYERS.values(), ids=LAYERS)
def test_layer_computes_what_keras_computes_without_constant_weights(build: Any) -> None:
    model = build()
    conversion = converted(model)
    assert (conversion.path, conversion.notes) == ("skeleton", ())
    assert_equal_numbers(model, conversion.proto)


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(
            lambda: chain((9,), layers.Embedding(10, 4, mask_zero=True), layers.LSTM(5), dtype="int32"), id="masked"
        ),
        pytest.param(lambda: chain((3, 6, 6, 2), layers.ConvLSTM2D(3, 3)), id="convlstm"),
    ],
)
def test_a_loop_has_its_weights_as_constants(build: Any) -> None:
    model = build()
    conversion = converted(model)
    assert "were constants during the conversion" in " ".join(conversion.notes)
    assert_equal_numbers(model, conversion.proto)


def test_attention() -> None:
    query, value = keras.Input((6, 8), name="query"), keras.Input((None, 8), name="value")
    attended = layers.MultiHeadAttention(2, 4)(query, value)
    model = keras.Model([query, value], layers.LayerNormalization()(layers.Add()([query, attended])))
    assert_equal_numbers(model, converted(model).proto)


# ---- faults of tf2onnx and Keras, each with the issue where there is one ----


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(lambda: chain((9, 4), layers.Conv1D(6, 3, groups=2)), id="1d"),
        pytest.param(lambda: chain((9, 9, 4), layers.Conv2D(6, 3, groups=2)), id="2d"),
        pytest.param(lambda: chain((5, 5, 5, 4), layers.Conv3D(6, 3, groups=2)), id="3d"),
        pytest.param(
            lambda: chain((4, 5, 5, 5), layers.Conv3D(6, 3, groups=2, data_format="channels_first")), id="3d cf"
        ),
    ],
)
def test_grouped_convolution_is_one_conv_not_a_function_call(build: Any) -> None:
    # tf2onnx #2099, #2412: left as StatefulPartitionedCall, since Keras compiles this call; Conv3D loses its groups too.
    model = build()
    conversion = converted(model)
    (conv,) = [node for node in conversion.proto.graph.node if node.op_type == "Conv"]
    assert {a.name: a.i for a in conv.attribute}["group"] == 2
    assert_equal_numbers(model, conversion.proto)


def test_normalization_adds_no_graph_inputs() -> None:
    # tf2onnx makes graph inputs of tensors that the traced function captured: EfficientNet did not run.
    model = chain((6, 6, 3), layers.Normalization(mean=[1.0, -2.0, 3.0], variance=[1.0, 4.0, 2.0]), layers.Conv2D(4, 3))
    conversion = converted(model)
    assert [value.name for value in conversion.proto.graph.input] == ["x"]
    assert_equal_numbers(model, conversion.proto)


def test_exact_gelu() -> None:
    # tf2onnx #2347: Erfc has no conversion.
    model = chain((7,), layers.Dense(5, activation="gelu"))
    conversion = converted(model)
    assert operators(conversion.proto)["Erf"] == 1
    assert_equal_numbers(model, conversion.proto)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("opset", [13, 18])
def test_a_resize_whose_scale_float32_rounds_down(interpolation: str, opset: int) -> None:
    # floor(9 * float32(13 / 9)) is 12: tf2onnx writes scales, and the file does not have the shape it says.
    model = chain((9, 9, 3), layers.Resizing(7, 13, interpolation=interpolation))
    assert_equal_numbers(model, convert(model, opset=opset).proto)


def test_branches() -> None:
    model = chain((20, 30, 3), layers.Resizing(16, 16, pad_to_aspect_ratio=True))
    conversion = converted(model)
    assert operators(conversion.proto)["If"] == 2
    assert_equal_numbers(model, conversion.proto)


@pytest.mark.parametrize("operation", [keras.ops.argmax, keras.ops.argmin])
def test_arg_max_of_floats_converts(operation: Any) -> None:
    # Keras looks at the bits of zeros, which ONNX cannot (Bitcast).
    model = chain((5,), lambda x: operation(x, -1))
    zeros = np.array([[0, -0.0, -1, 0, -2], [-0.0, 0, -1, -3, -0.0], [1, 2, 2, -1, 0], [-0.0, -0.0, -0.0, 1, 0]], "f")
    (found,) = run(convert(model).proto, [zeros], optimised=True)
    np.testing.assert_array_equal(found, computed(model, zeros)[0])


def test_sequential_that_was_loaded(tmp_path: Any) -> None:
    # tf2onnx #2448: from_keras raises KeyError keras_tensor_N.
    model = randomized(
        keras.Sequential([keras.Input((9, 9, 3)), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(3)])
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    assert_equal_numbers(loaded, convert(loaded).proto)


def test_seed_state_of_dropout_is_no_obstacle() -> None:
    # Mapping model.weights instead of model.variables raises KeyError.
    model = chain((7,), layers.Dense(5), layers.Dropout(0.5, seed=3), layers.GaussianNoise(0.1))
    assert_equal_numbers(model, converted(model).proto)


def test_operator_without_conversion_is_named_with_its_layer() -> None:
    # tf2onnx logs it and returns an invalid file.
    model = chain((7,), layers.Dense(5), layers.Lambda(tf.math.lgamma, name="gamma_function"))
    with pytest.raises(UnsupportedError, match=r"Lgamma.*gamma_function"):
        convert(model)


def test_operator_whose_conversion_fails_is_named_with_its_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_args: Any) -> None:
        raise ValueError("cannot do this one")

    monkeypatch.setitem(tf2onnx_fixes.HANDLERS, "Tanh", (broken, []))
    with pytest.raises(UnsupportedError, match=r"squash.*cannot do this one"):
        convert(chain((7,), layers.Dense(5), layers.Activation("tanh", name="squash")))


def test_an_invalid_result_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong_type(ctx: Any, node: Any, _name: str, _args: Any) -> None:
        node.type = "Not"  # of booleans only

    monkeypatch.setitem(tf2onnx_fixes.HANDLERS, "Tanh", (wrong_type, []))
    with pytest.raises(UnsupportedError, match="did not convert to a valid ONNX graph"):
        convert(chain((7,), layers.Dense(5), layers.Activation("tanh")))


@pytest.mark.parametrize("opset", range(OLDEST_OPSET, NEWEST_OPSET + 1))
def test_every_opset(opset: int) -> None:
    # tf2onnx raises above 18.
    model = chain(
        (9, 9, 3),
        layers.Normalization(mean=[1.0, -2.0, 3.0], variance=[1.0, 4.0, 2.0]),
        layers.Conv2D(4, 3, activation="gelu"),
        layers.BatchNormalization(),
        layers.ZeroPadding2D(1),
        layers.MaxPooling2D(2),
        layers.LayerNormalization(),
        layers.GlobalAveragePooling2D(),
        layers.Dense(4, activation="softmax"),
    )
    proto = converted(model, opset=opset).proto
    assert proto.opset_import[0].version == opset
    assert (proto.ir_version == 8) == (opset <= 18)
    assert operators(proto)["BatchNormalization"] == 1
    assert_equal_numbers(model, proto)


def test_nothing_on_stdout_or_stderr(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    model = chain((7,), layers.Dense(5), layers.Lambda(tf.math.lgamma))
    capfd.readouterr()
    with caplog.at_level(logging.INFO), pytest.raises(UnsupportedError):
        convert(model)
    assert capfd.readouterr().out == ""
    assert [record.message for record in caplog.records if "tf2onnx" in record.name] == []


# ---- the two paths ----


def test_frozen_and_skeleton_give_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    model = randomized(
        chain((9, 9, 4), layers.Conv2D(6, 3, groups=2), layers.ReLU(), layers.BatchNormalization(), layers.Conv2D(3, 3))
    )
    skeleton = convert(model)

    def needs_a_constant_kernel(ctx: Any, node: Any, _name: str, _args: Any) -> None:
        if not node.inputs[1].is_const():
            raise ValueError("the kernel must be constant")
        ConvOp.any_version(ctx.opset, ctx, node)

    monkeypatch.setitem(tf2onnx_fixes.HANDLERS, "Conv2D", (needs_a_constant_kernel, []))
    frozen = convert(model)
    assert (skeleton.path, frozen.path) == ("skeleton", "frozen")
    assert "the kernel must be constant" in frozen.notes[0]
    assert_clean(frozen.proto)
    assert operators(frozen.proto) == operators(skeleton.proto)
    arrays = flat_inputs(model)
    for a, b in zip(
        run(skeleton.proto, arrays, optimised=False), run(frozen.proto, arrays, optimised=False), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_no_kernel_passes_through_tf2onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = tf2onnx_fixes.to_onnx

    def watch(graph_def: Any, *args: Any) -> Any:
        seen.append(graph_def.ByteSize())
        return original(graph_def, *args)

    monkeypatch.setattr(onnx_conversion.tf2onnx_fixes, "to_onnx", watch)
    conversion = converted(chain((512,), layers.Dense(512)))
    assert seen[0] < 20_000
    assert conversion.proto.ByteSize() > 4 * 512 * 512


def test_the_weights_are_the_model_s_own_bit_by_bit() -> None:
    model = chain((9, 9, 3), layers.Conv2D(5, 3, name="conv"), layers.Flatten(), layers.Dense(4, name="dense"))
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in converted(model).proto.graph.initializer}
    conv, dense = model.get_layer("conv"), model.get_layer("dense")
    np.testing.assert_array_equal(stored["conv/kernel"], conv.kernel.numpy().transpose(3, 2, 0, 1))
    np.testing.assert_array_equal(stored["conv/bias"], conv.bias.numpy())
    np.testing.assert_array_equal(stored["dense/kernel"], dense.kernel.numpy())


# ---- batch normalization ----

RANKS = {
    "rank 2": ((7,), -1, 0),
    "rank 3, last": ((5, 4), -1, 2),
    "rank 3, first": ((4, 5), 1, 0),
    "rank 4, last": ((5, 6, 4), -1, 2),
    "rank 4, first": ((4, 5, 6), 1, 0),
    "rank 4, between": ((5, 4, 6), 2, 2),
    "rank 5, last": ((3, 5, 6, 4), -1, 2),
    "rank 5, first": ((4, 3, 5, 6), 1, 0),
    "free sizes": ((None, None, 4), -1, 2),
}


@pytest.mark.parametrize("layer", [layers.BatchNormalization, kbn.BatchNormalization], ids=["keras", "kbn"])
@pytest.mark.parametrize(("shape", "axis", "transposes"), RANKS.values(), ids=RANKS)
def test_batch_normalization_is_one_node(layer: Any, shape: Any, axis: int, transposes: int) -> None:
    model = chain(shape, layer(axis=axis, epsilon=0.017))
    proto = converted(model).proto
    counts = operators(proto)
    # A Transpose that moves nothing but axes of size 1 would be a Reshape; none is here.
    assert counts == {k: v for k, v in {"BatchNormalization": 1, "Transpose": transposes}.items() if v}
    (node,) = [node for node in proto.graph.node if node.op_type == "BatchNormalization"]
    epsilon = next(attribute.f for attribute in node.attribute if attribute.name == "epsilon")
    assert np.float32(epsilon) == np.float32(0.017)
    statistics = {t.name: t.data_type for t in proto.graph.initializer if "moving" in t.name}
    assert len(statistics) == 2
    assert set(statistics.values()) == {onnx.TensorProto.FLOAT}
    assert_equal_numbers(model, proto)


@pytest.mark.parametrize("layer", [layers.BatchNormalization, kbn.BatchNormalization], ids=["keras", "kbn"])
@pytest.mark.parametrize("options", [{"center": False}, {"scale": False}, {"center": False, "scale": False}])
def test_batch_normalization_without_gamma_or_beta(layer: Any, options: dict[str, bool]) -> None:
    model = chain((7,), layer(**options), layers.Dense(3))
    proto = converted(model).proto
    assert operators(proto)["BatchNormalization"] == 1
    assert_equal_numbers(model, proto)


@pytest.mark.parametrize(
    ("shape", "convolution"),
    [
        pytest.param((9, 3), lambda n: layers.Conv1D(n, 3), id="1d"),
        pytest.param((9, 9, 3), lambda n: layers.Conv2D(n, 3), id="2d"),
        pytest.param((7, 7, 7, 3), lambda n: layers.Conv3D(n, 3), id="3d"),
    ],
)
def test_batch_normalization_between_convolutions_costs_no_transpose(shape: Any, convolution: Any) -> None:
    model = chain(shape, convolution(5), layers.ReLU(), layers.BatchNormalization(), layers.ReLU(), convolution(4))
    proto = converted(model).proto
    counts = operators(proto)
    assert counts["BatchNormalization"] == 1
    assert counts["Transpose"] == 2  # one at the input, one at the output
    assert counts["Mul"] == 0
    assert_equal_numbers(model, proto)


def test_batch_normalization_used_twice() -> None:
    shared = layers.BatchNormalization(name="shared")
    model = chain((7,), shared, layers.ReLU(), shared)
    proto = converted(model).proto
    assert [node.name for node in proto.graph.node] == [
        "shared/BatchNormalization",
        "re_lu/Relu" if "re_lu" in {layer.name for layer in model.layers} else f"{model.layers[2].name}/Relu",
        "shared/BatchNormalization_1",
    ]
    assert_equal_numbers(model, proto)


def test_batch_normalization_with_computed_statistics_is_one_node_too() -> None:
    def normalize(x: Any) -> Any:
        mean, variance = keras.ops.moments(x, axes=[0])
        return keras.ops.batch_normalization(x, mean, variance, axis=-1)

    model = chain((7,), layers.Dense(5), layers.Lambda(normalize))
    proto = converted(model).proto
    assert operators(proto)["BatchNormalization"] == 1
    assert_equal_numbers(model, proto)


# ---- names, dimensions, order ----


def test_inputs_and_outputs_keep_names_and_order() -> None:
    b, a = keras.Input((8,), name="b"), keras.Input((8,), name="a")
    first = layers.Dense(4, name="first")(a)
    total = layers.Add(name="total")([first, layers.Dense(4)(b)])
    # An output that is read inside, one tensor twice, and one that is an input.
    model = keras.Model([b, a], [total, first, total, a])
    proto = converted(model).proto
    assert [value.name for value in proto.graph.input] == ["b", "a"]
    assert [value.name for value in proto.graph.output] == ["total", "first", "total_1", "a_1"]
    assert operators(proto)["Identity"] == 2
    assert_equal_numbers(model, proto)


def test_dictionaries() -> None:
    b, a = keras.Input((8,), name="b"), keras.Input((5,), name="a")
    left, right = layers.Dense(3, name="left")(a), layers.Dense(3, name="right")(b)
    model = keras.Model({"a": a, "b": b}, {"y": left, "z": layers.Add(name="sum")([left, right])})
    proto = converted(model).proto
    assert [value.name for value in proto.graph.input] == ["a", "b"]
    assert [value.name for value in proto.graph.output] == ["y", "z"]
    assert_equal_numbers(model, proto)


def test_given_names() -> None:
    proto = converted(chain((7,), layers.Dense(5)), input_names=["features"], output_names=["logits"]).proto
    assert (proto.graph.input[0].name, proto.graph.output[0].name) == ("features", "logits")


@pytest.mark.parametrize(
    "names",
    [
        {"input_names": ["a", "b"]},
        {"output_names": []},
        {"input_names": ["y"], "output_names": ["y"]},
        {"input_names": [""]},
    ],
    ids=str,
)
def test_names_that_do_not_fit(names: dict[str, list[str]]) -> None:
    with pytest.raises(UsageError, match="names"):
        convert(chain((7,), layers.Dense(5)), **names)


def test_names_in_the_graph() -> None:
    block = keras.Sequential([layers.Conv2D(4, 3, name="conv"), layers.BatchNormalization(name="bn")], name="block")
    model = chain((9, 9, 3), block, layers.Flatten(name="flat"), layers.Dense(3, name="conv_1"))
    proto = converted(model).proto
    assert [node.name for node in proto.graph.node] == [
        "block/conv/Transpose",
        "block/conv/Conv",
        "block/bn/BatchNormalization",
        "block/bn/Transpose",
        "flat/Reshape",
        "conv_1/MatMul",
        "conv_1/Add",
    ]
    assert {tensor.name for tensor in proto.graph.initializer} == {
        "block/conv/kernel",
        "block/conv/bias",
        "block/bn/gamma",
        "block/bn/beta",
        "block/bn/moving_mean",
        "block/bn/moving_variance",
        "flat/Reshape/shape",
        "conv_1/kernel",
        "conv_1/bias",
    }
    for one, next_one in pairwise(proto.graph.node):
        assert one.output[0] in next_one.input


def test_the_producer_is_named() -> None:
    proto = converted(chain((7,), layers.Dense(5))).proto
    assert (proto.producer_name, proto.producer_version) == ("kbn", kbn.__version__)
    assert not proto.metadata_props  # of tf2onnx's own


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        pytest.param(
            lambda: chain((None, None, 3), layers.Conv2D(4, 3, padding="same", name="y")),
            {"x": ["batch", "height", "width", 3], "y": ["batch", "height", "width", 4]},
            id="kept",
        ),
        pytest.param(
            lambda: chain((None, None, 3), layers.Conv2D(4, 3, name="y")),
            {"x": ["batch", "height", "width", 3], "y": ["batch", "y_height", "y_width", 4]},
            id="cut",
        ),
        pytest.param(
            lambda: chain((None, 4), layers.LSTM(3, return_sequences=True, name="y")),
            {"x": ["batch", "length", 4], "y": ["batch", "length", 3]},
            id="sequence",
        ),
        pytest.param(
            lambda: chain((None, None, None, 2), layers.MaxPooling3D(2, name="y")),
            {"x": ["batch", "depth", "height", "width", 2], "y": ["batch", "y_depth", "y_height", "y_width", 2]},
            id="volume",
        ),
        pytest.param(
            lambda: chain((6, 2), layers.Lambda(lambda x: keras.ops.reshape(x, (-1, 2)), name="y")),
            {"x": ["batch", 6, 2], "y": ["y_batch", 2]},
            id="not the batch any more",
        ),
    ],
)
def test_dimensions(build: Any, expected: dict[str, list[int | str]]) -> None:
    graph = convert(build()).proto.graph
    assert shapes([*graph.input, *graph.output]) == expected


def test_dimensions_of_several_inputs() -> None:
    one, two = keras.Input((None, None, 3), name="one"), keras.Input((None, 8, 3), name="two")
    model = keras.Model([one, two], [layers.Conv2D(2, 1, name="p")(one), layers.Conv2D(2, 1, name="q")(two)])
    graph = convert(model).proto.graph
    assert shapes([*graph.input, *graph.output]) == {
        "one": ["batch", "one_height", "width", 3],
        "two": ["batch", "two_height", 8, 3],
        "p": ["batch", "one_height", "width", 2],
        "q": ["batch", "two_height", 8, 2],
    }


# ---- layouts ----


def test_input_layout_nchw_leaves_no_transpose() -> None:
    model = chain(
        (9, 8, 3), layers.Rescaling(0.1, -1.0), layers.Conv2D(4, 3), layers.GlobalMaxPooling2D(), layers.Dense(3)
    )
    proto = converted(model, input_layout="nchw").proto
    assert shapes(proto.graph.input) == {"x": ["batch", 3, 9, 8]}
    assert operators(proto)["Transpose"] == 0
    (array,) = flat_inputs(model)
    (found,) = run(proto, [array.transpose(0, 3, 1, 2)], optimised=False)
    np.testing.assert_allclose(found, computed(model, array)[0], atol=1e-5)


def test_input_layout_nhwc_of_a_channels_first_model() -> None:
    model = chain((3, 9, 8), layers.BatchNormalization(axis=1), layers.GlobalMaxPooling2D(data_format="channels_first"))
    proto = converted(model, input_layout="nhwc").proto
    assert shapes(proto.graph.input) == {"x": ["batch", 9, 8, 3]}
    (array,) = flat_inputs(model)
    (found,) = run(proto, [array.transpose(0, 2, 3, 1)], optimised=False)
    np.testing.assert_allclose(found, computed(model, array)[0], atol=1e-5)


def test_input_layout_concerns_rank_4_only() -> None:
    proto = converted(chain((7,), layers.Dense(5)), input_layout="nchw").proto
    assert shapes(proto.graph.input) == {"x": ["batch", 7]}


# ---- refusals and other models ----


@pytest.mark.parametrize("policy", ["mixed_float16", "bfloat16", "float64"])
def test_other_precisions_are_refused_with_the_layer(policy: str) -> None:
    model = chain((7,), layers.Dense(5), layers.Dense(4, dtype=policy, name="low"))
    with pytest.raises(UnsupportedError, match=rf"'low'.*{policy}.*float32"):
        convert(model)


def test_string_inputs_are_refused() -> None:
    model = chain((1,), layers.StringLookup(vocabulary=["a", "b"]), dtype="string")
    with pytest.raises(UnsupportedError, match="strings"):
        convert(model)


@pytest.mark.parametrize("opset", [OLDEST_OPSET - 1, NEWEST_OPSET + 1])
def test_opset_out_of_range(opset: int) -> None:
    with pytest.raises(UsageError, match=f"opset is {opset}"):
        convert(chain((7,), layers.Dense(5)), opset=opset)


def test_unknown_layout() -> None:
    with pytest.raises(UsageError, match="input_layout"):
        convert(chain((7,), layers.Dense(5)), input_layout="chwn")


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__(name="subclassed")
        self.dense = layers.Dense(4, name="dense")
        self.norm = layers.BatchNormalization(name="norm")

    def call(self, inputs: Any) -> Any:
        return self.norm(self.dense(inputs))


def test_subclassed_model_that_was_called() -> None:
    model = Subclassed()
    array = np.random.default_rng(0).normal(size=(3, 7)).astype(np.float32)
    model(array)
    proto = converted(model).proto
    assert operators(proto) == {"MatMul": 1, "Add": 1, "BatchNormalization": 1}
    assert shapes([*proto.graph.input, *proto.graph.output]) == {"input": ["batch", 7], "subclassed": ["batch", 4]}
    np.testing.assert_allclose(run(proto, [array], optimised=False)[0], model(array), atol=1e-5)


def test_subclassed_model_that_was_never_called() -> None:
    with pytest.raises(UsageError, match="Call it once"):
        convert(Subclassed())


def test_eager_execution_of_functions_is_left_as_it_was() -> None:
    assert not tf.config.functions_run_eagerly()
    convert(chain((7,), layers.Dense(5)))
    assert not tf.config.functions_run_eagerly()


# ---- whole models ----

APPLICATIONS = {
    "ResNet50": {},
    "MobileNetV3Small": {"input_shape": (64, 64, 3)},
    "Xception": {"input_shape": (96, 96, 3)},
    "DenseNet121": {},
    "ConvNeXtTiny": {},
    "NASNetMobile": {},
}
NO_TRANSPOSE_IN_NCHW = set(APPLICATIONS) - {"ConvNeXtTiny"}


@pytest.mark.slow
@pytest.mark.parametrize("name", APPLICATIONS)
def test_application(name: str) -> None:
    options = {"input_shape": (64, 64, 3), **APPLICATIONS[name]}
    model = randomized(getattr(keras.applications, name)(weights=None, **options))
    conversion = convert(model, input_layout="nchw")
    assert conversion.path == "skeleton"
    assert_clean(conversion.proto)
    counts = operators(conversion.proto)
    assert counts["BatchNormalization"] == sum(isinstance(x, layers.BatchNormalization) for x in model.layers)
    if name in NO_TRANSPOSE_IN_NCHW:
        # tf2onnx leaves 108 in MobileNetV3Small: it gives up at the scalar of hard-swish.
        assert counts["Transpose"] == 0
    (array,) = flat_inputs(model, batch=2)
    (expected,) = computed(model, array)
    (found,) = run(conversion.proto, [array.transpose(0, 3, 1, 2)], optimised=True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("file", real_models(), ids=lambda file: file.stem)
def test_trained_model_on_real_inputs(file: Path) -> None:
    model = keras.models.load_model(file, compile=False)
    conversion = convert(model)
    assert_clean(conversion.proto)
    assert conversion.path == "skeleton"
    stored = np.load(file.with_suffix(".npz"))
    arrays = [stored[name].astype(np.float32) for name in sorted(stored) if name.startswith("x")]
    inputs = arrays[0] if len(arrays) == 1 else arrays
    references, singles = float64_outputs(model, inputs), computed(model, inputs)
    for found, reference, single in zip(
        run(conversion.proto, arrays, optimised=False), references, singles, strict=True
    ):
        # As far from float64 as float32 arithmetic is, which may take the same sums in another order.
        own_error = np.abs(single - reference).max()
        assert np.abs(found - reference).max() <= max(4 * own_error, 1e-6 * np.abs(reference).max())
