"""The user's arrays: what is read, and what is refused."""

import numpy as np
import pytest

from kbn.export.data_file import read_arrays
from kbn.export.errors import BrokenModelError, UsageError


def test_reads_npy_and_npz(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(6.0).reshape(2, 3))
    np.savez(tmp_path / "x.npz", a=np.ones(2), b=np.zeros(3))
    np.testing.assert_array_equal(read_arrays(tmp_path / "x.npy"), np.arange(6.0).reshape(2, 3))
    assert {name: array.shape for name, array in read_arrays(tmp_path / "x.npz").items()} == {"a": (2,), "b": (3,)}


def test_python_objects_are_not_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    np.save(tmp_path / "x.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(BrokenModelError):
        read_arrays(tmp_path / "x.npy")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"PK\x03\x04 no zip", b"text"])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_damaged_files_are_told(tmp_path, content, suffix):
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(content)
    with pytest.raises(BrokenModelError, match=f"x.{suffix}"):
        read_arrays(path)


@pytest.mark.parametrize("name", ["none.npy", "x.csv"])
def test_other_files_are_refused(tmp_path, name):
    (tmp_path / "x.csv").write_text("1,2")
    with pytest.raises(UsageError, match=name):
        read_arrays(tmp_path / name)
