"""The inputs of a check as files: each fits --data, and nothing that was there is touched."""

import numpy as np
import pytest

from kbn.export.data_file import read_arrays
from kbn.export.drawing import Declared, batches, draw
from kbn.export.errors import UnsafeModelError, UsageError
from kbn.export.saved_inputs import check_folder, saved

IMAGE, TOKENS = Declared("image", (None, 4, 4, 3), "float32"), Declared("tokens", (None, 5), "int32")


@pytest.mark.parametrize("names", [("image", "tokens"), ("in/image:0", "../tokens"), ("file", "allow_pickle")])
def test_each_file_gives_the_sample_back(tmp_path, names):
    inputs = [Declared(name, each.shape, each.dtype) for name, each in zip(names, (IMAGE, TOKENS), strict=True)]
    folder = tmp_path / "inputs"
    samples = list(saved(draw(inputs, 0), names, folder))
    assert [path.name for path in sorted(folder.iterdir())] == [
        "001-random.npz",
        "002-random.npz",
        "003-zeros.npz",
        "004-large-range.npz",
    ]
    for sample, path in zip(samples, sorted(folder.iterdir()), strict=True):
        (again,) = batches(inputs, read_arrays(path))
        for array, other in zip(sample.arrays, again.arrays, strict=True):
            assert array.dtype == other.dtype
            assert np.array_equal(array, other)


def test_what_is_compared_is_there_before_it_is_compared(tmp_path):
    samples = saved(draw([IMAGE], 0), ["image"], tmp_path / "inputs")
    next(samples)
    assert [path.name for path in (tmp_path / "inputs").iterdir()] == ["001-random.npz"]


def test_folders_that_cannot_take_them(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    for name, kind in (
        ("full", UsageError),
        ("file", UsageError),
        ("none/inputs", UsageError),
        ("link", UnsafeModelError),
    ):
        with pytest.raises(kind, match="for the inputs"):
            check_folder(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "full", "link"]
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine"]
