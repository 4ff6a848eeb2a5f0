"""Reshapes: gone where they change nothing, kept where they may, and the same numbers."""

from __future__ import annotations

import numpy as np
import pytest

from kbn.export.reshapes import fix_shapes, tidy_reshapes
from onnx_steps import assert_step, parsed

random = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return random.normal(size=shape).astype(np.float32)


def integers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def test_shape_arithmetic_of_a_flatten_becomes_a_constant() -> None:
    model = parsed(
        """(float[batch,2,3] x) => (float[batch,6] y) {
            s = Shape(x)
            zero = Constant<value_ints = [0]>()
            n = Gather<axis = 0>(s, zero)
            six = Constant<value_ints = [6]>()
            target = Concat<axis = 0>(n, six)
            y = Reshape(x, target)
        }"""
    )
    assert_step(model, fix_shapes, ["Reshape"], random.normal(size=(4, 2, 3)).astype(np.float32))


def test_a_reshape_with_two_free_sizes_keeps_its_arithmetic() -> None:
    model = parsed(
        """(float[batch,length,6] x, float[batch,length,2,3] like) => (float[batch,length,2,3] y) {
            s = Shape(like)
            y = Reshape(x, s)
        }"""
    )
    arrays = random.normal(size=(4, 5, 6)).astype(np.float32), np.zeros((4, 5, 2, 3), np.float32)
    assert_step(model, fix_shapes, ["Shape", "Reshape"], *arrays)


@pytest.mark.parametrize(
    ("target", "stays"), [((-1, 6, 1, 1), False), ((4, 6, 1, 1), False), ((-1, 1, 6, 1), True), ((-1, 6), True)]
)
def test_a_reshape_to_the_shape_that_is_there_goes(target: tuple[int, ...], stays: bool) -> None:
    out = ",".join(str(size) if size > 0 else "n" for size in target)
    model = parsed(
        f"(float[batch,6,1,1] x) => (float[{out}] y) {{ a = Relu(x)\n r = Reshape(a, shape)\n y = Abs(r) }}",
        shape=integers(*target),
    )
    assert_step(model, tidy_reshapes, ["Relu", *["Reshape"] * stays, "Abs"], normal(4, 6, 1, 1))


def test_two_unknown_sizes_may_differ() -> None:
    model = parsed(
        "(float[a,b,6] x, int64[3] shape) => (float[c,d,6] y) { r = Relu(x)\n y = Reshape(r, shape) }",
    )
    assert_step(model, tidy_reshapes, ["Relu", "Reshape"], normal(4, 3, 6), integers(3, 4, 6))


def test_a_reshape_between_an_input_and_an_output_stays() -> None:
    model = parsed("(float[batch,6] x) => (float[n,6] y) { y = Reshape(x, shape) }", shape=integers(-1, 6))
    assert_step(model, tidy_reshapes, ["Reshape"], normal(4, 6))


# The Reshapes of a Dense on rank 3, and cases that look like it.
DENSE = {
    "dense": ((-1, 6), (-1, 5, 4), [], True),
    "rows regrouped": ((-1, 6), (-1, 10, 4), [], False),
    "units parted": ((-1, 6), (-1, 5, 2, 2), [], False),
    "features regrouped": ((-1, 3), (-1, 10, 4), [], False),
    "the flat rows are read again": ((-1, 6), (-1, 5, 4), ["z = Relu(flat)"], True),
    "the flat result is read again": ((-1, 6), (-1, 5, 4), ["z = Relu(product)"], False),
}


@pytest.mark.parametrize(("flat", "target", "more", "joined"), DENSE.values(), ids=DENSE)
def test_dense_on_more_axes_is_one_matmul(
    flat: tuple[int, ...], target: tuple[int, ...], more: list[str], joined: bool
) -> None:
    out = ",".join(str(size) if size > 0 else "n" for size in target)
    outputs = f"float[{out}] y" + (", float[r,c] z" if more else "")
    model = parsed(
        f"""(float[batch,5,6] x) => ({outputs}) {{
            flat = Reshape(x, rows)
            product = MatMul(flat, w)
            y = Reshape(product, shape)
            {chr(10).join(more)}
        }}""",
        rows=integers(*flat),
        shape=integers(*target),
        w=normal(flat[1], 4),
    )
    after = ["Reshape", "MatMul", "Reshape", *["Relu"] * len(more)]
    if joined:
        after = ["Reshape", "MatMul", "Relu"] if more else ["MatMul"]
    assert_step(model, tidy_reshapes, after, normal(2, 5, 6), exact=False)


# (reduced axes, target of the Reshape, whether it is what keepdims=1 gives)
REDUCTIONS = {
    "channels first": ((2, 3), (-1, 6, 1, 1), True),
    "negative axes": ((-1, -2), (-1, 6, 1, 1), True),
    "channels last": ((1, 2), (-1, 1, 1, 4), True),
    "other place": ((2, 3), (-1, 1, 1, 6), False),
    "other rank": ((2, 3), (-1, 6, 1), False),
}


@pytest.mark.parametrize("operator", ["ReduceMean", "ReduceMax"])
@pytest.mark.parametrize(("axes", "target", "kept"), REDUCTIONS.values(), ids=REDUCTIONS)
def test_a_reduction_keeps_its_axes(operator: str, axes: tuple[int, ...], target: tuple[int, ...], kept: bool) -> None:
    out = ",".join(str(size) if size > 0 else "n" for size in target)
    model = parsed(
        f"""(float[batch,6,5,4] x) => (float[{out}] y) {{
            r = {operator}<keepdims = 0>(x, axes)
            y = Reshape(r, shape)
        }}""",
        axes=integers(*axes),
        shape=integers(*target),
    )
    assert_step(model, tidy_reshapes, [operator, *["Reshape"] * (not kept)], normal(3, 6, 5, 4))


@pytest.mark.parametrize(
    ("shape", "perm", "after"),
    [
        ("batch,6,1,1", (0, 2, 3, 1), ["Reshape"]),
        ("batch,1,5,1", (0, 2, 3, 1), ["Reshape"]),
        ("batch,6,5,1", (0, 2, 3, 1), ["Transpose"]),
        ("a,1,b,1", (0, 2, 1, 3), ["Transpose"]),
        ("1,6,5", (1, 0, 2), ["Reshape"]),
    ],
)
def test_a_transpose_of_axes_of_size_one_is_a_reshape(shape: str, perm: tuple[int, ...], after: list[str]) -> None:
    sizes = [int(size) if size.isdigit() else 3 for size in shape.split(",")]
    names = shape.split(",")
    out = ",".join(names[axis] for axis in perm)
    model = parsed(f"(float[{shape}] x) => (float[{out}] y) {{ y = Transpose<perm = {list(perm)}>(x) }}")
    assert_step(model, tidy_reshapes, after, normal(*sizes))
