"""`kbn check MODEL FILE.onnx`, `kbn check A.onnx B.onnx`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError
from .options import AllowUnsafe, CustomObjects, Data, Json, Quiet, ReportFile, Seed
from .running import check_outputs, for_keras_alone, import_keras, load, note, progress, read_data, show


def check(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="The original: a Keras model, .keras or .h5, or an ONNX file.",
            show_default=False,
        ),
    ],
    onnx_file: Annotated[Path, typer.Argument(metavar="FILE.onnx", help="The file to prove.", show_default=False)],
    data: Data = None,
    layers: Annotated[
        bool,
        typer.Option(
            "--layers",
            help="Show each layer, and the first one that drifts; of two ONNX files, each tensor of the same name.",
        ),
    ] = False,
    seed: Seed = 0,
    save_inputs: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Keep what is compared: .npz files, each fit for --data.", show_default=False
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With --layers: draw them, as .png or .svg.", show_default=False),
    ] = None,
    custom_objects: CustomObjects = None,
    allow_unsafe: AllowUnsafe = False,
    as_json: Json = False,
    report_file: ReportFile = None,
    quiet: Quiet = False,
) -> None:
    """Compare an ONNX file with the Keras model, or the ONNX file, it was made from."""
    with progress(quiet) as step:
        check_outputs(report_file=report_file)
        if plot is not None:
            from ..figures import check_plot

            if not layers:
                raise UsageError("--plot draws what --layers measures; give both.")
            check_plot(plot)
        if save_inputs is not None:
            from ..saved_inputs import check_folder

            check_folder(save_inputs)
        arrays = read_data(data, step)
        original: Any = model if model.suffix.lower() == ".onnx" else None
        if original is None:
            import_keras(step)
            original = load(model, custom_objects, allow_unsafe, step)
        else:
            for_keras_alone(model, custom_objects, allow_unsafe)
        from ..any_check import check as check_file

        step("check")
        report = check_file(original, onnx_file, arrays, seed=seed, layers=layers, save_inputs=save_inputs)
        report.model = str(model)
    show(report, as_json, report_file)
    if plot is not None and not report.layers:
        note(f"No plot was written to {plot}: the check found no layer in the file.")
    elif plot is not None:
        from ..drift_plot import drift_plot
        from ..figures import save_figure

        save_figure(drift_plot(report), plot)
    if not as_json:
        typer.secho("PASSED" if report.passed else "FAILED", fg="green" if report.passed else "red", bold=True)
    raise typer.Exit(0 if report.passed else 1)
