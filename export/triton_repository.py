"""A model repository for the Triton Inference Server, with an ONNX file and the configuration by which Triton serves it.

    DIR/NAME/config.pbtxt       what goes in and out
    DIR/NAME/labels.txt         names of the classes, where the file has any
    DIR/NAME/1/model.onnx       the file, and the weights beside it; the next goes to 2/, and Triton serves the latest

Triton sees a model in one of two ways. With max_batch_size 0 the shapes are those of the file. Else the first axis of all
inputs and outputs is the batch, `dims` leave it out, and requests may be merged: that is right only where it is one and the
same axis, and the examples of a batch do not touch each other, which a run of two shows.
(triton-inference-server/server, docs/user_guide/model_configuration.md and model_repository.md)
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from .errors import UsageError
from .output_folder import check_folder, output_folder
from .serve.model import Model, load
from .serve.repository import MODEL_FILE, VERSION
from .serve.verifying import check_unchanged
from .serve.warming import warm_up
from .triton_config import LABELS_FILE, MAX_BATCH, config_of, has_labels
from .writing import check_output, output_file, unwritten

_CONFIG_FILE = "config.pbtxt"


@dataclass(frozen=True)
class TritonModel:
    """What was written.

    Attributes:
        path: the folder of the version.
        max_batch_size: examples that Triton may run together; 0 where it must not.
        reason: why it must not, else "".
    """

    path: Path
    max_batch_size: int
    reason: str

    def to_dict(self) -> dict[str, Any]:
        return {"path": str(self.path), "max_batch_size": self.max_batch_size, "reason": self.reason}


def write_triton(
    path: str | PathLike[str], folder: str | PathLike[str], *, name: str | None = None, force: bool = False
) -> TritonModel:
    """Writes an ONNX file into a Triton model repository: as a new model, or as the next version of one that is there.

    Args:
        path: the ONNX file; it and the weights beside it are copied.
        folder: the repository, which is made if it is missing.
        name: of the model; None takes the file's, without its suffix.
        force: replace the configuration, and the labels, of a model that is there and has others. The versions that are
            there are kept in any case.

    Raises:
        UsageError: the repository cannot be written to, a file cannot be copied, or the model there has another
            configuration.
        UnsupportedError: an input or output is none that Triton has.
        BrokenModelError, UnsafeModelError: the file is not sound, or changed while it was read.
    """
    path, folder = Path(path), Path(folder)
    name = path.stem if name is None else name
    check_triton(folder, name)
    model = load(path, threads=1)
    reason = _why_apart(model)
    files = {_CONFIG_FILE: config_of(name, model, batches=not reason)}
    if has_labels(model):
        files[LABELS_FILE] = "".join(f"{' '.join(label.split())}\n" for label in model.file.labels)
    home = folder / name
    if home.exists():
        version = _add_version(model, home, _changed(home, files, force), force)
    else:
        version = home / "1"
        _make(folder)
        with output_folder(home, folder) as temporary:
            for file, text in files.items():
                (temporary / file).write_text(text, encoding="utf-8")
            (temporary / version.name).mkdir()
            _copy(model, temporary / version.name)
    return TritonModel(version, 0 if reason else MAX_BATCH, reason)


def check_triton(folder: Path, name: str) -> None:
    """Raises now what `write_triton` would raise first, before long work begins."""
    if not name or name.startswith(".") or "/" in name:
        raise UsageError(f"{name!r} cannot be the name of a model in Triton's repository. Give the ONNX file another.")
    check_folder(folder)
    if folder.is_dir():
        check_folder(folder / name)


def _changed(home: Path, files: Mapping[str, str], force: bool) -> dict[str, str]:
    """Those that are missing or, with force, say otherwise; UsageError without it. All of them can be written."""
    changed = {file: text for file, text in files.items() if _text(home / file) != text}
    for file in changed:
        if os.path.lexists(home / file) and not force:
            raise UsageError(
                f"{home / file} is there and says otherwise than this file needs, or was edited; it is left as it is. Move it "
                "away and run again, which keeps the versions that are there, or use another name. "
                "kbn.export.write_triton(force=True) replaces it."
            )
        check_output(home / file, force)
    return changed


def _add_version(model: Model, home: Path, texts: Mapping[str, str], force: bool) -> Path:
    """The folder of the next version, which appears after all is written and is taken back if a text cannot be named."""
    version = _next_version(home)
    with ExitStack() as staged:
        # What comes last here is named first, and the configuration refers to the labels.
        for file in sorted(texts, key=lambda file: file != _CONFIG_FILE):
            temporary = staged.enter_context(output_file(home / file, force))
            try:
                temporary.write_text(texts[file], encoding="utf-8")
            except OSError as error:
                raise unwritten(error, home / file) from error
        with output_folder(version, home.parent) as unnamed:
            _copy(model, unnamed)
        try:
            staged.close()  # the texts take their names
        except BaseException:
            shutil.rmtree(version, ignore_errors=True)
            raise
    return version


def _make(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UsageError(f"The folder {folder} cannot be made: {error.strerror}. Write elsewhere.") from None


def _why_apart(model: Model) -> str:
    """The reason for which Triton must not merge requests, or ""."""
    values = [*model.session.get_inputs(), *model.session.get_outputs()]
    for port in (*model.inputs, *model.outputs):
        if not port.has_free_batch:
            return f"the first axis of {port.name!r} is fixed" if port.shape else f"{port.name!r} has no axis"
    symbols = {value.shape[0] for value in values if isinstance(value.shape[0], str)}
    if len(symbols) > 1:
        return f"the first axes differ: {', '.join(sorted(symbols))}"
    return warm_up(model, MAX_BATCH).why


def _copy(model: Model, folder: Path) -> None:
    """Raises BrokenModelError where what is copied is no longer what was verified and run."""
    if Path(MODEL_FILE) in map(Path, model.file.weights_sha256):
        raise UsageError(f"The weights of {model.path} lie in {MODEL_FILE}, which it is called itself in Triton.")
    shutil.copyfile(model.path, folder / MODEL_FILE)
    for name in model.file.weights_sha256:
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model.path.parent / name, place)
    check_unchanged(model.file, folder / MODEL_FILE)


def _next_version(home: Path) -> Path:
    try:
        there = [int(child.name) for child in home.iterdir() if VERSION.fullmatch(child.name)]
    except OSError as error:
        raise UsageError(f"The folder {home} cannot be read: {error.strerror}. Make it readable.") from None
    return home / str(max(there, default=0) + 1)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
