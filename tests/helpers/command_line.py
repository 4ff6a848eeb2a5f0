"""The command `kbn` inside the process of a test, where TensorFlow has been started."""

import subprocess
import sys
import warnings

import pytest

from kbn.export.cli import main


def run_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object):
    """What `kbn ARGUMENTS` prints, and its exit code."""
    monkeypatch.setattr(sys, "argv", ["kbn", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped, warnings.catch_warnings():
        main()
    shown = capsys.readouterr()
    return subprocess.CompletedProcess(arguments, stopped.value.code or 0, shown.out, shown.err)
