"""Tidying: each step on a graph where it applies, on those where it must not, and the same numbers after it."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from kbn.export.onnx_conversion import check
from kbn.export.tidying import (
    bind,
    cancel_reversals,
    lift_reductions,
    merge_biases,
    remove_identities,
    separate_outputs,
    tidy,
)
from onnx_steps import assert_step, operators, parsed, run

random = np.random.default_rng(0)
KERNEL = random.normal(size=(4, 3, 3, 3)).astype(np.float32)
BIAS = random.normal(size=4).astype(np.float32)
IMAGES = random.normal(size=(2, 3, 6, 6)).astype(np.float32)


# ---- bind ----


def test_bind_makes_initializers_of_weights_and_drops_those_unused() -> None:
    model = parsed("(float[n,2] x, float[2,3] w, float[5] unused) => (float[n,3] y) { y = MatMul(x, w) }")
    weight = random.normal(size=(2, 3)).astype(np.float32)
    bind(model, {"w": weight, "unused": np.zeros(5, np.float32)})
    assert [value.name for value in model.graph.inputs] == ["x"]
    assert list(model.graph.initializers) == ["w"]
    assert np.shares_memory(model.graph.initializers["w"].const_value.numpy(), weight)
    x = random.normal(size=(4, 2)).astype(np.float32)
    np.testing.assert_allclose(run(model, x)[0], x @ weight, rtol=1e-5)


# ---- fold ----


def test_tidy_folds_what_stands_on_weights_whatever_its_size() -> None:
    model = parsed(
        """(float[n,3,6,6] x) => (float[n,4,4,4] y) {
            t = Transpose<perm = [3, 2, 0, 1]>(w)
            shape = Constant<value_ints = [1, 4, 1, 1]>()
            r = Reshape(b, shape)
            c = Conv(x, t)
            i = Identity(c)
            y = Add(i, r)
        }""",
        w=KERNEL.transpose(2, 3, 1, 0),
        b=BIAS,
    )
    assert_step(model, tidy, ["Conv"], IMAGES, exact=False)
    stored = [value.const_value.numpy() for value in model.graph.initializers.values()]
    assert sorted(array.shape for array in stored) == [(4,), (4, 3, 3, 3)]
    np.testing.assert_array_equal(next(array for array in stored if array.ndim == 4), KERNEL)


def test_a_large_transpose_is_folded_and_a_large_expansion_is_not() -> None:
    big = np.ones((600, 700), np.float32)
    model = parsed(
        """(float[n,700] x) => (float[n,600] y, float[1000,1000] z) {
            t = Transpose<perm = [1, 0]>(w)
            y = MatMul(x, t)
            shape = Constant<value_ints = [1000, 1000]>()
            z = Expand(one, shape)
        }""",
        w=big,
        one=np.ones((1, 1), np.float32),
    )
    tidy(model)
    assert operators(model) == ["MatMul", "Expand"]


# ---- cancel_reversals ----


@pytest.mark.parametrize(
    ("second", "after"),
    [
        ("last, least, one, last", ["Relu", "Abs"]),
        ("last, least, two, last", ["Relu", "Slice", "Slice", "Abs"]),  # another axis
        ("last, zero, one, last", ["Relu", "Slice", "Slice", "Abs"]),  # leaves out the first
        ("last, least, one, twice", ["Relu", "Slice", "Slice", "Abs"]),  # every second
    ],
)
def test_what_is_turned_round_twice_is_not_turned(second: str, after: list[str]) -> None:
    bounds = {"last": -1, "least": np.iinfo(np.int64).min, "zero": 0, "one": 1, "two": 2, "twice": -2}
    model = parsed(
        f"""(float[n,5,6] x) => (float[n,s,t] y) {{
            a = Relu(x)
            b = Slice(a, last, least, one, last)
            c = Slice(b, {second})
            y = Abs(c)
        }}""",
        **{name: np.array([value], np.int64) for name, value in bounds.items()},
    )
    assert_step(model, cancel_reversals, after, random.normal(size=(2, 5, 6)).astype(np.float32))


# ---- lift_reductions ----


@pytest.mark.parametrize("operator", ["ReduceMean", "ReduceMax"])
def test_global_pooling_needs_no_transpose(operator: str) -> None:
    model = parsed(
        f"""(float[n,3,6,6] x) => (float[n,3] y) {{
            t = Transpose<perm = [0, 2, 3, 1]>(x)
            y = {operator}<keepdims = 0>(t, axes)
        }}""",
        axes=np.array([-3, -2]),
    )
    assert_step(model, lift_reductions, [operator], IMAGES, exact=False)


def test_axes_of_an_older_opset_are_an_attribute() -> None:
    model = parsed(
        """(float[n,3,6,6] x) => (float[n,3] y) {
            t = Transpose<perm = [0, 2, 3, 1]>(x)
            y = ReduceMean<axes = [1, 2], keepdims = 0>(t)
        }""",
        opset=13,
    )
    assert_step(model, lift_reductions, ["ReduceMean"], IMAGES, exact=False)


@pytest.mark.parametrize(
    ("axes", "keepdims", "shape"),
    [
        pytest.param([1, 2], 1, "n,1,1,3", id="axes kept"),
        pytest.param([1], 0, "n,6,3", id="the rest in another order"),
    ],
)
def test_other_reductions_keep_their_transpose(axes: list[int], keepdims: int, shape: str) -> None:
    model = parsed(
        f"""(float[n,3,6,6] x) => (float[{shape}] y) {{
            t = Transpose<perm = [0, 2, 3, 1]>(x)
            y = ReduceMean<keepdims = {keepdims}>(t, axes)
        }}""",
        axes=np.array(axes),
    )
    assert_step(model, lift_reductions, ["Transpose", "ReduceMean"], IMAGES)


# ---- merge_biases ----


@pytest.mark.parametrize("bias_first", [False, True])
@pytest.mark.parametrize(
    ("operator", "kernel", "size"),
    [
        pytest.param("Conv", KERNEL, 4, id="conv"),
        pytest.param("ConvTranspose", KERNEL.transpose(1, 0, 2, 3), 8, id="transposed"),
    ],
)
def test_bias_joins_its_convolution(operator: str, kernel: np.ndarray, size: int, bias_first: bool) -> None:
    model = parsed(
        f"""(float[n,3,6,6] x) => (float[n,4,{size},{size}] y) {{
            c = {operator}(x, w)
            y = Add({"b, c" if bias_first else "c, b"})
        }}""",
        w=kernel,
        b=BIAS.reshape(4, 1, 1),
    )
    assert_step(model, merge_biases, [operator], IMAGES, exact=False)


def test_bias_joins_a_grouped_transposed_convolution() -> None:
    model = parsed(
        """(float[n,4,6,6] x) => (float[n,6,8,8] y) {
            c = ConvTranspose<group = 2>(x, w)
            y = Add(c, b)
        }""",
        w=random.normal(size=(4, 3, 3, 3)).astype(np.float32),
        b=random.normal(size=(1, 6, 1, 1)).astype(np.float32),
    )
    assert_step(
        model, merge_biases, ["ConvTranspose"], random.normal(size=(2, 4, 6, 6)).astype(np.float32), exact=False
    )


@pytest.mark.parametrize(
    ("body", "initializers"),
    [
        pytest.param("c = Conv(x, w) y = Add(c, b)", {"b": BIAS}, id="along the width"),
        pytest.param("c = Conv(x, w) y = Add(c, b)", {"b": BIAS[:1].reshape(1, 1, 1)}, id="a scalar"),
        pytest.param(
            "c = Conv(x, w) y = Add(c, b)", {"b": np.ones((1, 4, 4, 4), np.float32)}, id="one number for each pixel"
        ),
        pytest.param("c = Conv(x, w, d) y = Add(c, b)", {"b": BIAS.reshape(4, 1, 1), "d": BIAS}, id="has a bias"),
        pytest.param(
            "c = Conv(x, w) a = Add(c, b) y = Mul(a, c)", {"b": BIAS.reshape(4, 1, 1)}, id="something else reads it"
        ),
        pytest.param("c = Conv(x, w) y = Add(c, c)", {}, id="added to itself"),
    ],
)
def test_what_is_not_a_bias_is_left(body: str, initializers: dict[str, np.ndarray]) -> None:
    model = parsed(f"(float[n,3,6,6] x) => (float[n,4,4,4] y) {{ {body} }}", w=KERNEL, **initializers)
    assert_step(model, merge_biases, operators(model), IMAGES)


def test_a_convolution_that_is_an_output_keeps_its_value() -> None:
    model = parsed(
        "(float[n,3,6,6] x) => (float[n,4,4,4] y, float[n,4,4,4] c) { c = Conv(x, w) y = Add(c, b) }",
        w=KERNEL,
        b=BIAS.reshape(4, 1, 1),
    )
    assert_step(model, merge_biases, ["Conv", "Add"], IMAGES)


# ---- outputs, and the whole ----


def test_one_tensor_as_two_outputs_gets_a_second_name() -> None:
    model = parsed("(float[n] x) => (float[n] y) { y = Relu(x) }")
    model.graph.outputs.append(model.graph.outputs[0])
    separate_outputs(model)
    model.graph.outputs[1].name = "again"
    x = np.array([-1.0, 2.0], np.float32)
    np.testing.assert_array_equal(run(model, x), [[0.0, 2.0], [0.0, 2.0]])


def test_tidy_removes_what_is_unused_and_what_is_there_twice() -> None:
    model = parsed(
        """(float[n] x) => (float[n] y) {
            a = Relu(x)
            b = Relu(x)
            unused = Exp(x)
            c = Identity(b)
            d = Add(a, k)
            e = Add(c, l)
            y = Mul(d, e)
        }""",
        k=np.array([2.0], np.float32),
        l=np.array([2.0], np.float32),
        left=np.array([3.0], np.float32),
    )
    model.opset_imports["ai.onnx.ml"] = 3
    assert_step(model, tidy, ["Relu", "Add", "Add", "Mul"], np.array([-1.0, 2.0], np.float32))
    assert len(model.graph.initializers) == 1
    assert set(model.opset_imports) == {""}


# ---- the checker ----


def test_the_checker_sees_a_graph_without_its_large_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    # It cannot take 2 GiB in one message.
    sizes = []
    monkeypatch.setattr(onnx.checker, "check_model", lambda proto, **_options: sizes.append(proto.ByteSize()))
    model = parsed("(float[n,512] x) => (float[n,512] y) { y = MatMul(x, w) }", w=np.ones((512, 512), np.float32))
    check(model)
    assert sizes[0] < 1000
    assert list(model.graph.initializers) == ["w"]
    assert [value.name for value in model.graph.inputs] == ["x"]


def test_the_checker_still_finds_shapes_that_do_not_fit() -> None:
    model = parsed("(float[n,511] x) => (float[n,512] y) { y = Relu(x) }")
    node = model.graph.node(0)
    node.op_type = "MatMul"
    weight = np.ones((512, 512), np.float32)
    value = ir.Value(name="w", const_value=ir.tensor(weight, name="w"), type=ir.TensorType(ir.DataType.FLOAT))
    value.shape = ir.Shape(weight.shape)
    model.graph.register_initializer(value)
    node.resize_inputs(2)
    node.replace_input_with(1, value)
    with pytest.raises(onnx.shape_inference.InferenceError):
        check(model)


# ---- remove_identities ----


@pytest.mark.parametrize("kept", ["a", "x"])
def test_a_branch_gives_what_it_computes_itself(kept: str) -> None:
    # onnx-ir's pass leaves a branch whose output is a tensor of the graph around it, which is no valid model.
    model = parsed(
        f"""(bool c, float[2] x) => (float[2] y) {{
            a = Abs(x)
            b = Identity(a)
            y = If(c)<then_branch = g1 () => (float[2] t) {{ t = Identity({kept}) }},
                      else_branch = g2 () => (float[2] e) {{ e = Neg(b) }}>
        }}"""
    )
    for condition in (True, False):
        arrays = np.array(condition), np.array([-1, 2], "f")
        assert_step(model, remove_identities, ["Abs", "If"], *arrays)
