"""Commands that are stopped while they run: what was at the output path is as it was, and nothing else is left."""

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import keras
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from command_line import run_here
from hostile_files import small_onnx
from kbn.export import any_model, exporting, lowering, onnx_comparison, saving, writing
from kbn.export.errors import UsageError
from kbn.export.saving import onnx_file
from kbn.export.writing import output_pair
from model_files import saved, small_model

OLD = b"what was there before"


@pytest.fixture
def run(monkeypatch, capsys):
    return lambda *arguments: run_here(monkeypatch, capsys, *arguments)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    onnx.save(small_onnx(), folder / "m.onnx")
    saved(small_model(), folder / "m.keras")
    np.save(folder / "data.npy", np.random.default_rng(0).normal(size=(4, 6, 6, 3)).astype(np.float32))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {item.name: item.read_bytes() for item in folder.iterdir()}


def after(step, then):
    """The function `step`, and what happens to the process once it is done."""

    def stopped(*arguments, **options):
        result = step(*arguments, **options)
        then()
        return result

    return stopped


def killed_by(number: int):
    return lambda: os.kill(os.getpid(), number)


def disk_full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# By command: its arguments, and the steps after which it can be stopped.
EXPORT = ["export", "m.keras", "out.onnx", "--force"]
STEPS = {
    "export, converted": (EXPORT, exporting, "convert"),
    "export, written": (EXPORT, saving, "save"),
    "export, proved": (EXPORT, exporting, "check_model"),
    "export, to be named": (EXPORT, exporting, "add_metadata"),
    "fold, folded": (["fold", "m.keras", "out.keras", "--force"], any_model, "fold"),
    "fold, written": (["fold", "m.keras", "out.keras", "--force"], keras.Model, "save"),
    "fold of ONNX, compared": (["fold", "m.onnx", "out.onnx", "--force"], onnx_comparison, "compare"),
    "fold of ONNX, to be named": (["fold", "m.onnx", "out.onnx", "--force"], writing, "flush"),
}


def stopped_at(step: str, then, sound: Path, folder: Path, run, monkeypatch):
    line, owner, name = STEPS[step]
    for suffix in ("keras", "onnx"):
        (folder / f"out.{suffix}").write_bytes(OLD)
    before = contents(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(owner, name, after(getattr(owner, name), then))
    done = run(line[0], sound / line[1], *line[2:])
    assert contents(folder) == before
    assert done.stdout == ""
    return done


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("step", STEPS)
def test_a_signal(step, number, sound, tmp_path, run, monkeypatch):
    done = stopped_at(step, killed_by(number), sound, tmp_path, run, monkeypatch)
    assert done.returncode == 130
    assert "Interrupted; an output that was not finished is as it was before" in done.stderr


@pytest.mark.parametrize("step", [step for step in STEPS if "written" in step or "named" in step])
def test_a_full_disk(step, sound, tmp_path, run, monkeypatch):
    done = stopped_at(step, disk_full, sound, tmp_path, run, monkeypatch)
    assert done.returncode == 2
    assert "The disk is full" in done.stderr
    assert "unchanged" in done.stderr


@pytest.fixture
def little_space():
    """Files of at most 1000 bytes: what is written beyond fails with EFBIG, wherever it is written from."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("line", [EXPORT, STEPS["fold, written"][0]], ids=lambda line: line[0])
def test_a_disk_that_fills_while_the_file_is_written(line, sound, tmp_path, run, monkeypatch, little_space):
    monkeypatch.chdir(tmp_path)
    (tmp_path / line[2]).write_bytes(OLD)
    done = run(line[0], sound / line[1], *line[2:])
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert "The disk is full" in done.stderr
    assert contents(tmp_path) == {line[2]: OLD}


@pytest.mark.parametrize("kind", ["float16", "int8"])
def test_a_signal_while_a_lower_precision_is_written_leaves_whole_files(kind, sound, tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"out.{kind}.onnx").write_bytes(OLD)
    monkeypatch.setattr(lowering.onnx, "save", after(onnx.save, killed_by(signal.SIGTERM)))
    line = [*EXPORT[2:], f"--{kind}", "--data", sound / "data.npy"]
    done = run("export", sound / "m.keras", *line)
    assert done.returncode == 130
    assert sorted(contents(tmp_path)) == [f"out.{kind}.onnx", "out.onnx"]
    assert (tmp_path / f"out.{kind}.onnx").read_bytes() == OLD
    onnxruntime.InferenceSession(tmp_path / "out.onnx")  # proved, and written before


# ---------------------------------------------------------------------------------------------- two files in one output


def stamped(value: float) -> ir.Model:
    """A model all of whose weights are the value."""
    return ir.from_proto(small_onnx(onnx.numpy_helper.from_array(np.full((2048, 4), value, np.float32), "w")))


def stamp(path: Path) -> set[float]:
    (weight,) = onnx.load(path).graph.initializer
    return set(onnx.numpy_helper.to_array(weight).ravel().tolist())


@pytest.fixture
def two_files(monkeypatch) -> None:
    monkeypatch.setattr(saving, "LARGEST_FILE", 100)


def test_of_two_writers_of_two_files_one_wins_with_both(tmp_path, monkeypatch, two_files):
    path, replace, waited = tmp_path / "out.onnx", os.replace, []

    def write(value: float) -> None:
        with onnx_file(stamped(value), path, force=True):
            pass

    second = threading.Thread(target=write, args=(2.0,))

    def replace_and_let_the_other_come(source, target) -> None:
        replace(source, target)
        if not waited and Path(target).name == "out.onnx.data":
            # The first has named its weights, not yet the model. The second writes its files and would name them here.
            waited.append(True)
            second.start()
            second.join(timeout=1)
            waited.append(second.is_alive())

    monkeypatch.setattr(os, "replace", replace_and_let_the_other_come)
    write(1.0)
    second.join()
    assert waited == [True, True]
    assert stamp(path) == {2.0}
    assert sorted(contents(tmp_path)) == ["out.onnx", "out.onnx.data"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_between_the_names_of_two_files(tmp_path, monkeypatch, two_files, number):
    path, replace = tmp_path / "out.onnx", os.replace
    with onnx_file(stamped(1.0), path):
        pass
    came = []
    before = signal.signal(number, lambda *_: came.append(sorted(stamp(path))))

    def replace_and_kill(source, target) -> None:
        replace(source, target)
        if Path(target).name == "out.onnx.data":
            os.kill(os.getpid(), number)

    monkeypatch.setattr(os, "replace", replace_and_kill)
    try:
        with onnx_file(stamped(2.0), path, force=True):
            pass
    finally:
        signal.signal(number, before)
    assert came == [[2.0]]  # told once, when both had their names
    assert stamp(path) == {2.0}


def test_two_files_are_left_as_they_were_by_an_exception(tmp_path, two_files):
    path = tmp_path / "out.onnx"
    with onnx_file(stamped(1.0), path):
        pass
    before = contents(tmp_path)
    with pytest.raises(KeyboardInterrupt), onnx_file(stamped(2.0), path, force=True):
        raise KeyboardInterrupt
    assert contents(tmp_path) == before


def test_of_two_files_none_is_named_where_one_appeared_meanwhile(tmp_path):
    with pytest.raises(UsageError, match="appeared"), output_pair(tmp_path / "m", tmp_path / "m.data"):
        (tmp_path / "m").write_bytes(b"theirs")
    assert contents(tmp_path) == {"m": b"theirs"}


# --------------------------------------------------------------------------------------------- processes of their own

PROGRAM = """
import sys, time
from kbn.export import exporting, saving
from kbn.export.cli import main

genuine = saving.save

def slowly(model, path):
    genuine(model, path)
    print("writing", flush=True)
    sys.stdin.readline()

saving.save = slowly
sys.argv[0] = "kbn"
main()
"""


def start(*arguments: object) -> subprocess.Popen:
    """A command which says when its file is written, and goes on when it is told to."""
    line = [sys.executable, "-c", PROGRAM, *map(str, arguments), "-q"]
    return subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_two_exports_at_once_and_one_that_is_killed(sound, tmp_path):
    models = [small_model(), small_model()]
    models[1].get_layer("dense").bias.assign([100.0, 200.0])
    paths = [saved(model, tmp_path / f"{index}.keras") for index, model in enumerate(models)]
    out = tmp_path / "out" / "out.onnx"
    out.parent.mkdir()
    out.write_bytes(OLD)
    children = [start("export", path, out, "--force") for path in (*paths, paths[0])]
    for child in children:
        assert child.stdout.readline() == b"writing\n", child.stderr.read()
    assert len(contents(out.parent)) == 4
    children[2].kill()
    children[2].communicate()
    assert out.read_bytes() == OLD
    for child in children[:2]:
        child.stdin.write(b"\n")
        child.stdin.flush()
    for child in children[:2]:
        child.communicate(timeout=120)
        assert child.returncode == 0
    images = np.load(sound / "data.npy")
    (found,) = onnxruntime.InferenceSession(out).run(None, {"image": images})
    matching = [np.allclose(found, model.predict(images, verbose=0), rtol=1e-3, atol=1e-3) for model in models]
    assert sorted(matching) == [False, True]
    left = sorted(set(contents(out.parent)) - {"out.onnx"})
    assert len(left) == 1  # of the process that was killed outright
    assert left[0].startswith(".kbn-")
