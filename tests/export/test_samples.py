"""Inputs for the check: seeded ones of every kind, and the user's own with each way in which they may not fit."""

import keras
import numpy as np
import pytest
from keras import layers

from kbn.export.errors import UsageError
from kbn.export.model_ports import pack_inputs
from kbn.export.samples import seeded_samples, user_samples


@pytest.fixture(scope="module")
def model():
    image, tokens = keras.Input((None, 4, 3), name="image"), keras.Input((6,), dtype="int64", name="tokens")
    embedded = layers.GlobalAveragePooling1D()(layers.Embedding(5, 3)(tokens))
    return keras.Model([image, tokens], layers.Add()([layers.GlobalAveragePooling2D()(image), embedded]))


def fitting(count=5):
    return [np.ones((count, 7, 4, 3)), np.ones((count, 6), np.int64)]


def test_seeded_samples_fit_the_model_and_repeat(model):
    first, second = list(seeded_samples(model, 7)), list(seeded_samples(model, 7))
    assert [sample.origin for sample in first] == ["random", "random", "second size", "zeros", "large range"]
    for one, other in zip(first, second, strict=True):
        for left, right in zip(one.arrays, other.arrays, strict=True):
            np.testing.assert_array_equal(left, right)
    assert {len(sample.arrays[0]) for sample in first} >= {1, 3}
    assert len({sample.arrays[0].shape[1] for sample in first}) == 2
    several = keras.Input((None, None, 3))
    (shape,) = {
        s.arrays[0].shape[1:3] for s in seeded_samples(keras.Model(several, several), 0) if s.origin == "random"
    }
    assert shape[0] != shape[1]
    assert max(sample.arrays[1].max() for sample in first) < 5
    assert np.abs(first[-1].arrays[0]).max() > 100
    other = next(seeded_samples(model, 8))
    assert not np.array_equal(other.arrays[0], first[0].arrays[0])


@pytest.mark.parametrize(
    ("dtype", "expected"), [("int32", True), ("int64", True), ("uint8", False), ("float32", False)]
)
def test_integers_are_negative_too_where_no_row_is_looked_up(dtype, expected):
    inputs = keras.Input((6,), dtype=dtype)
    samples = {sample.origin: sample for sample in seeded_samples(keras.Model(inputs, inputs), 0)}
    assert ("negative" in samples) is expected
    if expected:
        (array,) = samples["negative"].arrays
        assert array.dtype == dtype
        assert array.min() < 0 < array.max()
        assert samples["negative"].kind == "seeded"


@pytest.mark.parametrize("named", ["list", "input names", "x0, x1"])
def test_user_samples_come_in_batches(model, named):
    arrays = fitting()
    keys = {"input names": ["image", "tokens"], "x0, x1": ["x0", "x1"]}
    data = arrays if named == "list" else {**dict(zip(keys[named], arrays, strict=True)), "y0": np.ones(3)}
    samples = list(user_samples(model, data, batch_size=2))
    assert [len(sample.arrays[0]) for sample in samples] == [2, 2, 1]
    assert [array.dtype for array in samples[0].arrays] == [np.float32, np.int64]


MISFITS = {
    "one array for two inputs": (np.ones((2, 7, 4, 3)), "holds 1 array, but the model has 2 inputs"),
    "missing name": ({"image": np.ones((2, 7, 4, 3))}, "the inputs of the model are 'image', 'tokens'"),
    "rank": (
        [np.ones((2, 4, 3)), np.ones((2, 6))],
        r"'image' has shape \(2, 4, 3\), but the model's input takes \(any, any, 4, 3\)",
    ),
    "size": ([np.ones((2, 7, 4, 1)), np.ones((2, 6))], r"'image' has shape \(2, 7, 4, 1\)"),
    "counts": ([np.ones((2, 7, 4, 3)), np.ones((3, 6))], "found image: 2, tokens: 3"),
    "none": ([np.ones((0, 7, 4, 3)), np.ones((0, 6))], "at least one"),
    "NaN": ([np.full((2, 7, 4, 3), np.nan), np.ones((2, 6))], "NaN or infinity"),
    "fractions": ([np.ones((2, 7, 4, 3)), np.full((2, 6), 2.7)], "int64"),
    "text": ([np.full((2, 7, 4, 3), "a"), np.ones((2, 6))], "holds <U1"),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_data_that_does_not_fit_is_refused(model, kind):
    data, message = MISFITS[kind]
    with pytest.raises(UsageError, match=message):
        list(user_samples(model, data))


def test_bytes_cover_their_range_and_are_not_wrapped():
    inputs = keras.Input((300,), dtype="uint8", name="bytes")
    model = keras.Model(inputs, layers.Rescaling(1 / 255)(inputs))
    assert max(sample.arrays[0].max() for sample in seeded_samples(model, 0)) > 200
    with pytest.raises(UsageError, match="uint8"):
        list(user_samples(model, np.full((1, 300), 300)))


def test_a_fixed_batch_takes_whole_batches_alone():
    inputs = keras.Input(batch_shape=(2, 3), name="x")
    model = keras.Model(inputs, layers.ReLU()(inputs))
    assert [len(s.arrays[0]) for s in user_samples(model, np.ones((4, 3)))] == [2, 2]
    with pytest.raises(UsageError, match="batches of exactly 2"):
        list(user_samples(model, np.ones((3, 3))))
    assert {len(s.arrays[0]) for s in seeded_samples(model, 0)} == {2}


def test_inputs_are_packed_as_the_model_nests_them(model):
    arrays = fitting()
    assert pack_inputs(model, arrays)[1] is arrays[1]
    named = keras.Model(
        {"b": (b := keras.Input((2,), name="b")), "a": (a := keras.Input((2,), name="a"))}, layers.Add()([a, b])
    )
    assert set(pack_inputs(named, [1, 2])) == {"a", "b"}
