"""The command `kbn`.

Tables go to stdout or, with --json, one JSON document does; progress and errors go to stderr. Keras and TensorFlow are
imported once a command has its arguments, so that help is quick.

    exit code   0 done   1 the check failed   2 usage   3 unsupported   4 unsafe or broken input   70 a fault in kbn
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kbn._version import __version__

from .errors import CheckFailedError, KbnError, UsageError
from .quiet import import_quietly

if TYPE_CHECKING:
    from .report import Report

INTERNAL_ERROR = 70  # EX_SOFTWARE of sysexits.h

app = typer.Typer(
    name="kbn",
    help="Fold batch normalization into the weights beside it, export to ONNX, and prove the file.",
    epilog="Exit codes: 0 done, 1 the check failed, 2 usage, 3 unsupported, 4 unsafe or broken input.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="A Keras model: .keras or .h5.", show_default=False)]
AnyModel = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A Keras model, .keras or .h5, or an ONNX file.", show_default=False)
]
Data = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Real inputs for the check: .npy, or .npz with an array per input.", show_default=False
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of the check's random inputs.")]
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


class _Interrupted(BaseException):
    """A signal asked to stop; no KeyboardInterrupt, which typer would end on without a word."""


def main() -> None:
    """Runs the command line and exits with its code; an error becomes one paragraph, never a traceback."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        app()
    except KbnError as error:
        _fail(str(error), error.exit_code, type(error).__name__)
    except _Interrupted:
        _fail("Interrupted; what was at the output path is unchanged.", 130, "Interrupted")
    except Exception as error:
        if os.environ.get("KBN_DEBUG"):
            traceback.print_exc()
        message = (
            f"This is a fault in kbn, not in your input: {type(error).__name__}: {error}. KBN_DEBUG=1 shows where."
        )
        _fail(" ".join(message.split()), INTERNAL_ERROR, type(error).__name__)


def _interrupt(_signal: int, _frame: Any) -> None:
    raise _Interrupted


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
def inspect(
    model: AnyModel,
    ones_channel: OnesChannel = True,
    custom_objects: CustomObjects = None,
    allow_unsafe: AllowUnsafe = False,
    as_json: Json = False,
    report_file: ReportFile = None,
    quiet: Quiet = False,
) -> None:
    """Show what is there and how each batch normalization would fold."""
    with _progress(quiet) as step:
        _check_outputs(report_file=report_file)
        _import_keras(step)
        from .any_model import inspect as inspect_model

        loaded = _load_any(model, custom_objects, allow_unsafe, step)
        report = inspect_model(loaded, ones_channel=ones_channel)
    _show(report, as_json, report_file)


@app.command()
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
    with _progress(quiet) as step:
        from .writing import output_file

        is_onnx = model.suffix.lower() == ".onnx"
        _check_outputs(output, ".onnx" if is_onnx else ".keras", force, report_file)
        _import_keras(step)
        from .any_model import fold as fold_model

        loaded = _load_any(model, custom_objects, allow_unsafe, step)
        step("fold")
        folded, report = fold_model(loaded, ones_channel=ones_channel)
        if is_onnx:
            from .onnx_comparison import compare

            step("compare")
            if untold := compare(loaded, folded):
                _note(f"Not compared with the original: {untold}.")
        step("write")
        with output_file(output, force=force) as temporary:
            if is_onnx:
                temporary.write_bytes(folded.SerializeToString())
            else:
                folded.save(temporary)
    _show(report, as_json, report_file)


@app.command()
def export(
    model: Model,
    output: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="Where the ONNX file goes.", show_default=False)],
    data: Data = None,
    opset: Annotated[int, typer.Option(help="ONNX operator set, 13 or newer.")] = 18,
    input_layout: Annotated[
        str | None, typer.Option(metavar="nchw|nhwc", help="Layout of image inputs; the model's own by default.")
    ] = None,
    ones_channel: OnesChannel = True,
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
    with _progress(quiet) as step:
        _check_outputs(output, ".onnx", force, report_file)
        arrays = _read_data(data)
        _import_keras(step)
        from .exporting import export as export_model

        try:
            report = export_model(
                model,
                output,
                input_layout=input_layout,
                opset=opset,
                data=arrays,
                ones_channel=ones_channel,
                force=force,
                keep_failed=keep_failed,
                seed=seed,
                custom_objects=_read_objects(custom_objects),
                allow_unsafe=allow_unsafe,
                progress=step,
            )
        except CheckFailedError as failure:
            _show(failure.report, as_json, report_file)  # type: ignore[arg-type]  # export gives its report
            _tell(str(failure))
            raise typer.Exit(failure.exit_code) from failure
    _show(report, as_json, report_file)
    if not as_json:
        typer.secho(f"PASSED  {output}", fg="green", bold=True)


@app.command()
def check(
    model: Model,
    onnx_file: Annotated[Path, typer.Argument(metavar="FILE.onnx", help="The file to prove.", show_default=False)],
    data: Data = None,
    layers: Annotated[bool, typer.Option("--layers", help="Show each layer, and the first one that drifts.")] = False,
    seed: Seed = 0,
    custom_objects: CustomObjects = None,
    allow_unsafe: AllowUnsafe = False,
    as_json: Json = False,
    report_file: ReportFile = None,
    quiet: Quiet = False,
) -> None:
    """Compare an ONNX file with the Keras model it was made from."""
    with _progress(quiet) as step:
        _check_outputs(report_file=report_file)
        arrays = _read_data(data)
        _import_keras(step)
        from .parity import check as check_file

        loaded = _load(model, custom_objects, allow_unsafe, step)
        step("check")
        report = check_file(loaded, onnx_file, arrays, seed=seed, layers=layers)
    _show(report, as_json, report_file)
    if not as_json:
        typer.secho("PASSED" if report.passed else "FAILED", fg="green" if report.passed else "red", bold=True)
    raise typer.Exit(0 if report.passed else 1)


def _import_keras(step: Callable[[str], None]) -> None:
    step("start TensorFlow")
    os.environ["KERAS_BACKEND"] = "tensorflow"  # the one backend that tf2onnx converts
    import_quietly("keras", "tensorflow", "tf2onnx")
    warnings.simplefilter("ignore")  # of TensorFlow and Keras to programmers; what a user must know, kbn says itself


def _check_outputs(
    output: Path | None = None, suffix: str = "", force: bool = False, report_file: Path | None = None
) -> None:
    """Refuses output paths that cannot be written, before any long work."""
    from .writing import check_output

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


def _load(model: Path, custom_objects: Path | None, allow_unsafe: bool, step: Callable[[str], None]) -> Any:
    """A Keras model."""
    from .archive import load_model

    step("load")
    return load_model(model, custom_objects=_read_objects(custom_objects), allow_unsafe=allow_unsafe)


def _load_any(model: Path, custom_objects: Path | None, allow_unsafe: bool, step: Callable[[str], None]) -> Any:
    """A Keras model, or an ONNX one."""
    if model.suffix.lower() != ".onnx":
        return _load(model, custom_objects, allow_unsafe, step)
    from .onnx_folding import load_onnx

    step("load")
    return load_onnx(model)


def _read_objects(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    from .data_file import read_objects

    return read_objects(path)


def _read_data(path: Path | None) -> Any:
    if path is None:
        return None
    from .data_file import read_arrays

    return read_arrays(path)


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str], None]]:
    """A function that tells the next step: beside a spinner on a terminal, else as a line."""
    from rich.console import Console

    console = Console(stderr=True, quiet=quiet)
    if not console.is_terminal:
        yield lambda step: console.print(f"{step} ...", style="dim")
        return
    with console.status("start") as status:
        yield lambda step: status.update(f"{step} ...")


def _show(report: Report, as_json: bool, report_file: Path | None) -> None:
    if report_file is not None:
        report.save(report_file)
    if as_json:
        typer.echo(report.to_json())
        return
    from rich.console import Console

    # A pipe has no width of its own; 80 columns would break the table apart.
    Console(width=None if sys.stdout.isatty() else 110).print(report)


def _note(message: str) -> None:
    typer.secho("Note: ", fg="yellow", nl=False, err=True)
    typer.echo(message, err=True)


def _tell(message: str) -> None:
    typer.secho("Error: ", fg="red", bold=True, nl=False, err=True)
    typer.echo(message, err=True)


def _fail(message: str, exit_code: int, kind: str) -> None:
    if "--json" in sys.argv:
        document = {"schema": "kbn.error/1", "error": kind, "message": message, "exit_code": exit_code}
        typer.echo(json.dumps(document, indent=2))
    _tell(message)
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
