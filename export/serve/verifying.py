"""What is looked at in an ONNX file before onnxruntime opens it, and what the file says of itself."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from onnx.external_data_helper import ExternalDataInfo, _get_all_tensors, uses_external_data

from ..errors import BrokenModelError, UnsafeModelError, UsageError
from ..wording import quote, reason

_ADVICE = "Write it anew with its exporter."
CHECK_KEY = "kbn.check"
LABELS_KEY = "kbn.labels"


@dataclass(frozen=True)
class VerifiedFile:
    """An ONNX file that passed.

    Attributes:
        sha256: of the file, in hexadecimal; `weights_sha256` of each file beside it, by name.
        metadata: the file's own entries.
        checker: "passed", or what the ONNX checker found: it asks for more than runs.
        check: what was measured at export.
        scalars: the inputs that are declared without an axis.
        labels: names of the classes, or none.
    """

    path: Path
    sha256: str
    weights_sha256: dict[str, str]
    metadata: dict[str, str]
    checker: str
    check: ExportCheck
    scalars: frozenset[str] = frozenset()
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExportCheck:
    """What kbn measured when it exported the file: "passed", "failed", "never" or "unreadable", and the errors."""

    verdict: str
    errors: list[dict[str, Any]] = field(default_factory=list)

    def sentence(self) -> str:
        """One sentence for a log."""
        return {
            "passed": "The check at export passed.",
            "failed": "The check at export FAILED: the file does not compute what its model computes.",
            "never": "The file was never checked by kbn: kbn check MODEL FILE.onnx proves it.",
            "unreadable": f"The entry {CHECK_KEY} cannot be read: kbn check MODEL FILE.onnx proves the file anew.",
        }[self.verdict]


def verify(path: Path) -> VerifiedFile:
    """Reads a file and looks into it.

    Raises:
        UsageError: there is no such file, or it may not be read.
        BrokenModelError: it holds no ONNX model.
        UnsafeModelError: it takes weights from outside its folder.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"The model {str(path)!r} cannot be read: {error.strerror}. Check the path.") from None
    try:
        proto = onnx.ModelProto.FromString(content)
        if not proto.graph.node:
            raise ValueError("it has no node")
    except Exception as error:  # protobuf's own
        raise BrokenModelError(f"{path}: this is no ONNX model: {reason(error)}. {_ADVICE}") from None
    beside = check_external_data(proto, path)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    return VerifiedFile(
        path=path,
        sha256=hashlib.sha256(content).hexdigest(),
        weights_sha256={each.name: _sha256(each) for each in beside},
        metadata=metadata,
        checker=_run_checker(str(path) if beside else content),
        check=read_check(metadata.get(CHECK_KEY)),
        scalars=frozenset(value.name for value in proto.graph.input if _is_scalar(value.type.tensor_type)),
        labels=_read_labels(metadata.get(LABELS_KEY)),
    )


def check_unchanged(file: VerifiedFile) -> None:
    """Raises BrokenModelError where the file, or the weights beside it, are no longer those that were verified."""
    found = {name: _sha256(file.path.parent / name) for name in (file.path.name, *file.weights_sha256)}
    if found != {file.path.name: file.sha256, **file.weights_sha256}:
        raise BrokenModelError(f"{file.path} was changed while it was being loaded. Load it once it is whole.")


def check_external_data(proto: onnx.ModelProto, path: Path) -> list[Path]:
    """The files beside the model that its weights lie in.

    Raises:
        UnsafeModelError: one is named by a path rather than a name, or is a link or no file.
        BrokenModelError: one is missing or shorter than the model says.
    """
    found: dict[str, Path] = {}
    for tensor in _get_all_tensors(proto):
        if not uses_external_data(tensor):
            continue
        info = ExternalDataInfo(tensor)
        name = str(info.location)
        file = path.parent / name
        if not name or name != Path(name).name or "\\" in name or "\0" in name:
            raise UnsafeModelError(
                f"{path}: weight {quote(tensor.name)} is to be read from {quote(name)}, which is no file beside the model. Do "
                "not serve a file from a stranger that reads others."
            )
        if file.is_symlink() or (file.exists() and not file.is_file()):
            raise UnsafeModelError(
                f"{path}: the weights {quote(name)} are a link or no file. Put the file itself there."
            )
        if not file.exists():
            raise BrokenModelError(f"{path}: the weights {quote(name)} beside it are missing. Copy them, too.")
        if int(info.offset or 0) + int(info.length or 0) > file.stat().st_size:
            raise BrokenModelError(
                f"{path}: the weights {quote(name)} are shorter than the model says. Copy them anew."
            )
        found[name] = file
    return list(found.values())


def read_check(text: str | None) -> ExportCheck:
    """The entry that `kbn export` writes: by output and kind of inputs the errors of model and file, and what was allowed."""
    if text is None:
        return ExportCheck("never")
    try:
        errors: list[dict[str, Any]] = [
            {"output": str(output), "inputs": str(kind), **{key: float(found[key]) for key in _MEASURED}}
            for output, kinds in json.loads(text).items()
            for kind, found in kinds.items()
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return ExportCheck("unreadable")
    passed = bool(errors) and all(each["file_error"] <= each["allowed"] for each in errors)
    return ExportCheck("passed" if passed else "failed", errors)


_MEASURED = ("model_error", "file_error", "allowed")


def _is_scalar(declared: Any) -> bool:
    return declared.HasField("shape") and not declared.shape.dim


def _read_labels(text: str | None) -> tuple[str, ...]:
    try:
        labels = json.loads(text or "[]")
    except (ValueError, RecursionError):
        return ()
    return tuple(map(str, labels)) if isinstance(labels, list) else ()


def _run_checker(model: bytes | str) -> str:
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # its own, protobuf's
        return reason(error)
    return "passed"


def _sha256(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BrokenModelError(f"{path} cannot be read: {error.strerror}. Copy it anew.") from None
