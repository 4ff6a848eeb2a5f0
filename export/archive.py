"""Reading model files that came from anywhere.

    path ──is it a file of the kind its name says──> archive ──zip and HDF5 bounds──> configuration ──allowed objects──>
    Keras, safe mode, nothing compiled ──finite weights──> keras.Model

Keras sees a file only after everything before it has passed: what a file can do to whoever opens it is decided here.
The checks are in zip_archive.py (members), hdf5.py (links, sizes), config_scan.py (code, modules, paths), weights.py.
"""

import difflib
import hashlib
import os
import re
import stat
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from . import zip_archive
from .config_scan import check_config, read_json
from .errors import BrokenModelError, KbnError, UnsupportedError, UsageError
from .hdf5_process import look_into
from .weight_budget import weight_budget
from .weights import check_weights
from .wording import one_line, quote

if TYPE_CHECKING:
    import keras

__all__ = ["check_weights", "load_model", "sha256"]

_ZIP = b"PK\x03\x04"
_EMPTY_ZIP = b"PK\x05\x06"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_SUFFIXES = {".keras": "zip", ".h5": "hdf5", ".hdf5": "hdf5"}
_ADVICE = "Give a file written by model.save('name.keras')."
_UNTRAINED = "Skipping nested container"


def load_model(
    path: str | os.PathLike[str], *, custom_objects: Mapping[str, Any] | None = None, allow_unsafe: bool = False
) -> "keras.Model":
    """The Keras model in a `.keras` file, or in an `.h5`/`.hdf5` file of model.save(), uncompiled, its weights sound.

    path: a local file. It is scanned before Keras opens it; nothing in it is run, and no other file is read.
    custom_objects: classes and functions by the names the file uses for them, beside those registered with Keras.
    allow_unsafe: build Lambda layers and Python bytecode, TFSMLayer and TorchModuleWrapper, all of which run code of
        the file's author's choice. Nothing else: links, paths, addresses, foreign modules and bombs stay refused.

    While it runs, in whichever thread, creating layer weights is watched (weight_budget.py).

    Raises UsageError (no such file, a directory, a name that does not fit the content), BrokenModelError (empty,
    truncated, damaged, no model, weights that are not finite, negative variances), UnsafeModelError (code, links,
    paths, bombs), UnsupportedError (an unknown class, a SavedModel folder).
    """
    path = Path(path)
    if _kind(path) == "zip":
        text: bytes | str = zip_archive.read_config(path)
        contents = look_into(path, zip_archive.WEIGHTS)
    else:
        contents = look_into(path)
        text = _whole_model(path, contents.model_config, contents.names)
    config = read_json(str(path), text)
    check_config(str(path), config, custom_objects=custom_objects, allow_unsafe=allow_unsafe)
    with weight_budget(str(path), contents.elements):
        model = _open_with_keras(path, custom_objects, allow_unsafe)
    check_weights(model, str(path))
    return model


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal. Raises UsageError where there is no such file."""
    _check_is_file(Path(path))
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_is_file(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{path} does not exist. {_neighbours(path)}") from None
    except (OSError, ValueError) as error:  # no permission, a loop of links, a NUL in the name
        raise UsageError(f"{path} cannot be opened: {error}. Check the path and its permissions.") from None
    if stat.S_ISDIR(mode):
        if (path / "saved_model.pb").exists():
            raise UnsupportedError(
                f"{path} is a TensorFlow SavedModel folder, which holds a traced program and no layers to fold. Load "
                f"the model with the code that built it and save it with model.save('name.keras')."
            )
        raise UsageError(f"{path} is a directory. {_ADVICE}")
    if not stat.S_ISREG(mode):
        raise UsageError(f"{path} is a device, pipe or socket, not a file. {_ADVICE}")


def _neighbours(path: Path) -> str:
    """What to say about a missing file: the names in its folder that come close."""
    if not path.parent.is_dir():
        return f"Its folder {path.parent} does not exist either: check the path."
    files = sorted(item for item in path.parent.iterdir() if item.is_file())
    # By stem: every model ends in .keras, which says nothing about which one was meant.
    stems = difflib.get_close_matches(path.stem, {file.stem for file in files}, n=3)
    close = sorted((file.name for file in files if file.stem in stems), key=lambda name: stems.index(Path(name).stem))
    return (
        f"Did you mean {' or '.join(close[:3])}?"
        if close
        else f"Nothing of a similar name is in the folder {str(path.parent)!r}."
    )


def _kind(path: Path) -> str:
    """'zip' or 'hdf5': what the name says, which must be what the content says, since Keras goes by the name."""
    _check_is_file(path)
    if path.suffix == ".onnx":
        raise UsageError(f"{path} is an ONNX file; here a Keras model is wanted. {_ADVICE}")
    try:
        with open(path, "rb") as file:
            start = file.read(8)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}. Check its permissions.") from None
    if not start:
        raise BrokenModelError(f"{path} is empty: the copy or the download failed. Fetch it again.")
    found = "zip" if start.startswith((_ZIP, _EMPTY_ZIP)) else "hdf5" if start == _HDF5 else None
    expected = _SUFFIXES.get(path.suffix)
    if found is None:
        looks = " It looks like JSON: a configuration alone holds no weights." if start.lstrip()[:1] == b"{" else ""
        raise BrokenModelError(
            f"{path} is neither a .keras archive (zip) nor an HDF5 file; it begins with {start!r}.{looks} {_ADVICE}"
        )
    if found != expected:
        name, suffix = ("a .keras archive (zip)", ".keras") if found == "zip" else ("an HDF5 file", ".h5")
        raise UsageError(f"{path} is {name} by its content, but not by its name. Rename it to {path.stem}{suffix}.")
    return found


def _whole_model(path: Path, model_config: str | None, names: tuple[str, ...]) -> str:
    if model_config is None or "model_weights" not in names:
        raise BrokenModelError(
            f"{path} is an HDF5 file of weights only (it holds {', '.join(map(quote, names[:5])) or 'nothing'}), not a whole "
            f"model. Build the model, load these weights into it and save it with model.save('name.keras')."
        )
    return model_config


def _open_with_keras(path: Path, custom_objects: Mapping[str, Any] | None, allow_unsafe: bool) -> "keras.Model":
    import keras

    try:
        with _untrained_layers() as untrained:
            model = keras.saving.load_model(
                path, custom_objects=dict(custom_objects or {}), compile=False, safe_mode=not allow_unsafe
            )
    except KbnError:
        raise
    except Exception as error:  # Keras raises nearly every built-in error on files that do not fit it
        raise BrokenModelError(
            f"{path}: Keras {keras.__version__} cannot build the model: {_reason(error)}. If the file is whole, save "
            f"the model again with this version of Keras."
        ) from error
    if untrained:
        raise BrokenModelError(
            f"{path} holds no weights for some of the layers it describes ({one_line(untrained[0])}). Save the model again "
            f"with Keras {keras.__version__}."
        )
    if not isinstance(model, keras.Model):
        raise UnsupportedError(f"{path} holds a {type(model).__name__}, not a model. {_ADVICE}")
    return model


@contextmanager
def _untrained_layers() -> Iterator[list[str]]:
    """Collect the warnings with which Keras goes on with untrained weights; others are shown as ever."""
    collected: list[str] = []
    with warnings.catch_warnings():
        warnings.filterwarnings("always", message=_UNTRAINED)
        show = warnings.showwarning

        def note(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if str(message).startswith(_UNTRAINED):
                collected.append(str(message))
            else:
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = note
        yield collected


def _reason(error: Exception) -> str:
    """The words of Keras that say what is wrong, without the configuration it prints around them."""
    text = str(error)
    for lead in ("Exception encountered: ", "Example error message for object "):
        _, found, rest = text.rpartition(lead)
        text = rest if found else text
    text = re.split(r"Full object config|\n\s*config=|List of objects that could not|Arguments received by", text)[0]
    # Without its type, what a KeyError or TypeError says is no sentence.
    return one_line(text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}")
