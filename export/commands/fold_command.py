"""`kbn fold MODEL OUT`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import AllowUnsafe, AnyModel, CustomObjects, Force, Json, OnesChannel, Quiet, ReportFile
from .running import check_outputs, import_keras, load_any, note, progress, show


def fold(
    model: AnyModel,
    output: Annotated[
        Path, typer.Argument(metavar="OUT", help="Where the folded model goes, of MODEL's kind.", show_default=False)
    ],
    force: Force = False,
    ones_channel: OnesChannel = True,
    custom_objects: CustomObjects = None,
    allow_unsafe: AllowUnsafe = False,
    as_json: Json = False,
    report_file: ReportFile = None,
    quiet: Quiet = False,
) -> None:
    """Write the folded Keras model, or the folded ONNX file."""
    with progress(quiet) as step:
        from ..writing import output_file

        is_onnx = model.suffix.lower() == ".onnx"
        check_outputs(output, ".onnx" if is_onnx else ".keras", force, report_file)
        import_keras(step)
        from ..any_model import fold as fold_model

        loaded = load_any(model, custom_objects, allow_unsafe, step)
        step("fold")
        folded, report = fold_model(loaded, ones_channel=ones_channel)
        if is_onnx:
            from ..onnx_comparison import compare

            step("compare")
            if untold := compare(loaded, folded):
                note(f"Not compared with the original: {untold}.")
        step("write")
        with output_file(output, force=force) as temporary:
            if is_onnx:
                temporary.write_bytes(folded.SerializeToString())
            else:
                folded.save(temporary)
    show(report, as_json, report_file)
