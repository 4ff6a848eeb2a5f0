"""JSON lists and arrays: what goes there and back, and what is refused."""

import json

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kbn.export.serve.datatypes import NUMPY
from kbn.export.serve.json_tensors import from_json, to_json
from kbn.export.serve.ports import Port
from kbn.export.serve.refusal import RefusedError

NUMERIC = [name for name in NUMPY if name != "BYTES"]


def read(data, datatype, shape):
    return from_json(data, Port("x", datatype, (-1,) * len(shape)), shape, int(np.prod(shape)))


@given(st.data())
def test_what_is_written_is_read_again(data):
    datatype = data.draw(st.sampled_from(NUMERIC))
    elements = {"allow_nan": False, "allow_infinity": False} if datatype.startswith("FP") else None
    array = data.draw(arrays.arrays(NUMPY[datatype], arrays.array_shapes(max_dims=4), elements=elements))
    written = orjson.dumps(to_json(array, datatype), option=orjson.OPT_SERIALIZE_NUMPY)
    again = read(orjson.loads(written), datatype, list(array.shape))
    assert again.dtype == NUMPY[datatype]
    np.testing.assert_array_equal(again, array)
    nested = read(array.tolist(), datatype, list(array.shape))
    np.testing.assert_array_equal(nested, array)


@given(arrays.arrays(object, arrays.array_shapes(max_dims=3), elements=st.text(st.characters(codec="utf-8"))))
def test_strings_are_read_again(array):
    written = orjson.dumps(to_json(array, "BYTES"))
    np.testing.assert_array_equal(read(json.loads(written), "BYTES", list(array.shape)), array)


@pytest.mark.parametrize(
    ("data", "datatype", "shape"),
    [
        ([1.0], "INT64", [1]),
        ([1], "BOOL", [1]),
        ([True], "FP32", [1]),
        ([True, 2], "INT8", [2]),
        (["1"], "FP32", [1]),
        ([1], "BYTES", [1]),
        ([None], "FP32", [1]),
        ([{}], "FP32", [1]),
        ([300], "UINT8", [1]),
        ([-1], "UINT64", [1]),
        ([2**63], "INT64", [1]),
        ([1e39], "FP32", [1]),
        ([70000], "FP16", [1]),
        ([1, 2], "INT64", [1]),
        ([], "INT64", [1]),
        ([[1], 2], "INT64", [2]),
        ([1, [2]], "INT64", [2]),
        ([[], [], []], "INT64", [2]),
        ({"a": 1}, "INT64", [1]),
        (None, "INT64", [1]),
        ("12", "BYTES", [2]),
    ],
)
def test_nothing_else_is_cast(data, datatype, shape):
    with pytest.raises(RefusedError, match="Input 'x'") as refused:
        read(data, datatype, shape)
    assert refused.value.status == 400


def test_large_whole_numbers_keep_every_bit():
    assert read([2**64 - 1, 1], "UINT64", [2]).tolist() == [2**64 - 1, 1]
    assert read([2**53 + 1, -(2**63)], "INT64", [2]).tolist() == [2**53 + 1, -(2**63)]


def test_what_json_has_not_is_null():
    written = orjson.dumps(
        to_json(np.array([np.nan, np.inf, 1], np.float32), "FP32"), option=orjson.OPT_SERIALIZE_NUMPY
    )
    assert json.loads(written) == [None, None, 1.0]
