"""HDF5 files that reach outside themselves or claim what they do not hold are refused; damaged ones end a child."""

import os
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from kbn.export import hdf5_process
from kbn.export.errors import BrokenModelError, KbnError, UnsafeModelError
from kbn.export.hdf5 import Contents, scan
from kbn.export.hdf5_process import look_into


def contents(path: Path) -> Contents:
    with h5py.File(path, "r") as file:
        return scan(file, os.path.getsize(path))


def refusal(path: Path) -> KbnError:
    with pytest.raises(KbnError) as caught:
        contents(path)
    return caught.value


@pytest.fixture
def path(tmp_path) -> Path:
    with h5py.File(tmp_path / "model.h5", "w") as file:
        file.attrs["model_config"] = "{}"
        file["model_weights/dense/kernel"] = np.random.default_rng(0).normal(size=(3, 4))
        file["model_weights/dense/bias"] = np.zeros(4, "float32")
        file["model_weights"].attrs["layer_names"] = [b"dense"]
    return tmp_path / "model.h5"


def test_a_sound_file(path):
    assert contents(path) == Contents(16, "{}", ("model_weights",))
    assert look_into(path) == contents(path)


@pytest.mark.parametrize(
    "values",
    [
        np.float32(3),
        np.zeros((0, 3)),
        np.zeros(3, bool),
        np.zeros(3, "int8"),
        np.zeros(3, ">f4"),
        np.zeros(3, "float16"),
        np.zeros(3, "V2"),  # bfloat16
        np.zeros(3, "V1"),  # float8
    ],
    ids=lambda values: f"{values.dtype}-{values.shape}",
)
def test_every_kind_of_number(tmp_path, values):
    with h5py.File(tmp_path / "model.h5", "w") as file:
        file["x"] = values
    assert contents(tmp_path / "model.h5").elements == values.size


def test_bytes_are_text(path):
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = np.bytes_(b'{"a": 1}')
    assert contents(path).model_config == '{"a": 1}'


@pytest.mark.parametrize(
    ("link", "kind"),
    [
        (h5py.ExternalLink("other.h5", "/x"), "a link into another file"),
        (h5py.SoftLink("/model_weights"), "a soft link"),
    ],
)
def test_links_are_refused(path, link, kind):
    with h5py.File(path, "r+") as file:
        file["model_weights/more"] = link
    error = refusal(path)
    assert isinstance(error, UnsafeModelError)
    assert f"its object '/model_weights/more' is {kind}" in str(error)


def test_a_second_name_is_refused(path):
    with h5py.File(path, "r+") as file:
        file["model_weights/dense/again"] = file["model_weights/dense/bias"]
    assert "'/model_weights/dense/bias' is a second name" in str(refusal(path))


def test_a_cycle_is_refused(path):
    with h5py.File(path, "r+") as file:
        file["model_weights/dense/up"] = file["/"]
    assert "'/model_weights/dense/up' is a second name" in str(refusal(path))


def test_external_storage_is_refused(path, tmp_path):
    (tmp_path / "secret").write_bytes(b"secret data " * 10)
    with h5py.File(path, "r+") as file:
        file.create_dataset("x", (8,), "uint8", external=[(str(tmp_path / "secret"), 0, 8)])
    error = refusal(path)
    assert isinstance(error, UnsafeModelError)
    assert f"'/x' is stored in another file ({str(tmp_path / 'secret')!r})" in str(error)


def test_a_virtual_dataset_is_refused(path):
    layout = h5py.VirtualLayout((4,), "float32")
    layout[:] = h5py.VirtualSource("other.h5", "x", (4,))
    with h5py.File(path, "r+") as file:
        file.create_virtual_dataset("x", layout)
    error = refusal(path)
    assert isinstance(error, UnsafeModelError)
    assert "is a virtual dataset" in str(error)


@pytest.mark.parametrize("options", [{"chunks": (10, 10)}, {}], ids=["chunked", "contiguous"])
def test_a_shape_that_the_file_does_not_hold_is_refused(path, options):
    # CVE-2026-0897: nothing is stored, and reading it gives 400 GB of zeros.
    with h5py.File(path, "r+") as file:
        file.create_dataset("x", (10**6, 10**5), "float32", **options)
    error = refusal(path)
    assert isinstance(error, UnsafeModelError)
    assert "claims shape (1000000, 100000), 400000000000 bytes, of which the file stores 0" in str(error)


def test_compressed_arrays_are_refused(path):
    with h5py.File(path, "r+") as file:
        file.create_dataset("x", data=np.zeros(10**6), compression="gzip")
    assert "is compressed" in str(refusal(path))


@pytest.mark.parametrize(
    "values",
    [
        np.array(["text"], h5py.string_dtype()),
        np.zeros(2, [("a", "f4"), ("b", "f4")]),
        np.zeros(2, "V16"),
        h5py.Empty("f4"),
    ],
    ids=["text", "compound", "opaque", "empty"],
)
def test_what_is_no_number_is_broken(path, values):
    with h5py.File(path, "r+") as file:
        file["x"] = values
    error = refusal(path)
    assert isinstance(error, BrokenModelError)
    assert "'/x' does not hold plain numbers" in str(error)


def test_a_named_type_is_broken(path):
    with h5py.File(path, "r+") as file:
        file["x"] = np.dtype("f4")
    assert "'/x' is neither a group nor an array" in str(refusal(path))


def test_a_configuration_that_is_no_text_is_broken(path):
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = np.arange(3)
    assert "model_config is ndarray, not text" in str(refusal(path))


# ------------------------------------------------------------------------------------------------ in a process of its own


def test_refusals_pass_from_the_child_with_the_path(path):
    with h5py.File(path, "r+") as file:
        file["x"] = h5py.SoftLink("/model_weights")
    with pytest.raises(UnsafeModelError, match=rf"^{path}: its object '/x' is a soft link"):
        look_into(path)
    with h5py.File(path, "w") as file:
        file["x"] = h5py.Empty("f4")
    with pytest.raises(BrokenModelError, match=rf"^{path}: its array '/x' does not hold plain numbers"):
        look_into(path)


def test_an_error_of_the_library_is_a_broken_file(path):
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BrokenModelError, match="the HDF5 library cannot read it"):
        look_into(path)


def test_a_crash_of_the_library_is_a_broken_file(path, monkeypatch):
    monkeypatch.setattr(hdf5_process, "_CHILD", "import os; os.abort()")
    with pytest.raises(BrokenModelError, match=r"crashed while reading it \(exit status -6"):
        look_into(path)


def test_a_library_that_never_returns_is_a_broken_file(path, monkeypatch):
    monkeypatch.setattr(hdf5_process, "_CHILD", "import time; time.sleep(600)")
    start = time.monotonic()
    with pytest.raises(BrokenModelError, match=r"still reading its headers after 0\.5 seconds"):
        look_into(path, seconds=0.5)
    assert time.monotonic() - start < 300


def test_the_child_imports_what_the_parent_does(path, monkeypatch):
    monkeypatch.setattr(sys, "path", ["/nowhere"])
    with pytest.raises(RuntimeError, match="cannot start:\nTraceback"):
        look_into(path)
