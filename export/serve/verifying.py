"""What is looked at in an ONNX file before onnxruntime opens it, and what the file says of itself."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from onnx.external_data_helper import ExternalDataInfo, _get_all_tensors, uses_external_data

from ..class_labels import LABELS_KEY
from ..errors import BrokenModelError
from ..onnx_opening import open_onnx
from ..wording import reason

_ADVICE = "Write it anew with its exporter."
CHECK_KEY = "kbn.check"
_CHUNK = 1 << 24  # bytes; behind each the interpreter is waited for, which imports meanwhile


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
            "never": "The file has no record of a check by kbn; kbn export alone writes one.",
            "unreadable": f"The record of the check, {CHECK_KEY}, cannot be read; kbn export writes it anew.",
        }[self.verdict]


def verify(path: Path) -> VerifiedFile:
    """Reads a file and looks into it.

    Raises:
        UsageError: there is no such file.
        BrokenModelError: it holds no ONNX model, or its weights are missing.
        UnsafeModelError: it takes weights from outside its folder.
    """
    proto = open_onnx(path, weights=False)
    if not proto.graph.node:
        raise BrokenModelError(f"{path}: this is no ONNX model: it has no node. {_ADVICE}")
    beside = sorted(
        {str(ExternalDataInfo(each).location) for each in _get_all_tensors(proto) if uses_external_data(each)}
    )
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    return VerifiedFile(
        path=path,
        sha256=_sha256(path),
        weights_sha256={name: _sha256(path.parent / name) for name in beside},
        metadata=metadata,
        checker=_run_checker(path),
        check=read_check(metadata.get(CHECK_KEY)),
        scalars=frozenset(value.name for value in proto.graph.input if _is_scalar(value.type.tensor_type)),
        labels=_read_labels(metadata.get(LABELS_KEY)),
    )


def check_unchanged(file: VerifiedFile, copy: Path | None = None) -> None:
    """Raises BrokenModelError where the file, or the weights beside it, are no longer those that were verified.

    copy: look at this copy of the file instead, and at the weights beside that.
    """
    path = copy or file.path
    found = {name: _sha256(path.parent / name) for name in (path.name, *file.weights_sha256)}
    if found != {path.name: file.sha256, **file.weights_sha256}:
        raise BrokenModelError(f"{file.path} was changed while it was being loaded. Load it once it is whole.")


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


def _run_checker(path: Path) -> str:
    try:
        onnx.checker.check_model(str(path))
    except Exception as error:  # its own, protobuf's
        return reason(error)
    return "passed"


def _sha256(path: Path) -> str:
    try:
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        return digest.hexdigest()
    except OSError as error:
        raise BrokenModelError(f"{path} cannot be read: {error.strerror}. Copy it anew.") from None
