"""Output files that are whole or not there.

    with output_file(path, force) as temporary:
        write(temporary)

`temporary` lies in the folder of `path`, with its suffix. At the end of the block it is flushed to disk and takes the
name `path` in one step; on any exception, an interrupt too, it is removed. Whoever looks at `path` sees what was there
before or the new file whole, and of two writers one wins whole. Only a process killed outright leaves its temporary
behind, under a name that begins with `.kbn-`.

Two files that belong together cannot be named in one step:

    with output_pair("m.onnx", "m.onnx.data", force) as (model, data):

names the one that refers to the other last, so that a new m.onnx never lies beside old data. In between the old one lies
beside new data: for two system calls, which no signal but SIGKILL and no other writer can come between.
"""

import contextlib
import errno
import os
import secrets
import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UnsafeModelError, UsageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# What file systems without hard links answer.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


def check_output(path: str | os.PathLike[str], force: bool = False) -> None:
    """Raise now what `output_file` would raise first, before long work begins.

    Raises UsageError (exit code 2) where the folder is missing, no folder or not writable, where `path` is a folder or
    a device, or exists without `force`; UnsafeModelError (exit code 4) where it is a symbolic link.
    """
    path = Path(path)
    _check_path(path, force)
    # The permission bits do not tell: root passes them everywhere, and nobody writes to a read-only mount.
    _create(path).unlink()


@contextmanager
def output_file(path: str | os.PathLike[str], force: bool = False) -> Iterator[Path]:
    """Yield a temporary file beside `path`, which takes its name when the block ends without an exception.

    force: replace an existing file. Without it a file that appears at `path` meanwhile is kept, and this one refused.

    Raises what `check_output` raises, and UsageError where the disk is full, or the file cannot be flushed or named. Another
    OSError of the block may be about another file, and passes as it is.
    """
    path = Path(path)
    with _temporary(path, force) as temporary:
        yield temporary
        with _told(path):
            flush(temporary)
            _name(temporary, path, force)
    flush_folder(path.parent)


@contextmanager
def output_pair(
    path: str | os.PathLike[str], beside: str | os.PathLike[str], force: bool = False
) -> Iterator[tuple[Path, Path]]:
    """The same for a file and one in the same folder that it refers to, of which either both take their names or none does.

    Of two writers at once one wins with both files. Raises what `output_file` raises, for either.
    """
    path, beside = Path(path), Path(beside)
    with _temporary(path, force) as main, _temporary(beside, force) as other:
        yield main, other
        with _told(path):
            flush(other)
            flush(main)
        with _told(path), _undisturbed(path.parent):
            _name(other, beside, force)
            try:
                _name(main, path, force)
            except UsageError:  # without force: it appeared meanwhile, and `beside` was not there before
                beside.unlink()
                raise
    flush_folder(path.parent)


@contextmanager
def _temporary(path: Path, force: bool) -> Iterator[Path]:
    """A temporary file for `path`, which is removed at the end if it still has that name."""
    _check_path(path, force)
    temporary = _create(path)
    try:
        yield temporary
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise unwritten(error, path) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def unwritten(error: OSError, path: Path) -> UsageError:
    """What to raise where an output could not be written, flushed or named."""
    why = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in _FULL:
        return UsageError(
            f"The disk is full: {path} could not be written ({why}), and what was there before is unchanged. Free space in "
            f"{path.parent} or write elsewhere."
        )
    where = f" of {error.filename}" if error.filename else ""
    return UsageError(f"{path} could not be written: {why}{where}. Mend that or write elsewhere.")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Around what is about the output alone."""
    try:
        yield
    except OSError as error:
        raise unwritten(error, path) from error


@contextmanager
def _undisturbed(folder: Path) -> Iterator[None]:
    """While no other process names a pair in this folder, and no signal interrupts this one."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # file systems that lock no folders
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        with _signals_deferred():
            yield
    finally:
        os.close(descriptor)  # which gives the lock back


@contextmanager
def _signals_deferred() -> Iterator[None]:
    """What asks to stop is obeyed at the end. A mask would not do: any thread may take a signal for the main one."""
    if threading.current_thread() is not threading.main_thread():  # where Python delivers no signals
        yield
        return
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda found, _frame: came.append(found))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    if came:
        signal.raise_signal(came[0])


def _check_path(path: Path, force: bool) -> None:
    folder = path.parent
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        mode = None
    except (OSError, ValueError) as error:  # too long, a NUL in it, a folder that may not be searched
        raise UsageError(f"The output {path} cannot be written: {error}. Write elsewhere.") from None
    if mode is not None and stat.S_ISLNK(mode):
        raise UnsafeModelError(
            f"The output {path} is a symbolic link, to {os.readlink(path)}: writing there would change another file. "
            f"Remove the link, or give the path of the file itself."
        )
    if not folder.exists():
        nearest = next(parent for parent in folder.absolute().parents if parent.exists())
        raise UsageError(
            f"The folder {folder} of the output {path.name} does not exist; the nearest that does is {nearest}. Create "
            f"it (mkdir -p) or write elsewhere."
        )
    if not folder.is_dir():
        raise UsageError(f"The output {path} cannot be written: {folder} is a file, not a folder. Write elsewhere.")
    if mode is None:
        return
    if stat.S_ISDIR(mode):
        raise UsageError(f"The output {path} is a folder. Give the name of a file in it.")
    if not stat.S_ISREG(mode):
        raise UsageError(f"The output {path} is a device, pipe or socket, which cannot be replaced. Give a file name.")
    if not force:
        raise UsageError(f"The output {path} exists already. Use --force (force=True) to replace it, or another name.")


def _create(path: Path) -> Path:
    """A new empty file beside `path`, with the permissions of any new file."""
    temporary = path.with_name(f".kbn-{secrets.token_hex(8)}{path.suffix}")
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise UsageError(
            f"The folder {path.parent} of the output {path.name} cannot be written to: {error.strerror}. Make it "
            f"writable or write elsewhere."
        ) from None
    return temporary


def _name(temporary: Path, path: Path, force: bool) -> None:
    if not force:
        try:
            # Unlike a rename, a link never replaces: the last moment at which another file can be noticed is this one.
            os.link(temporary, path)
            return
        except FileExistsError:
            raise UsageError(
                f"The output {path} appeared while it was being computed; it was left as it is. Use --force "
                f"(force=True) to replace it, or another name."
            ) from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
    os.replace(temporary, path)


def flush_folder(path: Path) -> None:
    """Wait until a folder's names are on the disk, where the file system can."""
    with contextlib.suppress(OSError):  # some cannot; the names are there all the same
        flush(path)


def flush(path: Path) -> None:
    """Wait until a file's bytes are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
