"""`check` of a file against whatever the original is: a Keras model, the file of one, or an ONNX file."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .check_report import CheckReport
from .errors import UsageError

if TYPE_CHECKING:
    import keras


def check(
    model: keras.Model | str | PathLike[str],
    onnx_path: str | PathLike[str],
    data: Any = None,
    *,
    seed: int = 0,
    layers: bool = False,
    save_inputs: str | PathLike[str] | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    allow_unsafe: bool = False,
) -> CheckReport:
    """Compares an ONNX file with the model it was made from.

    Args:
        model: the original: a Keras model, its file, or an ONNX file; for two ONNX files neither Keras nor TensorFlow is
            imported.
        onnx_path: the file. Inputs and outputs are matched by position.
        data: the user's own inputs beside the seeded ones: an array, a sequence of one per input, or a mapping by name; or an
            `ImageFolder`.
        seed: of the random inputs.
        layers: measure inside the file too, on the first inputs: the drift of each layer, and what rounding explains of it, by
            which the verdict goes as well; where the original is an ONNX file the drift of each tensor of the same name.
        save_inputs: a new folder, in which the inputs that are compared are kept as .npz files, each of which `data` takes.
        custom_objects, allow_unsafe: for opening a Keras file, as `kbn.export.archive.load_model` takes them.

    Returns:
        The report; its `passed` is the verdict.

    Raises:
        UsageError: a file is missing, the data does not fit, or the two have other inputs or outputs.
        UnsupportedError: the original cannot be run in float64.
        BrokenModelError: a file cannot be read, or onnxruntime cannot load or run it.
    """
    if hasattr(model, "SerializeToString"):
        raise UsageError(
            "The original is an onnx.ModelProto; give the path of its file, beside which its weights may lie."
        )
    if Path(onnx_path).suffix.lower() in (".keras", ".h5"):
        raise UsageError(f"{onnx_path} is a Keras file, and comes first: kbn check {onnx_path} FILE.onnx.")
    if isinstance(model, str | PathLike) and Path(model).suffix.lower() == ".onnx":
        from .onnx_parity import check_files

        return check_files(model, onnx_path, data, seed=seed, layers=layers, save_inputs=save_inputs)
    from .archive import load_model
    from .parity import check_model

    name = ""
    if isinstance(model, str | PathLike):
        name = str(model)
        model = load_model(model, custom_objects=custom_objects, allow_unsafe=allow_unsafe)
    report = check_model(model, onnx_path, data, seed=seed, layers=layers, save_inputs=save_inputs)
    report.model = name or report.model
    return report
