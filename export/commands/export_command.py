"""`kbn export MODEL OUT.onnx`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..class_labels import read_labels
from ..errors import CheckFailedError
from .options import AllowUnsafe, CustomObjects, Data, Force, Json, Model, Quiet, ReportFile, Seed
from .parsing import parse_names, parse_shapes
from .running import check_outputs, import_keras, progress, read_data, read_objects, show, tell


def export(
    model: Model,
    output: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="Where the ONNX file goes.", show_default=False)],
    data: Data = None,
    opset: Annotated[int, typer.Option(help="ONNX operator set, 13 or newer.")] = 18,
    input_layout: Annotated[
        str | None, typer.Option(metavar="nchw|nhwc", help="Layout of image inputs; the model's own by default.")
    ] = None,
    input_shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SIZES",
            help="Fix or free sizes of an input: image=?,224,224,3. Repeatable.",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, max=1_000_000, help="Examples at a time; free by default.", show_default=False
        ),
    ] = None,
    rename_inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--rename-inputs", metavar="OLD=NEW", help="Another name for an input. Repeatable.", show_default=False
        ),
    ] = None,
    rename_outputs: Annotated[
        list[str] | None,
        typer.Option(
            "--rename-outputs", metavar="OLD=NEW", help="Another name for an output. Repeatable.", show_default=False
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Names of the classes, one a line, which kbn serve then tells.", show_default=False
        ),
    ] = None,
    float16: Annotated[
        bool, typer.Option("--float16", help="Also write OUT.float16.onnx, once OUT.onnx is proved.")
    ] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Also write OUT.int8.onnx, with the ranges that --data spans.")
    ] = False,
    triton: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Also write the proved file into this Triton model repository, as the next version of model OUT.",
            show_default=False,
        ),
    ] = None,
    ones_channel: Annotated[
        bool | None,
        typer.Option(
            "--ones-channel/--no-ones-channel",
            help="Whether a convolution may get one more channel, to do without a normalization before zero padding; yes, "
            "unless --int8.",
            show_default=False,
        ),
    ] = None,
    force: Force = False,
    keep_failed: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep a file that fails the check here.", show_default=False)
    ] = None,
    seed: Seed = 0,
    custom_objects: CustomObjects = None,
    allow_unsafe: AllowUnsafe = False,
    as_json: Json = False,
    report_file: ReportFile = None,
    quiet: Quiet = False,
) -> None:
    """Fold, convert to ONNX, check against the original in float64, write."""
    with progress(quiet) as step:
        check_outputs(output, ".onnx", force, report_file)
        names = None if labels is None else read_labels(labels)
        arrays = read_data(data, step)
        import_keras(step)
        from ..exporting import export as export_model

        try:
            report = export_model(
                model,
                output,
                input_layout=input_layout,
                input_shapes=parse_shapes(input_shape),
                batch=batch,
                rename_inputs=parse_names(rename_inputs),
                rename_outputs=parse_names(rename_outputs),
                labels=names,
                float16=float16,
                int8=int8,
                triton=triton,
                opset=opset,
                data=arrays,
                ones_channel=ones_channel,
                force=force,
                keep_failed=keep_failed,
                seed=seed,
                custom_objects=read_objects(custom_objects),
                allow_unsafe=allow_unsafe,
                progress=step,
            )
        except CheckFailedError as failure:
            if failure.report is None:
                raise
            show(failure.report, as_json, report_file)  # type: ignore[arg-type]  # export gives its report
            tell(str(failure))
            raise typer.Exit(failure.exit_code) from failure
    show(report, as_json, report_file)
    if not as_json:
        typer.secho(f"PASSED  {output}", fg="green", bold=True)
        if report.triton is not None:
            typer.echo(f"Triton  {report.triton.path}")
            if report.triton.reason:
                typer.echo(f"        Requests are not merged there: {report.triton.reason}.")
