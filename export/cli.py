"""The command `kbn`.

Tables go to stdout or, with --json, one JSON document does; progress and errors go to stderr. Keras and TensorFlow are
imported once a command has its arguments, so that help is quick.

    exit code   0 done   1 check or audit failed   2 usage   3 unsupported   4 unsafe or broken input   70 a fault in kbn
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from typing import Annotated, Any

import typer

from kbn._version import __version__

from .commands.audit_command import audit
from .commands.bench_command import bench
from .commands.check_command import check
from .commands.export_command import export
from .commands.fold_command import fold
from .commands.inspect_command import inspect
from .commands.running import tell
from .commands.serve_command import serve
from .errors import KbnError

INTERNAL_ERROR = 70  # EX_SOFTWARE of sysexits.h

app = typer.Typer(
    name="kbn",
    help="Fold batch normalization into the weights beside it, export to ONNX, prove the file; audit what was trained.",
    epilog="Exit codes: 0 done, 1 the check failed, or the audit, 2 usage, 3 unsupported, 4 unsafe or broken input.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


for command in (inspect, audit, fold, export, check, bench, serve):
    app.command()(command)


class _Interrupted(BaseException):
    """A signal asked to stop; no KeyboardInterrupt, which typer would end on without a word."""


def main() -> None:
    """Runs the command line and exits with its code; an error becomes one paragraph, never a traceback."""
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _end if "serve" in sys.argv[1:2] else _interrupt)
    try:
        app()
    except KbnError as error:
        _fail(str(error), error.exit_code, type(error).__name__)
    except ModuleNotFoundError as missing:
        if (missing.name or "kbn").partition(".")[0] == "kbn":
            raise
        extra = "serve" if "serve" in sys.argv[1:2] else "export"
        _fail(
            f"This needs {missing.name}, which is not installed: pip install 'kbn[{extra}]'", 2, "ModuleNotFoundError"
        )
    except MemoryError as error:
        _fail(
            f"There is not enough memory: {error or 'an allocation failed'}. Ask for smaller sizes or batches.",
            2,
            "MemoryError",
        )
    except _Interrupted:
        _fail("Interrupted; an output that was not finished is as it was before.", 130, "Interrupted")
    except Exception as error:
        if os.environ.get("KBN_DEBUG"):
            traceback.print_exc()
        message = (
            f"This is a fault in kbn, not in your input: {type(error).__name__}: {error}. KBN_DEBUG=1 shows where."
        )
        _fail(" ".join(message.split()), INTERNAL_ERROR, type(error).__name__)


def _interrupt(_signal: int, _frame: Any) -> None:
    raise _Interrupted


def _end(_signal: int, _frame: Any) -> None:
    """What SIGTERM does to a server that has not begun to listen, or has ended: nothing is unfinished, and nobody waits."""
    os._exit(0)


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


def _fail(message: str, exit_code: int, kind: str) -> None:
    if "--json" in sys.argv:
        document = {"schema": "kbn.error/1", "error": kind, "message": message, "exit_code": exit_code}
        typer.echo(json.dumps(document, indent=2))
    tell(message)
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
