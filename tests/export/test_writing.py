"""Outputs are whole or not there, and every refusal says what was found and what to do."""

import errno
import os
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from kbn.export.errors import KbnError, UnsafeModelError, UsageError
from kbn.export.output_folder import output_folder
from kbn.export.writing import check_output, output_file, output_pair


def names(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir())


def write_half(path: Path, error: BaseException) -> None:
    with output_file(path, force=True) as temporary:
        temporary.write_bytes(b"half")
        raise error


def test_a_new_file_is_written_whole_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "model.onnx"
    with output_file(path) as temporary:
        assert (temporary.parent, temporary.suffix) == (tmp_path, ".onnx")
        assert not path.exists()
        temporary.write_bytes(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert names(tmp_path) == ["model.onnx"]


def test_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    with output_file(tmp_path / "model.onnx") as temporary:
        temporary.write_bytes(b"")
    assert (tmp_path / "model.onnx").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_path_without_a_folder_is_in_the_current_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with output_file("model.onnx") as temporary:
        temporary.write_bytes(b"here")
    assert (tmp_path / "model.onnx").read_bytes() == b"here"


def test_force_replaces_in_one_step(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    with output_file(path, force=True) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["model.onnx"]


@pytest.mark.parametrize("interruption", [ValueError, KeyboardInterrupt, SystemExit, MemoryError])
def test_any_exception_leaves_what_was_there(tmp_path, interruption):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    with pytest.raises(interruption):
        write_half(path, interruption())
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["model.onnx"]


def test_a_full_disk_is_said_and_leaves_what_was_there(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    with pytest.raises(UsageError, match=r"disk is full.*unchanged"):
        write_half(path, OSError(errno.ENOSPC, "No space left on device"))
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["model.onnx"]


def test_another_oserror_passes_through(tmp_path):
    with pytest.raises(FileNotFoundError, match="elsewhere") as found:
        write_half(tmp_path / "model.onnx", FileNotFoundError(errno.ENOENT, "elsewhere"))
    assert found.value.__cause__ is None  # it was its own
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_a_file_that_cannot_be_flushed_is_an_error_of_use(tmp_path, monkeypatch, number):
    # It was "a fault in kbn", exit code 70.
    path = tmp_path / "model.onnx"

    def broken(_descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(UsageError, match=f"could not be written: {os.strerror(number)}"), output_file(path):
        pass
    with pytest.raises(UsageError, match="could not be written"), output_pair(path, tmp_path / "m.data"):
        pass
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_flushed_is_no_error(tmp_path, monkeypatch):
    # As some file systems cannot: output_folder refused there what output_file wrote.
    fsync, folders = os.fsync, []

    def files_alone(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            folders.append(descriptor)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", files_alone)
    with output_folder(tmp_path / "made", tmp_path) as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner/file").write_bytes(b"new")
    assert (tmp_path / "made/inner/file").read_bytes() == b"new"
    assert len(folders) == 3


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ENOENT, errno.ENOSPC])
def test_a_folder_that_cannot_be_written_is_an_error_of_use(tmp_path, number):
    def written():
        with output_folder(tmp_path / "made", tmp_path) as temporary:
            (temporary / "file").touch()
            raise OSError(number, os.strerror(number), "source")

    with pytest.raises(UsageError, match=os.strerror(number)):
        written()
    assert names(tmp_path) == []


def test_a_file_in_a_folder_is_flushed_or_refused(tmp_path, monkeypatch):
    fsync = os.fsync

    def folders_alone(descriptor):
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", folders_alone)
    with (
        pytest.raises(UsageError, match="could not be written"),
        output_folder(tmp_path / "made", tmp_path) as temporary,
    ):
        (temporary / "file").touch()
    assert names(tmp_path) == []


def test_of_two_files_the_one_referred_to_is_named_first(tmp_path, monkeypatch):
    model, data = tmp_path / "m.onnx", tmp_path / "m.onnx.data"
    named = []
    link = os.link
    monkeypatch.setattr(os, "link", lambda old, new: (named.append(Path(new).name), link(old, new)))
    with output_file(model) as first, output_file(data) as second:
        first.write_bytes(b"model")
        second.write_bytes(b"data")
    assert named == ["m.onnx.data", "m.onnx"]
    assert names(tmp_path) == ["m.onnx", "m.onnx.data"]


def test_a_file_that_appears_meanwhile_is_kept_without_force(tmp_path):
    path = tmp_path / "model.onnx"
    with pytest.raises(UsageError, match="appeared while"), output_file(path):
        path.write_bytes(b"theirs")
    assert path.read_bytes() == b"theirs"
    assert names(tmp_path) == ["model.onnx"]


def test_without_hard_links_the_file_is_renamed(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    with output_file(tmp_path / "model.onnx") as temporary:
        temporary.write_bytes(b"whole")
    assert (tmp_path / "model.onnx").read_bytes() == b"whole"
    assert names(tmp_path) == ["model.onnx"]


def refusal(path: Path, force: bool = False) -> KbnError:
    """What both functions refuse `path` with; they must agree, and nothing may be created or changed."""
    with pytest.raises(KbnError) as early:
        check_output(path, force)
    with pytest.raises(KbnError) as late, output_file(path, force):
        pytest.fail("the block must not begin")
    assert (type(early.value), str(early.value)) == (type(late.value), str(late.value))
    assert "\n" not in str(early.value)
    return early.value


def test_a_missing_folder(tmp_path):
    error = refusal(tmp_path / "a" / "b" / "model.onnx")
    assert error.exit_code == 2
    assert f"nearest that does is {tmp_path}." in str(error)
    assert names(tmp_path) == []


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    error = refusal(tmp_path / "file" / "model.onnx")
    assert error.exit_code == 2
    assert "is a file, not a folder" in str(error)


def test_a_path_that_is_a_folder(tmp_path):
    error = refusal(tmp_path, force=True)
    assert error.exit_code == 2
    assert "is a folder. Give the name of a file in it" in str(error)


def test_an_existing_file_without_force(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    error = refusal(path)
    assert error.exit_code == 2
    assert "exists already. Use --force" in str(error)
    assert path.read_bytes() == b"old"


def test_a_device():
    error = refusal(Path(os.devnull), force=True)
    assert error.exit_code == 2
    assert "is a device" in str(error)


@pytest.mark.parametrize("exists", [True, False])
def test_a_symbolic_link_is_not_followed(tmp_path, exists):
    target, link = tmp_path / "precious", tmp_path / "model.onnx"
    if exists:
        target.write_bytes(b"old")
    link.symlink_to(target)
    error = refusal(link, force=True)
    assert isinstance(error, UnsafeModelError)
    assert error.exit_code == 4
    assert str(target) in str(error)
    assert link.is_symlink()
    assert target.exists() == exists


@pytest.mark.parametrize("name", ["x" * 300 + ".onnx", "nul\0.onnx"])
def test_an_impossible_name(tmp_path, name):
    error = refusal(tmp_path / name)
    assert error.exit_code == 2
    assert "cannot be written" in str(error)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder in which not even root can create files")
def test_a_folder_in_which_nobody_can_write():
    # The permission bits say that root may: only trying tells.
    error = refusal(Path("/proc/model.onnx"))
    assert error.exit_code == 2
    assert "The folder /proc of the output model.onnx cannot be written to" in str(error)


def test_a_read_only_mount(tmp_path, monkeypatch):
    def read_only(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", read_only)
    error = refusal(tmp_path / "model.onnx")
    assert error.exit_code == 2
    assert "Read-only file system" in str(error)


@pytest.mark.skipif(os.geteuid() == 0, reason="root passes permission bits")
def test_a_folder_without_permission(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    error = refusal(folder / "model.onnx")
    assert error.exit_code == 2
    assert "Permission denied" in str(error)


def test_check_output_leaves_nothing(tmp_path):
    (tmp_path / "old.onnx").write_bytes(b"old")
    check_output(tmp_path / "new.onnx")
    check_output(tmp_path / "old.onnx", force=True)
    assert names(tmp_path) == ["old.onnx"]


def test_an_interrupt_leaves_what_was_there(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    script = textwrap.dedent(
        """
        import sys, time
        from kbn.export.writing import output_file
        with output_file(sys.argv[1], force=True) as temporary:
            temporary.write_bytes(b"half")
            print("writing", flush=True)
            time.sleep(60)
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        assert child.stdout.readline() == b"writing\n"
        assert len(names(tmp_path)) == 2
        child.send_signal(signal.SIGINT)
        assert child.wait(timeout=30) != 0
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["model.onnx"]


def test_of_two_writers_at_once_one_wins_whole(tmp_path):
    path = tmp_path / "model.onnx"
    with output_file(path, force=True) as first, output_file(path, force=True) as second:
        assert first != second
        first.write_bytes(b"first" * 1000)
        second.write_bytes(b"second" * 1000)
    assert path.read_bytes() == b"first" * 1000
    assert names(tmp_path) == ["model.onnx"]
