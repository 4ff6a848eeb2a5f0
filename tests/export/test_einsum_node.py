"""Einsum as one MatMul: the same numbers for every equation that is one, and none for those that are not."""

import keras
import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from kbn.export.einsum_node import contraction, spelled_out
from kbn.export.errors import UnsupportedError
from kbn.export.onnx_conversion import convert
from trained_models import computed, randomized


@given(st.permutations("abmk"), st.permutations("abkn"), st.permutations("abmn"), st.integers(0, 2))
def test_it_is_what_einsum_computes(left, right, output, batch_axes):
    dropped = set("ab"[batch_axes:])
    terms = ["".join(letter for letter in term if letter not in dropped) for term in (left, right, output)]
    sizes = {"a": 2, "b": 3, "m": 4, "k": 5, "n": 6}
    random = np.random.default_rng(0)
    operands = [random.normal(size=[sizes[letter] for letter in term]) for term in terms[:2]]
    equation = f"{terms[0]},{terms[1]}->{terms[2]}"
    found = contraction(equation)
    product = operands[found.left].transpose(found.left_axes) @ operands[found.right].transpose(found.right_axes)
    np.testing.assert_allclose(product.transpose(found.result_axes), np.einsum(equation, *operands), atol=1e-12)


@pytest.mark.parametrize(
    "equation",
    [
        "ab,bc",  # no output
        "abc->acb",
        "ab,bc,cd->ad",
        "...ab,bc->...ac",
        "aab,bc->ac",
        "ab,cd->acbd",  # nothing is summed over
        "abcd,cde->abe",  # two axes are
        "abc,cde->abde",  # two axes of its own
        "ab,ab->a",  # none
        "abc,bd->ad",  # an axis of one operand is in no other
    ],
)
def test_what_is_no_matmul(equation):
    assert contraction(equation) is None


@pytest.mark.parametrize("layer", [layers.MultiHeadAttention(2, 4), layers.GroupQueryAttention(4, 4, 2)])
def test_attention_works_out_no_shape(layer):
    query, value = keras.Input((6, 8), name="query"), keras.Input((7, 8), name="value")
    model = randomized(keras.Model([query, value], layer(query, value)))
    proto = convert(model).proto
    assert not {"Einsum", "Shape", "ReduceProd"} & {node.op_type for node in proto.graph.node}
    random = np.random.default_rng(0)
    arrays = [random.normal(size=shape).astype("f") for shape in ((2, 6, 8), (2, 7, 8))]
    (found,) = ort.InferenceSession(proto.SerializeToString()).run(
        None, dict(zip(("query", "value"), arrays, strict=True))
    )
    np.testing.assert_allclose(found, computed(model, arrays)[0], rtol=0, atol=2e-6)


def test_an_equation_that_is_no_matmul_converts_as_before():
    inputs = keras.Input((3, 4))
    model = keras.Model(inputs, keras.ops.einsum("abc,abc->ab", inputs, inputs))
    proto = convert(model).proto
    array = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("f")
    (found,) = ort.InferenceSession(proto.SerializeToString()).run(None, {proto.graph.input[0].name: array})
    np.testing.assert_allclose(found, computed(model, array)[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("equation", "shapes", "expected"),
    [
        ("...ij, ...jk -> ...ik", [(-1, 2, 3, 4), (-1, 2, 4, 5)], "abij,abjk->abik"),
        ("...a,ab->...b", [(-1, 2, 3), (3, 4)], "cda,ab->cdb"),
        ("...ij->...ji", [(4, 5)], "ij->ji"),
        ("ij,jk->ik", [(2, 3), (3, 4)], "ij,jk->ik"),
        ("...ij,...jk->...ik", [(2, 3, 4), (1, 4, 5)], "aij,ajk->aik"),  # which MatMul broadcasts
        ("...ij,...jk->...ik", [(6, 2, 3, 4), (2, 4, 5)], "...ij,...jk->...ik"),  # not equally many
        ("...i,...i", [(2, 3), (2, 3)], "...i,...i"),  # no output
    ],
)
def test_an_ellipsis_is_spelled_out(equation, shapes, expected):
    assert spelled_out(equation, shapes) == expected


@pytest.mark.parametrize("size", [2, 1])
@pytest.mark.parametrize("equation", ["...ij,...kj->...ik", "...ij,jk->...ik"])
def test_an_ellipsis_converts(equation, size):
    inputs = [keras.Input((2, 3, 4), name="x"), keras.Input((size, 5, 4), name="y")]
    other = inputs[1] if "...k" in equation else np.random.default_rng(1).normal(size=(4, 5)).astype("f")
    model = keras.Model(inputs, keras.ops.einsum(equation, inputs[0], other))
    arrays = [np.random.default_rng(0).normal(size=(6, *tensor.shape[1:])).astype("f") for tensor in inputs]
    feeds = dict(zip(("x", "y"), arrays, strict=True))
    (found,) = ort.InferenceSession(convert(model).proto.SerializeToString()).run(None, feeds)
    np.testing.assert_allclose(found, computed(model, arrays)[0], rtol=0, atol=2e-6)


def test_a_broadcast_that_no_matmul_does_is_told():
    x, y = keras.Input((2, 3, 4), name="x"), keras.Input((1, 3, 4), name="y")
    model = keras.Model([x, y], keras.ops.einsum("...ij,...ij->...i", x, y))
    with pytest.raises(UnsupportedError, match=r"the einsum \S+->\S+ broadcasts along axes of its ellipsis"):
        convert(model)
