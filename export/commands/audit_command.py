"""`kbn audit MODEL --data PATH`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import AllowUnsafe, CustomObjects, Json, Model, Quiet, ReportFile
from .running import check_outputs, import_keras, load, progress, read_data, show


def audit(
    model: Model,
    data: Annotated[
        Path,
        typer.Option(
            metavar="PATH",
            help="Training data, or data like it: .npy, .npz with an array per input, or a folder of images, whose pixels go "
            "in as 0 to 255.",
            show_default=False,
        ),
    ],
    batch_size: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Examples in a batch while training.", show_default=False),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Training steps that the averages have seen.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the order of the examples.")] = 0,
    custom_objects: CustomObjects = None,
    allow_unsafe: AllowUnsafe = False,
    as_json: Json = False,
    report_file: ReportFile = None,
    quiet: Quiet = False,
) -> None:
    """Look for what is wrong with a model's batch normalizations: modes, stale averages, noise, dead channels."""
    with progress(quiet) as step:
        check_outputs(report_file=report_file)
        arrays = read_data(data, step)
        import_keras(step)
        loaded = load(model, custom_objects, allow_unsafe, step)
        from ..auditing import audit as audit_model

        step("audit")
        report = audit_model(loaded, arrays, batch_size=batch_size, steps=steps, seed=seed)
        report.model = str(model)
    show(report, as_json, report_file)
    if not as_json:
        typer.secho("PASSED" if report.passed else "FAILED", fg="green" if report.passed else "red", bold=True)
    raise typer.Exit(0 if report.passed else 1)
