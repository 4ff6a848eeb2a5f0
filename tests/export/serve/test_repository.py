"""Which files are served under which names."""

import pytest

from kbn.export.errors import UsageError
from kbn.export.serve.repository import find, fingerprint
from kbn.export.serve.settings import usable_cpus


@pytest.fixture
def folder(tmp_path):
    names = ["cat/1/model.onnx", "cat/10/model.onnx", "cat/2/other.onnx", "cat/01/model.onnx", "cat/x/model.onnx"]
    names += ["cat/0/model.onnx", "dog.onnx", "notes.txt", ".hidden.onnx", ".git/1/model.onnx", "dog.onnx.data"]
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path


def test_names_and_versions(folder):
    found = {place: path.relative_to(folder).as_posix() for place, path in find([folder]).items()}
    assert found == {("cat", "1"): "cat/1/model.onnx", ("cat", "10"): "cat/10/model.onnx", ("dog", "1"): "dog.onnx"}
    assert set(find([folder / "dog.onnx", folder / "cat/1/model.onnx"])) == {("dog", "1"), ("model", "1")}


@pytest.mark.parametrize(
    ("sources", "why"),
    [
        (["nowhere"], "check the path"),
        (["notes.txt"], "no .onnx file"),
        (["cat/2/other.onnx", "cat/2"], "would both be model 'other'"),
        (["cat/x/deep"], "There is no model in"),
    ],
)
def test_what_is_no_model_is_told(folder, sources, why):
    (folder / "cat/x/deep").mkdir()
    with pytest.raises(UsageError, match=why):
        find([folder / source for source in sources])


def test_a_fingerprint_changes_with_the_file_and_its_weights(folder):
    path = folder / "dog.onnx"
    marks = [fingerprint(path), fingerprint(path, ["dog.onnx.data"])]
    (folder / "dog.onnx.data").write_bytes(b"longer than it was before")
    marks.append(fingerprint(path, ["dog.onnx.data"]))
    path.write_bytes(b"longer than it was before, too")
    marks.append(fingerprint(path, ["dog.onnx.data"]))
    assert len(set(marks)) == 4
    path.unlink()
    assert fingerprint(path) == ()


@pytest.mark.parametrize(
    ("text", "cpus"), [("150000 100000", 1), ("50000 100000", 1), ("max 100000", None), ("x", None)]
)
def test_the_cpus_of_a_container_are_counted(tmp_path, text, cpus):
    (tmp_path / "cpu.max").write_text(text)
    bound = usable_cpus(tmp_path / "none")
    assert usable_cpus(tmp_path / "cpu.max") == (cpus or bound)
    assert bound >= 1
