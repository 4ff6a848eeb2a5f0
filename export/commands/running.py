"""What every command does: silence TensorFlow, open files, tell the next step, show the report."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import UsageError
from ..quiet import import_quietly
from ..wording import printable

if TYPE_CHECKING:
    from ..report import Report


def import_keras(step: Callable[[str], None]) -> None:
    step("start TensorFlow")
    os.environ["KERAS_BACKEND"] = "tensorflow"  # the one backend that tf2onnx converts
    import_quietly("keras", "tensorflow", "tf2onnx")
    warnings.simplefilter("ignore")  # of TensorFlow and Keras to programmers; what a user must know, kbn says itself


def check_outputs(
    output: Path | None = None, suffix: str = "", force: bool = False, report_file: Path | None = None
) -> None:
    """Refuses output paths that cannot be written, before any long work."""
    from ..writing import check_output

    if output is not None:
        if output.suffix != suffix:
            raise UsageError(
                f"The output {str(output)!r} must end in {suffix}, by which other programs know its format."
            )
        check_output(output, force)
    if report_file is not None:
        if report_file.suffix not in (".html", ".json"):
            raise UsageError(f"The report {str(report_file)!r} must end in .html (a page) or .json.")
        check_output(report_file, force=True)


def load(model: Path, custom_objects: Path | None, allow_unsafe: bool, step: Callable[[str], None]) -> Any:
    """A Keras model."""
    from ..archive import load_model

    step("load")
    return load_model(model, custom_objects=read_objects(custom_objects), allow_unsafe=allow_unsafe)


def load_any(model: Path, custom_objects: Path | None, allow_unsafe: bool, step: Callable[[str], None]) -> Any:
    """A Keras model, or an ONNX one."""
    if model.suffix.lower() != ".onnx":
        return load(model, custom_objects, allow_unsafe, step)
    from ..onnx_folding import load_onnx

    for_keras_alone(model, custom_objects, allow_unsafe)
    step("load")
    return load_onnx(model)


def for_keras_alone(model: Path, custom_objects: Path | None, allow_unsafe: bool) -> None:
    """Refuses options that an ONNX file has no use for, rather than leave them out in silence."""
    if custom_objects is not None or allow_unsafe:
        raise UsageError(
            f"{model} is an ONNX file, in which there is no Python: --custom-objects and --allow-unsafe are for Keras models. "
            "Leave them out."
        )


def read_objects(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    from .. import data_file

    return data_file.read_objects(path)


def read_data(path: Path | None, step: Callable[[str], None]) -> Any:
    """The arrays of a file, or a folder of images, each of which is looked at now."""
    if path is None:
        return None
    if path.is_dir():
        from ..image_folder import ImageFolder

        step("look through the images")
        folder = ImageFolder(path)
        if len(folder.paths) < folder.found:
            note(
                f"Of the {folder.found:,} images in {str(path)!r} kbn takes {len(folder.paths)}, at even distances in the "
                "order of their paths. For others, give a folder of those alone."
            )
        return folder
    from ..data_file import read_arrays

    return read_arrays(path)


@contextmanager
def progress(quiet: bool) -> Iterator[Callable[[str], None]]:
    """A function that tells the next step: beside a spinner on a terminal, else as a line."""
    from rich.console import Console

    console = Console(stderr=True, quiet=quiet)
    if not console.is_terminal:
        yield lambda step: console.print(f"{step} ...", style="dim")
        return
    with console.status("start") as status:
        yield lambda step: status.update(f"{step} ...")


def show(report: Report, as_json: bool, report_file: Path | None) -> None:
    if report_file is not None:
        report.save(report_file)
    if as_json:
        typer.echo(report.to_json())
        return
    report.print()


def note(message: str) -> None:
    typer.secho("Note: ", fg="yellow", nl=False, err=True)
    typer.echo(printable(message), err=True)


def tell(message: str) -> None:
    typer.secho("Error: ", fg="red", bold=True, nl=False, err=True)
    typer.echo(printable(message), err=True)
