"""Requests read: what is remembered of one must not be taken for another's."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbn.export.serve.ports import Port
from kbn.export.serve.protocol import _REMEMBERED, _SHORT, RequestReader
from kbn.export.serve.refusal import RefusedError

INPUTS = (Port("x", "FP32", (-1, 3)), Port("n", "INT64", (-1,)))
OUTPUTS = (Port("y", "FP32", (-1, 3)), Port("z", "FP32", (-1,)))


def request(rows=2, seed=0, binary=("x", "n"), **more):
    """Body and length of its JSON, and the arrays, of which those in `binary` are sent as bytes."""
    draw = np.random.default_rng(seed)
    arrays = {"x": draw.normal(size=(rows, 3)).astype(np.float32), "n": draw.integers(-9, 9, rows)}
    entries, tail = [], b""
    for port in INPUTS:
        array = arrays[port.name]
        entry = {"name": port.name, "datatype": port.datatype, "shape": array.shape}
        if port.name in binary:
            entry["parameters"] = {"binary_data_size": array.nbytes}
            tail += array.tobytes()
        else:
            entry["data"] = array.tolist()
        entries.append(entry)
    head = json.dumps({"inputs": entries, **more}).encode()
    return head + tail, str(len(head)).encode(), arrays


def assert_reads(reader, asked):
    body, length, arrays = asked
    _, feeds = reader.read(body, length)
    assert feeds.keys() == arrays.keys()
    for name, array in arrays.items():
        assert feeds[name].dtype == array.dtype
        np.testing.assert_array_equal(feeds[name], array)


def test_sizes_are_not_multiplied_before_they_are_known_to_be_few():
    text = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [2**62] * 200_000, "data": []}]})
    with pytest.raises(RefusedError, match=r"shape .* is not"):  # at once; the product takes minutes
        RequestReader(INPUTS, OUTPUTS).read(text.encode(), None)


# Few of each, so that heads come again with other bytes behind them.
REQUESTS = st.builds(
    request,
    rows=st.integers(1, 3),
    seed=st.integers(0, 3),
    binary=st.sampled_from([("x", "n"), ("x",), ("n",), ()]),
    id=st.sampled_from(["a", "b"]),
)


@given(st.lists(REQUESTS, min_size=2, max_size=12))
def test_each_request_has_its_own_values(requests):
    reader = RequestReader(INPUTS, OUTPUTS)
    for asked in requests:
        assert_reads(reader, asked)


def test_what_requests_share_cannot_be_written_to():
    body, length, _ = request(binary=("x",))
    _, feeds = RequestReader(INPUTS, OUTPUTS).read(body, length)
    assert not any(array.flags.writeable for array in feeds.values())


def test_what_is_asked_is_told_apart():
    reader = RequestReader(INPUTS, OUTPUTS)
    options = [
        {"id": name, "parameters": {"timeout": timeout, "binary_data_output": binary}, "outputs": outputs}
        for name, timeout, binary, outputs in itertools.product(
            ["a", "b"], [1000, 2000], [True, False], [[{"name": "y"}], [{"name": "z"}], []]
        )
    ]
    for option in options * 2:
        body, length, _ = request(**option)
        head, _ = reader.read(body, length)
        names = [entry["name"] for entry in option["outputs"]] or ["y", "z"]
        binary, timeout = option["parameters"]["binary_data_output"], option["parameters"]["timeout"]
        assert (head.id, head.timeout) == (option["id"], timeout / 1e6)
        assert [(port.name, asked) for port, asked in head.outputs] == [(name, binary) for name in names]


@pytest.mark.parametrize(("more", "fewer"), [(b"0000", 0), (b"", 4)])
def test_a_head_is_not_enough(more, fewer):
    reader = RequestReader(INPUTS, OUTPUTS)
    body, length, _ = request()
    reader.read(body, length)
    with pytest.raises(RefusedError, match="behind the JSON"):
        reader.read(body[: len(body) - fewer] + more, length)
    assert_reads(reader, request(seed=1))


def test_a_refused_request_stays_refused():
    reader = RequestReader(INPUTS, OUTPUTS)
    body, length, _ = request(outputs=[{"name": "none"}])
    for _ in range(2):
        with pytest.raises(RefusedError, match="no output 'none'"):
            reader.read(body, length)


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        (request(), 1),
        (request(binary=()), 0),  # nothing but JSON, which is the values
        (request(parameters={"note": "a" * _SHORT}), 0),
    ],
)
def test_what_is_remembered_is_small(asked, kept):
    reader = RequestReader(INPUTS, OUTPUTS)
    assert_reads(reader, asked)
    assert reader._remembered.cache_info().currsize == kept


def test_what_is_remembered_is_bounded():
    reader = RequestReader(INPUTS, OUTPUTS)
    for number in range(2 * _REMEMBERED):
        assert_reads(reader, request(id=str(number)))
    assert reader._remembered.cache_info().currsize == _REMEMBERED
