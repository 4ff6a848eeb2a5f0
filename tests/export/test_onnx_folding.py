"""Folding ONNX files: every pattern in float64 by onnx's own reference, where a wrong fold stands out by ten orders."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from kbn.export.errors import BrokenModelError, UsageError
from kbn.export.onnx_folding import fold_onnx, inspect_onnx, load_onnx

RNG = np.random.default_rng(11)


class Build:
    """An ONNX graph in the making: each call of an operator returns the name of its output."""

    def __init__(self, *shape, dtype=np.float64):
        self.rng, self.dtype = np.random.default_rng(3), dtype
        self.shape = shape
        self.nodes, self.constants = [], []

    def constant(self, value):
        value = np.asarray(value)
        value = value.astype(self.dtype) if value.dtype.kind == "f" else value
        self.constants.append(numpy_helper.from_array(value, f"c{len(self.constants)}"))
        return self.constants[-1].name

    def random(self, *shape):
        return self.constant(self.rng.normal(size=shape))

    def __call__(self, operator, *inputs, outputs=1, **attributes):
        names = [f"t{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, name=f"{operator}{len(self.nodes)}", **attributes))
        return names[0] if outputs == 1 else names

    def conv(self, x, channels, filters, *window, groups=1, operator="Conv", **attributes):
        shape = (filters, channels // groups) if operator == "Conv" else (channels, filters // groups)
        return self(operator, x, self.random(*shape, *window), self.random(filters), group=groups, **attributes)

    def norm(self, x, channels, positive=False):
        signs = 1.0 if positive else self.rng.choice([-1.0, 1.0], channels)
        gamma, variance = self.rng.uniform(0.5, 2, channels) * signs, self.rng.uniform(0.3, 3, channels)
        vectors = [gamma, *self.rng.normal(size=(2, channels)), variance]
        return self("BatchNormalization", x, *map(self.constant, vectors), epsilon=1e-3)

    def model(self, *outputs, opset=18):
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        made = helper.make_graph(
            self.nodes,
            "made",
            [helper.make_tensor_value_info("x", kind, ["n", *self.shape])],
            [helper.make_tensor_value_info(name, kind, None) for name in outputs],
            self.constants,
        )
        return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def assert_same_function(model, folded, shape):
    onnx.checker.check_model(folded, full_check=True)
    assert [o.name for o in folded.graph.output] == [o.name for o in model.graph.output]
    assert [i.name for i in folded.graph.input] == [i.name for i in model.graph.input]
    x = RNG.normal(size=(2, *(6 if size == "d" else size for size in shape)))
    for expected, found in zip(
        ReferenceEvaluator(model).run(None, {"x": x}), ReferenceEvaluator(folded).run(None, {"x": x}), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11 * max(1, np.abs(expected).max()))


def operators(model):
    return [node.op_type for node in model.graph.node]


def decisions(report):
    return [(row.type, row.decision) for row in report.rows]


PATTERNS = {
    # name: (input shape, what is built on "x", the operators that are left)
    "Conv": ((3, 7, 6), lambda b: b.norm(b.conv("x", 3, 4, 3, 3), 4), "Conv"),
    "Conv1D": ((3, 9), lambda b: b.norm(b.conv("x", 3, 4, 3, strides=[2]), 4), "Conv"),
    "Conv3D": ((2, 5, 4, 6), lambda b: b.norm(b.conv("x", 2, 3, 2, 2, 2), 3), "Conv"),
    "grouped Conv": ((6, 7, 6), lambda b: b.norm(b.conv("x", 6, 9, 3, 3, groups=3, pads=[1, 1, 1, 1]), 9), "Conv"),
    "depthwise Conv": ((4, 7, 6), lambda b: b.norm(b.conv("x", 4, 8, 3, 3, groups=4), 8), "Conv"),
    "Conv without bias": ((3, 7, 6), lambda b: b.norm(b("Conv", "x", b.random(4, 3, 3, 3)), 4), "Conv"),
    "ConvTranspose": (
        (3, 5, 4),
        lambda b: b.norm(b.conv("x", 3, 4, 3, 3, operator="ConvTranspose", strides=[2, 2]), 4),
        "ConvTranspose",
    ),
    "Gemm": ((5,), lambda b: b.norm(b("Gemm", "x", b.random(5, 4), b.random(4)), 4), "Gemm"),
    "Gemm with factors": (
        (5,),
        lambda b: b.norm(b("Gemm", "x", b.random(4, 5), b.random(1, 4), transB=1, alpha=0.5, beta=2.0), 4),
        "Gemm",
    ),
    "Gemm without bias": ((5,), lambda b: b.norm(b("Gemm", "x", b.random(5, 4)), 4), "Gemm"),
    "MatMul": ((5,), lambda b: b.norm(b("MatMul", "x", b.random(5, 4)), 4), "MatMul Add"),
    "MatMul, Add": (
        (6, 5),
        lambda b: b("Mul", b("Add", b("MatMul", "x", b.random(5, 4)), b.random(4)), b.random(4)),
        "MatMul Add",
    ),
    "Mul, Add after Conv": (
        (3, 7, 6),
        lambda b: b("Add", b("Mul", b.conv("x", 3, 4, 3, 3), b.random(1, 4, 1, 1)), b.random(4, 1, 1)),
        "Conv",
    ),
    "Sub, Div before Gemm": (
        (5,),
        lambda b: b("Gemm", b("Div", b("Sub", "x", b.random(5)), b.random(5)), b.random(5, 4)),
        "Gemm",
    ),
    "constant minus x": ((5,), lambda b: b("Gemm", b("Sub", b.random(5), "x"), b.random(5, 4)), "Gemm"),
    "scalars": (
        (3, 7, 6),
        lambda b: b.conv(b("Mul", b("Sub", "x", b.constant(0.5)), b.constant(2.0)), 3, 4, 3, 3),
        "Conv",
    ),
    "before Conv": ((3, 7, 6), lambda b: b.conv(b.norm("x", 3), 3, 4, 3, 3), "Conv"),
    "before grouped Conv": ((6, 7, 6), lambda b: b.conv(b.norm("x", 6), 6, 4, 3, 3, groups=2), "Conv"),
    "before padded Conv": (
        (3, 7, 6),
        lambda b: b.conv(b.norm("x", 3), 3, 4, 3, 3, pads=[1, 1, 1, 1]),
        "BatchNormalization Conv",
    ),
    "before MatMul": ((5,), lambda b: b("MatMul", b.norm("x", 5), b.random(5, 4)), "MatMul Add"),
    "before MatMul of rank 3": (
        (6, 5),
        lambda b: b("MatMul", b("Add", b("Mul", "x", b.random(5)), b.random(5)), b.random(5, 4)),
        "MatMul Add",
    ),
    "Flatten, Gemm": (
        (3, 4, 5),
        lambda b: b("Gemm", b("Flatten", b.norm("x", 3)), b.random(60, 4), b.random(4)),
        "Flatten Gemm",
    ),
    "Reshape, Gemm": (
        (3, 4, 5),
        lambda b: b("Gemm", b("Reshape", b.norm("x", 3), b.constant(np.array([-1, 60]))), b.random(60, 4)),
        "Reshape Gemm",
    ),
    "Transpose, MatMul": (
        (3, 6),
        lambda b: b("MatMul", b("Transpose", b.norm("x", 3), perm=[0, 2, 1]), b.random(3, 4)),
        "Transpose MatMul Add",
    ),
    "Relu, BN, Conv": (
        (3, 7, 6),
        lambda b: b.conv(b.norm(b("Relu", b.conv("x", 3, 4, 3, 3)), 4), 4, 5, 3, 3),
        "Conv Relu Conv",
    ),
    "Relu, BN, padded Conv": (
        (3, 16, 15),
        lambda b: b.conv(b.norm(b("Relu", b.conv("x", 3, 8, 3, 3)), 8), 8, 5, 3, 3, pads=[1, 1, 1, 1]),
        "Conv Relu Conv",
    ),
    "Relu, BN, dynamic padded Conv": (
        (3, "d", "d"),
        lambda b: b.conv(b.norm(b("Relu", b.conv("x", 3, 8, 3, 3)), 8), 8, 5, 3, 3, auto_pad="SAME_UPPER"),
        "Conv Relu Conv",
    ),
    "LeakyRelu, MaxPool, BN, Conv": (
        (3, 9, 9),
        lambda b: b.conv(
            b.norm(b("MaxPool", b("LeakyRelu", b.conv("x", 3, 4, 3, 3)), kernel_shape=[2, 2]), 4, True), 4, 5, 3, 3
        ),
        "Conv LeakyRelu MaxPool Conv",
    ),
    "AveragePool": (
        (3, 7, 6),
        lambda b: b.norm(b("AveragePool", b.conv("x", 3, 4, 3, 3), kernel_shape=[2, 2]), 4),
        "Conv AveragePool",
    ),
    "padded AveragePool that counts zeros": (
        (3, 7, 6),
        lambda b: b.norm(
            b("AveragePool", b.conv("x", 3, 4, 3, 3), kernel_shape=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1), 4
        ),
        "Conv AveragePool BatchNormalization",
    ),
    "GlobalAveragePool, Flatten, BN": (
        (3, 7, 6),
        lambda b: b.norm(b("Flatten", b("GlobalAveragePool", b.conv("x", 3, 4, 3, 3))), 4),
        "Conv GlobalAveragePool Flatten",
    ),
    "ReduceMean": (
        (3, 7, 6),
        lambda b: b.norm(b("ReduceMean", b.conv("x", 3, 4, 3, 3), b.constant(np.array([2, 3])), keepdims=0), 4),
        "Conv ReduceMean",
    ),
    "Concat": (
        (3, 7, 6),
        lambda b: b.norm(b("Concat", b.conv("x", 3, 4, 3, 3), b.conv("x", 3, 2, 3, 3), axis=1), 6),
        "Conv Conv Concat",
    ),
    "Concat, one cannot": (
        (3, 16, 16),
        lambda b: b.norm(b("Concat", b.conv("x", 3, 8, 3, 3), b("Tanh", b.conv("x", 3, 2, 3, 3)), axis=1), 10),
        "Conv Conv Tanh BatchNormalization Concat",
    ),
    "Add": (
        (3, 7, 6),
        lambda b: b.norm(b("Add", b.conv("x", 3, 4, 3, 3), b.conv("x", 3, 4, 3, 3)), 4),
        "Conv Conv Add",
    ),
    "gate": (
        (3, 7, 6),
        lambda b: b.conv(
            b("Mul", b.norm("x", 3), b("Sigmoid", b("GlobalAveragePool", "x"))),
            3,
            4,
            3,
            3,
        ),
        "BatchNormalization GlobalAveragePool Sigmoid Mul Conv",
    ),
    "Clip": (
        (5,),
        lambda b: b(
            "Mul", b("Clip", b("Gemm", "x", b.random(5, 4)), b.constant(0.0), b.constant(6.0)), b.constant(0.25)
        ),
        "Gemm Clip",
    ),
    "PRelu": (
        (3, 7, 6),
        lambda b: b("Mul", b("PRelu", b.conv("x", 3, 4, 3, 3), b.random(4, 1, 1)), b.constant(np.full((4, 1, 1), 0.3))),
        "Conv PRelu",
    ),
    "Pad": (
        (3, 7, 6),
        lambda b: b(
            "Mul",
            b("Pad", b.conv("x", 3, 4, 3, 3), b.constant(np.array([0, 0, 1, 0, 0, 0, 0, 2]))),
            b.random(1, 4, 1, 1),
        ),
        "Conv Pad",
    ),
    "InstanceNormalization": (
        (3, 7, 6),
        lambda b: b.norm(b("InstanceNormalization", "x", b.random(3), b.random(3)), 3),
        "InstanceNormalization",
    ),
    "LayerNormalization": (
        (6, 5),
        lambda b: b("Add", b("Mul", b("LayerNormalization", "x", b.random(5)), b.random(5)), b.random(5)),
        "LayerNormalization",
    ),
    "Gather": (
        (5,),
        lambda b: b(
            "Add", b("Mul", b("Gather", b.random(9, 4), b("Cast", b("Abs", "x"), to=7)), b.random(4)), b.random(4)
        ),
        "Abs Cast Gather",
    ),
    "LSTM": (
        (6, 4),
        lambda b: b(
            "LSTM",
            b("Transpose", b("Add", b("Mul", "x", b.random(4)), b.random(4)), perm=[1, 0, 2]),
            b.random(1, 12, 4),
            b.random(1, 12, 3),
            outputs=3,
            hidden_size=3,
        )[1],
        "Transpose LSTM",
    ),
    "Reshape that takes the batch in": (
        (6, 4),
        lambda b: b("MatMul", b("Reshape", b("Mul", "x", b.random(4)), b.constant(np.array([-1, 4]))), b.random(4, 2)),
        "Reshape MatMul",
    ),
    "before grouped ConvTranspose of one": (
        (6, 5, 4),
        lambda b: b.conv(b.norm("x", 6), 6, 4, 1, 1, operator="ConvTranspose"),
        "ConvTranspose",
    ),
    "Gemm with a scalar bias": (
        (5,),
        lambda b: b.norm(b("Gemm", "x", b.random(5, 4), b.constant(np.array([[0.3]]))), 4),
        "Gemm",
    ),
    "Gemm with a bias per example": (
        (5,),
        lambda b: b.norm(b("Gemm", "x", b.random(5, 4), b.random(2, 1)), 4),
        "Gemm BatchNormalization",
    ),
    "Pad of named axes": (
        (3, 7, 6),
        lambda b: b.norm(
            b("Pad", b.conv("x", 3, 4, 3, 3), b.constant(np.array([1, 2])), "", b.constant(np.array([2]))), 4
        ),
        "Conv Pad BatchNormalization",
    ),
    "MatMul of constants": (
        (5,),
        lambda b: b("Add", b("Tanh", "x"), b("MatMul", b.random(1, 5), b.random(5, 5))),
        "Tanh MatMul Add",
    ),
    "Shape beside": (
        (3, 7, 6),
        lambda b: b(
            "Add",
            b.conv(x := b.norm("x", 3), 3, 4, 3, 3),
            b("Cast", b("Gather", b("Shape", x), b.constant(np.array(3))), to=11),
        ),
        "Conv Shape Gather Cast Add",
    ),
    "DepthToSpace": (
        (3, 7, 6),
        lambda b: b.norm(b("DepthToSpace", b.conv("x", 3, 8, 3, 3), blocksize=2), 2),
        "Conv DepthToSpace",
    ),
    "DepthToSpace, CRD": (
        (3, 7, 6),
        lambda b: b.norm(b("DepthToSpace", b.conv("x", 3, 8, 3, 3), blocksize=2, mode="CRD"), 2),
        "Conv DepthToSpace",
    ),
    "SpaceToDepth": (
        (3, 8, 6),
        lambda b: b.conv(b("SpaceToDepth", b.norm("x", 3), blocksize=2), 12, 4, 1, 1),
        "SpaceToDepth Conv",
    ),
    "BN, BN": ((3, 7, 6), lambda b: b("Tanh", b.norm(b.norm("x", 3), 3)), "BatchNormalization Tanh"),
    "Mul, Add alone on channels": (
        (3, 7, 6),
        lambda b: b("Tanh", b("Add", b("Mul", "x", b.random(3, 1, 1)), b.random(3, 1, 1))),
        "BatchNormalization Tanh",
    ),
    "Mul, Add alone on the last axis": (
        (7, 6),
        lambda b: b("Tanh", b("Add", b("Mul", "x", b.random(6)), b.random(6))),
        "Mul Add Tanh",
    ),
    "Mul, Mul alone": ((7, 6), lambda b: b("Tanh", b("Mul", b("Mul", "x", b.random(6)), b.random(6))), "Mul Tanh"),
    "spatial constant": (
        (3, 4, 4),
        lambda b: b("Add", b.conv("x", 3, 4, 1, 1), b.random(1, 4, 4, 4)),
        "Conv Add",
    ),
}


@pytest.mark.parametrize("kind", PATTERNS)
def test_pattern(kind):
    shape, make, left = PATTERNS[kind]
    build = Build(*shape)
    model = build.model(make(build))
    before = model.SerializeToString()
    folded, report = fold_onnx(model)
    assert operators(folded) == left.split(), report.rows
    assert_same_function(model, folded, shape)
    assert model.SerializeToString() == before
    again, second = fold_onnx(folded)
    assert {row.decision for row in second.rows} <= {"kept"}
    assert operators(again) == operators(folded)
    assert [numpy_helper.to_array(t).tobytes() for t in again.graph.initializer] == [
        numpy_helper.to_array(t).tobytes() for t in folded.graph.initializer
    ]
    assert inspect_onnx(model).to_dict() == report.to_dict()


def test_grouped_transposed_convolution():
    """By onnxruntime in float32: onnx's reference splits the kernel along the wrong axis."""
    build = Build(6, 5, 4, dtype=np.float32)
    model = build.model(build.norm(build.conv("x", 6, 4, 3, 3, operator="ConvTranspose", groups=2), 4))
    folded, _ = fold_onnx(model)
    assert operators(folded) == ["ConvTranspose"]
    x = RNG.normal(size=(2, 6, 5, 4)).astype(np.float32)
    expected, found = (
        onnxruntime.InferenceSession(each.SerializeToString()).run(None, {"x": x})[0] for each in (model, folded)
    )
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_weights_keep_their_dtype(dtype):
    build = Build(3, 7, 6, dtype=dtype)
    model = build.model(build.norm(build.conv("x", 3, 4, 3, 3), 4))
    folded, _ = fold_onnx(model)
    onnx.checker.check_model(folded, full_check=True)
    assert {t.data_type for t in folded.graph.initializer} == {helper.np_dtype_to_tensor_dtype(np.dtype(dtype))}
    x = RNG.normal(size=(2, 3, 7, 6)).astype(dtype)
    expected, found = (ReferenceEvaluator(each).run(None, {"x": x})[0].astype(float) for each in (model, folded))
    np.testing.assert_allclose(found, expected, atol={np.float32: 1e-5, np.float16: 3e-2}[dtype])


@pytest.mark.parametrize(
    ("scale", "told"), [(6e4, "past float16's range"), (1e-7, "too small for float16")], ids=["large", "small"]
)
def test_what_a_dtype_cannot_hold_is_kept(scale, told):
    build = Build(3, 7, 6, dtype=np.float16)
    x = build.conv("x", 3, 2, 3, 3)
    vectors = [build.constant(np.array(values)) for values in ([scale] * 2, [0.5, -0.5], [0.1, 0.2], [1e-4, 1e-4])]
    model = build.model(build("BatchNormalization", x, *vectors))
    folded, report = fold_onnx(model)
    assert operators(folded) == ["Conv", "BatchNormalization"]
    assert told in report.rows[0].reason


UNREAD = {
    "training mode": ({"training_mode": 1, "outputs": 3}, "training_mode=1"),
    "computed statistics": ({}, "its statistics are computed"),
}


@pytest.mark.parametrize("kind", UNREAD)
def test_a_normalization_that_is_not_read_has_a_row(kind):
    attributes, told = UNREAD[kind]
    build = Build(3, 7, 6)
    vectors = [build.constant(build.rng.uniform(0.5, 2.0, 3)) for _ in range(4)]
    if kind == "computed statistics":
        vectors[0] = build("Abs", build("ReduceMean", "x", build.constant(np.array([0, 2, 3])), keepdims=0))
    found = build("BatchNormalization", build("Tanh", "x"), *vectors, **attributes)
    (row,) = inspect_onnx(build.model(found if isinstance(found, str) else found[0])).rows
    assert (row.type, row.decision) == ("BatchNormalization", "kept")
    assert told in row.reason


def test_files_of_the_first_versions_list_constants_as_inputs():
    build = Build(3, 7, 6)
    model = build.model(build.norm(build.conv("x", 3, 4, 3, 3), 4), opset=8)
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    model.ir_version = 3
    folded, _ = fold_onnx(model)
    assert operators(folded) == ["Conv"]
    assert [value.name for value in folded.graph.input] == ["x"]


def test_a_normalization_that_gives_an_output_of_the_model():
    build = Build(5)
    hidden = build("Gemm", "x", build.random(5, 4), build.random(4))
    model = build.model(build.norm(hidden, 4))
    folded, _ = fold_onnx(model)
    assert operators(folded) == ["Gemm"]
    assert_same_function(model, folded, (5,))


def test_two_outputs_that_become_one_tensor():
    build = Build(5)
    out = build("Identity", build.norm(build("Gemm", "x", build.random(5, 4), build.random(4)), 4))
    model = build.model(build("Identity", out), build("Tanh", out))
    folded, _ = fold_onnx(model)
    assert sorted(operators(folded)) == ["Gemm", "Identity", "Identity", "Tanh"]
    assert_same_function(model, folded, (5,))


def test_what_a_subgraph_reads_stays():
    build = Build(4)
    hidden = build("Gemm", "x", build.random(4, 4), build.random(4))
    normalized = build.norm(hidden, 4)
    kind = TensorProto.DOUBLE
    branches = {
        name: helper.make_graph(
            [helper.make_node(operator, [value], ["inside_" + name])],
            name,
            [],
            [helper.make_tensor_value_info("inside_" + name, kind, None)],
        )
        for name, operator, value in (("then_branch", "Tanh", normalized), ("else_branch", "Exp", hidden))
    }
    condition = build.constant(np.array(True))
    model = build.model(build("If", condition, **branches))
    folded, report = fold_onnx(model)
    assert decisions(report) == [("BatchNormalization", "kept")]
    assert "also an output of the model, or a mask" in report.rows[0].reason
    assert_same_function(model, folded, (4,))


def test_a_normalization_that_only_a_subgraph_reads_folds():
    build = Build(4)
    normalized = build.norm(build("Gemm", "x", build.random(4, 4), build.random(4)), 4)
    branches = {
        name: helper.make_graph(
            [helper.make_node(operator, [normalized], ["inside_" + name])],
            name,
            [],
            [helper.make_tensor_value_info("inside_" + name, TensorProto.DOUBLE, None)],
        )
        for name, operator in (("then_branch", "Tanh"), ("else_branch", "Exp"))
    }
    model = build.model(build("If", build.constant(np.array(True)), **branches))
    folded, _ = fold_onnx(model)
    assert operators(folded) == ["Gemm", "If"]
    assert_same_function(model, folded, (4,))


def test_a_constant_that_may_be_overridden_is_none():
    build = Build(5)
    weight = build.random(5, 4)
    model = build.model(build.norm(build("Gemm", "x", weight, build.random(4)), 4))
    model.graph.input.append(helper.make_tensor_value_info(weight, TensorProto.DOUBLE, [5, 4]))
    folded, report = fold_onnx(model)
    assert decisions(report) == [("BatchNormalization", "kept")]
    assert operators(folded) == operators(model)


def test_weights_of_constant_nodes_are_constants():
    build = Build(3, 7, 6)
    kernel = numpy_helper.from_array(build.rng.normal(size=(4, 3, 3, 3)))
    model = build.model(build.norm(build("Conv", "x", build("Constant", value=kernel)), 4))
    folded, _ = fold_onnx(model)
    assert operators(folded) == ["Conv"]
    assert_same_function(model, folded, (3, 7, 6))


def test_a_resize_to_a_size_of_channels_too_takes_no_more_of_them():
    build = Build(3, 16, 15)
    x = build.norm(build("Relu", build.conv("x", 3, 8, 3, 3)), 8)
    x = build("Resize", x, "", "", build.constant(np.array([2, 8, 28, 26])), mode="nearest")
    model = build.model(build.conv(x, 8, 9, 3, 3, pads=[1] * 4))
    folded, report = fold_onnx(model)
    assert report.rows[0].decision == "kept"
    assert_same_function(model, folded, (3, 16, 15))


def test_weights_that_two_nodes_share_are_untied():
    build = Build(3, 7, 6)
    kernel, bias = build.random(4, 3, 3, 3), build.random(4)
    one, other = (build("Conv", "x", kernel, bias) for _ in range(2))
    model = build.model(build("Sub", build("Tanh", build.norm(one, 4)), build("Tanh", other)))
    folded, _ = fold_onnx(model)
    assert sorted(operators(folded)) == ["Conv", "Conv", "Sub", "Tanh", "Tanh"]
    assert_same_function(model, folded, (3, 7, 6))


def test_a_layer_is_copied_where_that_is_cheaper():
    build = Build(2, 32, 32)
    hidden = build.conv("x", 2, 32, 1, 1)
    model = build.model(build("Tanh", hidden), build("Tanh", build.norm(hidden, 32)))
    folded, report = fold_onnx(model)
    assert report.rows[0].rule == "own copy"
    assert sorted(operators(folded)) == ["Conv", "Conv", "Tanh", "Tanh"]
    assert_same_function(model, folded, (2, 32, 32))


def test_one_more_channel_may_be_refused():
    build = Build(3, 16, 15)
    model = build.model(build.conv(build.norm(build("Relu", build.conv("x", 3, 8, 3, 3)), 8), 8, 9, 3, 3, pads=[1] * 4))
    assert inspect_onnx(model).rows[0].rule == "ones channel"
    folded, _ = fold_onnx(model, ones_channel=False)
    assert operators(folded) == ["Conv", "Relu", "BatchNormalization", "Conv"]


def test_the_border_map_is_one_addition():
    build = Build(16, 24, 24)
    model = build.model(build.conv(build.norm(build("Tanh", "x"), 16), 16, 2, 3, 3, pads=[1] * 4, strides=[2, 2]))
    folded, report = fold_onnx(model)
    assert report.rows[0].rule == "border map"
    assert operators(folded) == ["Tanh", "Conv", "Add"]
    assert_same_function(model, folded, (16, 24, 24))


@pytest.mark.parametrize(("index", "value", "told"), [(3, np.nan, "NaN or infinite"), (4, -1.0, "negative variance")])
def test_broken_statistics_are_an_error(index, value, told):
    build = Build(3, 7, 6)
    model = build.model(build.norm(build.conv("x", 3, 4, 3, 3), 4))
    name = model.graph.node[1].input[index]
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(np.full(4, value), name))
    with pytest.raises(BrokenModelError, match=told):
        inspect_onnx(model)


def test_a_file_that_is_no_model(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"not a model")
    with pytest.raises(BrokenModelError, match="no ONNX model"):
        load_onnx(tmp_path / "x.onnx")
    with pytest.raises(UsageError, match="There is no ONNX file"):
        load_onnx(tmp_path / "none.onnx")


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_random_graphs(data):
    """Up to nine operators on tensors of four channels, each of which reads any tensor that is there."""
    draw = data.draw
    build = Build(4, 9, 9)
    tensors = ["x"]
    for _ in range(draw(st.integers(2, 9))):
        x = tensors[draw(st.integers(max(0, len(tensors) - 3), len(tensors) - 1))]
        kind = draw(st.sampled_from(["norm", "norm", "norm", "conv", "conv", "arithmetic", "between", "join"]))
        if kind == "norm":
            x = build.norm(x, 4, positive=draw(st.booleans()))
        elif kind == "conv":
            groups = draw(st.sampled_from([1, 1, 2, 4]))
            x = build.conv(x, 4, 4, 3, 3, groups=groups, pads=[1] * 4)
        elif kind == "arithmetic":
            shape = draw(st.sampled_from([(4, 1, 1), (1, 4, 1, 1), (1,), (9,), (1, 4, 9, 9)]))
            x = build(draw(st.sampled_from(["Add", "Mul", "Sub", "Div"])), x, build.random(*shape))
        elif kind == "between":
            operator = draw(st.sampled_from(["Relu", "LeakyRelu", "Tanh", "Identity", "MaxPool", "AveragePool"]))
            pool = {"kernel_shape": [3, 3], "pads": [1] * 4} if "Pool" in operator else {}
            x = build(operator, x, **pool)
        else:
            x = build(draw(st.sampled_from(["Add", "Sub", "Mul", "Max"])), x, draw(st.sampled_from(tensors)))
        tensors.append(x)
    model = build.model(tensors[-1], *(t for t in tensors[1:-1] if draw(st.integers(0, 9)) == 0))
    folded, _ = fold_onnx(model)
    assert_same_function(model, folded, (4, 9, 9))
    again, report = fold_onnx(folded)
    assert {row.decision for row in report.rows} <= {"kept"}
    assert operators(again) == operators(folded)
