"""The options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="A Keras model: .keras or .h5.", show_default=False)]
AnyModel = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A Keras model, .keras or .h5, or an ONNX file.", show_default=False)
]
Data = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="Real inputs for the check: .npy, .npz with an array per input, or a folder of images, whose pixels go in as 0 "
        "to 255 (a model that takes other numbers needs .npy).",
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the check's random inputs.")]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace the output if it exists.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
ReportFile = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE", help="Also save the report: .html, a page, or .json.", show_default=False),
]
CustomObjects = Annotated[
    Path | None,
    typer.Option(metavar="FILE.py", help="Run this file for the custom layers that MODEL holds.", show_default=False),
]
AllowUnsafe = Annotated[
    bool, typer.Option("--allow-unsafe", help="Build Lambda and other layers that run code of MODEL's author.")
]
OnesChannel = Annotated[
    bool,
    typer.Option(
        "--ones-channel/--no-ones-channel",
        help="Whether a convolution may get one more channel, to do without a normalization before zero padding.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
