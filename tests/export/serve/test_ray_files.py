"""The files that go to a cluster: they arrive as they were looked into, and nothing else does."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from kbn.export.errors import BrokenModelError
from kbn.export.serve.model import load
from kbn.export.serve.ray_files import Collector, read, replica_folder, unpack
from serving import rows_request, serving, weights, write_rows

X = np.ones((1, 4), np.float32)


def packed(collector):
    """What the replicas get."""
    return [
        type(package)(package.place, package.sha256, {name: read(package, name) for name in package.contents})
        for package in collector.collect()
    ]


def with_weights_beside(folder, seed):
    """A model with a file of weights."""
    proto = onnx.load(write_rows(folder / "rows.onnx", seed))
    onnx.save(proto, folder / "rows.onnx", save_as_external_data=True, location=f"w{seed}.bin", size_threshold=60)
    return folder / "rows.onnx"


def test_files_arrive_as_they_were_and_only_what_changed_is_written(tmp_path):
    path = with_weights_beside(tmp_path / "models", 0)
    for version in (1, 12):
        write_rows(tmp_path / f"models/other/{version}/model.onnx", version)
    collector = Collector([tmp_path / "models"], 1)
    unpack(packed(collector), tmp_path / "there")
    found = {str(file.relative_to(tmp_path / "there")) for file in (tmp_path / "there").rglob("*") if file.is_file()}
    others = {f"other/{version}/model.onnx" for version in (1, 12)}
    assert found == {"rows/1/model.onnx", "rows/1/w0.bin", *others}
    assert (tmp_path / "there/rows/1/model.onnx").read_bytes() == path.read_bytes()
    inodes = {name: (tmp_path / "there" / name).stat().st_ino for name in others}
    (tmp_path / "models/other/12/model.onnx").unlink()
    write_rows(tmp_path / "models/rows.onnx", seed=5)
    assert collector.look() != collector.collected()
    unpack(packed(collector), tmp_path / "there")
    assert collector.look() == collector.collected()
    assert not (tmp_path / "there/other/12").exists()
    assert not (tmp_path / "there/rows/1/w0.bin").exists()  # the weights are in the model now
    assert (tmp_path / "there/other/1/model.onnx").stat().st_ino == inodes["other/1/model.onnx"]
    with serving(tmp_path / "there") as address:
        assert address.post("/v2/models/rows/infer", rows_request(X))[1]["outputs"][0]["data"][:3] == pytest.approx(
            (X @ weights(5))[0], rel=1e-5
        )


def test_a_file_that_changes_after_it_was_looked_into_is_not_sent(tmp_path):
    path = write_rows(tmp_path / "rows.onnx", seed=0)
    (package,) = Collector([path], 1).collect()
    write_rows(path, seed=1)
    with pytest.raises(BrokenModelError, match="was changed while"):
        read(package, "model.onnx")
    path.unlink()
    with pytest.raises(BrokenModelError, match="cannot be read"):
        read(package, "model.onnx")


def test_a_file_exchanged_while_it_is_looked_into_counts_as_changed(tmp_path, monkeypatch):
    path = write_rows(tmp_path / "rows.onnx", seed=0)
    collector = Collector([path], 1)

    def load_and_exchange(*arguments):
        loaded = load(*arguments)
        write_rows(path, seed=1)
        return loaded

    with monkeypatch.context() as patch:
        patch.setattr("kbn.export.serve.ray_files.load", load_and_exchange)
        (before,) = collector.collect()
    assert collector.look() != collector.collected()
    (after,) = collector.collect()
    assert after.sha256 != before.sha256
    assert read(after, "model.onnx").tobytes() == path.read_bytes()
    assert collector.look() == collector.collected()


def test_folders_of_replicas_that_were_killed_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    others = [f"kbn-replica-{os.getppid()}-a", "kbn-replica-a", "kbn-replica-x-a", f"other-{ended.pid}-a"]
    for name in [*others, f"kbn-replica-{ended.pid}-a", f"kbn-replica-{10**30}-a"]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.onnx").touch()
    with replica_folder() as own:
        assert {path.name for path in tmp_path.iterdir()} == {*others, Path(own).name}
    assert {path.name for path in tmp_path.iterdir()} == set(others)
