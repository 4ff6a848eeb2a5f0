"""Data by input: every way to name it, and each misfit."""

import numpy as np
import pytest

from kbn.export.errors import UsageError
from kbn.export.named_arrays import arrays_of

ONE, TWO = np.zeros(1), np.ones(2)


@pytest.mark.parametrize(
    ("data", "names", "expected"),
    [
        (ONE, ["image"], [ONE]),
        ([ONE, TWO], ["a", "b"], [ONE, TWO]),
        ((ONE,), ["a"], [ONE]),
        ({"b": TWO, "a": ONE}, ["a", "b"], [ONE, TWO]),
        ({"b": TWO, "a": ONE, "labels": TWO}, ["b"], [TWO]),
        ({"x1": TWO, "x0": ONE}, ["a", "b"], [ONE, TWO]),
        ({"x0": TWO}, ["a"], [TWO]),
        ({"x": TWO, "y": ONE}, ["a"], [TWO]),
        ({"x": TWO, "a": ONE}, ["a"], [ONE]),
    ],
)
def test_arrays_come_in_the_order_of_the_inputs(data, names, expected):
    found = arrays_of(data, names, "the model")
    assert [id(array) for array in found] == [id(array) for array in expected]


@pytest.mark.parametrize(
    ("data", "names", "message"),
    [
        ({"a": ONE}, ["a", "b"], r"names 'a', but the inputs of m\.onnx are 'a', 'b'; name an array for each"),
        ({}, ["a"], r"names nothing, but the inputs of m\.onnx are 'a'"),
        ({"x": ONE}, ["a", "b"], "names 'x'"),
        (ONE, ["a", "b"], r"holds 1 array, but m\.onnx has 2 inputs: 'a', 'b'\. Give an array for each"),
        ([ONE, TWO], ["a"], r"holds 2 arrays, but m\.onnx has 1 input: 'a'\. .* A list is not one array"),
        ([], ["a"], "holds 0 arrays"),
    ],
)
def test_what_does_not_fit_is_told(data, names, message):
    with pytest.raises(UsageError, match=message):
        arrays_of(data, names, "m.onnx")
