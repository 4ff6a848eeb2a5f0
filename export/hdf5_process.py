"""Look into an HDF5 file from a process of its own.

The HDF5 library ends the process or never returns on some damaged files: with random bytes changed, on one in a few
dozen. Here that ends a child, and the model file is refused.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

from .errors import BrokenModelError, UnsafeModelError
from .hdf5 import Contents, scan
from .wording import reason

_LONGEST_LOOK = 30.0  # seconds; a sound file takes less than one, whatever its size: only headers are read

_CHILD = "import sys; sys.path[:] = sys.argv[1].split({sep!r}); from {module} import main; main(*sys.argv[2:])"


def look_into(path: Path, member: str | None = None, seconds: float = _LONGEST_LOOK) -> Contents:
    """What the HDF5 file at `path`, or the `member` of the zip at `path`, holds.

    Raises BrokenModelError where the HDF5 library cannot read it within `seconds`, and what hdf5.scan raises.
    """
    program = _CHILD.format(sep=os.pathsep, module=__name__)
    where = str(path) if member is None else f"{path}, member {member}"
    try:
        # Told the parent's sys.path, so that it imports the same kbn and h5py however these were found.
        done = subprocess.run(
            [sys.executable, "-c", program, os.pathsep.join(sys.path), os.fspath(path), member or ""],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BrokenModelError(
            f"{where}: the HDF5 library was still reading its headers after {seconds:g} seconds, as it does with a "
            f"damaged file. Copy or save the model again."
        ) from None
    if done.returncode == 1:  # Python's exit status for an exception: the child did not come as far as the file
        raise RuntimeError(f"the process that reads HDF5 files cannot start:\n{done.stderr.decode(errors='replace')}")
    if done.returncode != 0:
        raise BrokenModelError(
            f"{where}: the HDF5 library crashed while reading it (exit status {done.returncode}), as it does with a "
            f"damaged file. Copy or save the model again."
        )
    answer = json.loads(done.stdout)
    if "unsafe" in answer:
        raise UnsafeModelError(f"{where}: {answer['unsafe']}.")
    if "broken" in answer:
        raise BrokenModelError(f"{where}: {answer['broken']}.")
    return Contents(answer["elements"], answer["model_config"], tuple(answer["names"]))


def main(path: str, member: str) -> None:
    """The child: print one JSON object, the contents or the reason for refusing them."""
    _end_in_time()
    try:
        contents = _scan_file(path, member)
        answer = {"elements": contents.elements, "model_config": contents.model_config, "names": contents.names}
    except UnsafeModelError as refusal:
        answer = {"unsafe": str(refusal)}
    except BrokenModelError as refusal:
        answer = {"broken": str(refusal)}
    except Exception as error:  # h5py raises most of the built-in errors on damaged files
        found = reason(error)
        answer = {"broken": f"the HDF5 library cannot read it ({found}). It is damaged: copy or save the model again"}
    print(json.dumps(answer))


def _end_in_time() -> None:
    """Lets the system end this process, should the one that waits for it be killed, where it has such a limit."""
    try:
        import resource
    except ImportError:
        return
    seconds = math.ceil(2 * _LONGEST_LOOK)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))


def _scan_file(path: str, member: str) -> Contents:
    import io
    import zipfile

    import h5py

    if not member:
        with h5py.File(path, "r") as file:
            return scan(file, os.path.getsize(path))
    with zipfile.ZipFile(path) as archive:
        # In memory, because going back in a member means reading it again from its start.
        content = io.BytesIO(archive.read(member))
    with h5py.File(content, "r") as file:
        return scan(file, content.getbuffer().nbytes)
