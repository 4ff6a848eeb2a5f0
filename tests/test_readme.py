"""What README says is true: its Python runs, its files are there, its bound and exit codes are the code's own."""

import re
from inspect import signature
from pathlib import Path

import numpy as np
import pytest

from kbn.export import errors, verdict
from kbn.export.cli import INTERNAL_ERROR
from kbn.export.commands.export_command import export
from kbn.export.commands.serve_command import serve
from serving import serving, write

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_runs_in_the_order_in_which_it_stands(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 5
    names: dict = {}
    for block in blocks:
        exec(block, names)
    assert "folded ('conv2d" in capsys.readouterr().out


def test_the_client_of_the_server_runs(tmp_path, capsys):
    (block,) = re.findall(r"```py\n(.*?)```", README, re.DOTALL)
    body = "(float[N, 8, 8, 1] image) => (float[N, 2] digit) { m = ReduceMean<keepdims=0>(image, i)  digit = Expand(m, two) }"
    path = write(tmp_path / "digits.onnx", body, i=np.array([1, 2]), two=np.array([1, 2]))
    with serving(path) as address:
        exec(block.replace("localhost:8080", f"127.0.0.1:{address.port}"), {})
    assert "[[0. 0.]]" in capsys.readouterr().out


def test_the_options_of_the_server_are_there():
    section = README.partition("## Serving")[2].partition("\n## ")[0]
    others = {
        "--no-cache-dir",
        "--system",
        "--data",
        "--head",
        "--include-dashboard",
        "--model-control-mode",
        "--ray",
    }  # of pip, ray, a benchmark
    shown = set(re.findall(r"--[a-z][a-z-]+", section)) - others
    assert {"--max-batch", "--token-file", "--max-replicas"} <= shown
    # A repository for Triton is written by the other command.
    parameters = {*signature(serve).parameters, *signature(export).parameters}
    options = {f"--{name.replace('_', '-')}" for name in parameters}
    assert shown <= options


def test_the_bound_is_the_codes_own():
    bound = f"E_file <= max({verdict.FACTOR:g} * E_model, {verdict.ATOL:g} + {verdict.RTOL:g} * m)"
    assert bound in README


@pytest.mark.parametrize(
    "error", [errors.CheckFailedError, errors.UsageError, errors.UnsupportedError, errors.UnsafeModelError]
)
def test_the_exit_codes_are_documented(error):
    assert f"| {error.exit_code} | " in README
    assert f"| {INTERNAL_ERROR}, 130 | " in README


def test_the_named_files_are_there():
    named = set(re.findall(r"`([\w/]+\.py)`", README))
    assert {"train_and_export.py", "batch_normalization.py"} <= named
    present = {path.name for path in ROOT.rglob("*") if ".venv" not in path.parts}
    assert {Path(name).name for name in named} <= present


def test_linked_files_are_there():
    linked = {link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", README) if not link.startswith("http")}
    assert {"docs/batch-normalization.md", "docs/batch-normalization.ko.md", "docs/cold-start.png"} <= linked
    assert not [link for link in linked if not (ROOT / link).is_file()]


def test_the_command_help_names_every_command():
    from kbn.export.cli import app

    commands = {command.callback.__name__ for command in app.registered_commands}
    assert commands == set(re.findall(r"^\| `kbn (\w+)", README, re.MULTILINE))
