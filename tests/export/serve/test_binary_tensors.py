"""Bytes and arrays: as the real client packs them, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from kbn.export.serve.binary_tensors import from_bytes, to_bytes
from kbn.export.serve.datatypes import NUMPY
from kbn.export.serve.ports import Port
from kbn.export.serve.refusal import RefusedError

NUMERIC = [name for name in NUMPY if name != "BYTES"]


def read(data, datatype, shape):
    return from_bytes(memoryview(data), Port("x", datatype, (-1,) * len(shape)), shape, int(np.prod(shape)))


@given(st.data())
def test_numbers_go_there_and_back_wherever_they_lie(data):
    datatype = data.draw(st.sampled_from(NUMERIC))
    array = data.draw(arrays.arrays(NUMPY[datatype], arrays.array_shapes(max_dims=4)))
    packed = b"#" * data.draw(st.integers(0, 9)) + to_bytes(array, datatype)
    start = len(packed) - array.nbytes
    again = from_bytes(
        memoryview(packed)[start:], Port("x", datatype, (-1,) * array.ndim), list(array.shape), array.size
    )
    np.testing.assert_array_equal(again, array)


@given(arrays.arrays(object, arrays.array_shapes(max_dims=3), elements=st.text(st.characters(codec="utf-8"))))
def test_strings_are_packed_as_the_client_does(array):
    encoded = np.vectorize(str.encode, otypes=[object])(array)
    packed = serialize_byte_tensor(encoded).item()
    assert to_bytes(array, "BYTES") == packed
    assert deserialize_bytes_tensor(packed).tolist() == encoded.ravel().tolist()
    np.testing.assert_array_equal(read(packed, "BYTES", list(array.shape)), array)


@pytest.mark.parametrize(
    ("data", "datatype", "shape"),
    [
        (b"1234567", "FP32", [2]),
        (b"123456789", "FP32", [2]),
        (b"", "INT8", [1]),
        (b"\x02", "BOOL", [1]),
        (b"\x01\0\0", "BYTES", [1]),
        (b"\x09\0\0\0ab", "BYTES", [1]),
        (b"\xff\xff\xff\xff", "BYTES", [1]),
        (b"\x01\0\0\0\xff", "BYTES", [1]),
        (b"\0\0\0\0" * 2, "BYTES", [1]),
        (b"\0\0\0\0", "BYTES", [2]),
        (b"\0\0\0\0", "BYTES", [10**12]),
    ],
)
def test_what_does_not_fit_is_refused(data, datatype, shape):
    with pytest.raises(RefusedError, match="Input 'x'") as refused:
        read(data, datatype, shape)
    assert refused.value.status == 400
