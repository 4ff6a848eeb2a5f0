"""kbn.export: fold batch normalization, convert to ONNX, prove that the file computes what the model computed.

    fold(model)            the folded model, Keras or ONNX, and what was folded into what
    inspect(model)         the same report without building the folded model
    export(model, path)    fold, convert, check, write
    check(model, path)     does this ONNX file compute what this model, or this other file, computes?
    bench(paths)           how long ONNX files take in onnxruntime, side by side
    write_triton(path, folder)   an ONNX file into a model repository of the Triton Inference Server

Importing this package imports neither Keras nor TensorFlow: each name is loaded when it is first used (PEP 562). No
module here has the name of a public function.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .affine import Affine
    from .any_check import check
    from .any_model import fold, inspect
    from .audit_report import AuditPage
    from .bench_report import BenchReport
    from .check_report import CheckReport
    from .export_report import ExportReport
    from .exporting import export
    from .fold_report import FoldReport
    from .image_folder import ImageFolder
    from .latency import bench
    from .triton_repository import write_triton

_HOME = {
    "Affine": ".affine",
    "fold": ".any_model",
    "inspect": ".any_model",
    "FoldReport": ".fold_report",
    "AuditPage": ".audit_report",
    "check": ".any_check",
    "CheckReport": ".check_report",
    "export": ".exporting",
    "ExportReport": ".export_report",
    "bench": ".latency",
    "BenchReport": ".bench_report",
    "ImageFolder": ".image_folder",
    "write_triton": ".triton_repository",
}

__all__ = [
    "Affine",
    "AuditPage",
    "BenchReport",
    "CheckReport",
    "ExportReport",
    "FoldReport",
    "ImageFolder",
    "bench",
    "check",
    "export",
    "fold",
    "inspect",
    "write_triton",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'kbn.export' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(_HOME[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
