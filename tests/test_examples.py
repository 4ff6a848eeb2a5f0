"""The scripts that people run do what they say."""

import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from serving import serving, write_rows

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def run(script, *arguments, cwd):
    line = [sys.executable, str(ROOT / script), *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=600, check=False, cwd=cwd)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


FILES = {"digits.keras", "digits.onnx", "digits_unfolded.onnx", "digits_test.npz", "report.json"}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    (folder / "demo").mkdir()
    for name in FILES:
        (folder / "demo" / name).write_bytes(b"of an earlier run")
    return folder, run("examples/train_and_export.py", cwd=folder)


def test_the_demo_reaches_98_percent_and_shows_every_table(demo):
    _, shown = demo
    (accuracy,) = re.findall(r"Test accuracy: ([\d.]+)%", shown)
    assert float(accuracy) >= 98.0
    for text in (
        "stem_bn",
        "5 batch normalizations: 5 folded",
        "Before and after",
        "Parity",
        "PASSED",
        "Unfolded against folded",
    ):
        assert text in shown
    assert re.search(r"digit\s+10\s+data\s.*100\.00%\s+passed", shown)
    assert "What next" in shown


def test_the_demo_replaces_the_files_of_an_earlier_run(demo):
    folder, _ = demo
    assert {path.name for path in (folder / "demo").iterdir()} == FILES
    assert not [path for path in (folder / "demo").iterdir() if path.read_bytes().startswith(b"of an earlier run")]
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(folder / "demo/digits.onnx").graph.node}


def test_a_model_of_keras_applications_is_exported(tmp_path):
    shown = run("examples/export_pretrained.py", "MobileNet", tmp_path, "--size", 128, cwd=tmp_path)
    assert "27 batch normalizations: 27 folded" in shown
    assert (tmp_path / "MobileNet.onnx").is_file()


def test_a_layer_of_ones_own_folds_by_its_rule(tmp_path):
    shown = run("examples/own_layer_rule.py", cwd=tmp_path)
    without, with_rule = shown.split("With it:")
    assert "2 batch normalizations: 2 kept" in without
    assert "register a rule for this class" in " ".join(without.split())
    assert "2 batch normalizations: 2 folded" in with_rule


def test_the_benchmarks_run(tmp_path):
    assert "geometric mean" in run(
        "benchmarks/layer_step.py", "--rounds", 1, "--small", "--only", "training", cwd=tmp_path
    )
    assert "times as large" in run("benchmarks/layer_step.py", "--only", "errors", cwd=tmp_path)
    assert "| BN, LSTM | folded | 2 | 2 |" in run("benchmarks/fold_coverage.py", "--only", "BN, LSTM", cwd=tmp_path)


def test_the_client_asks_a_server(tmp_path):
    with serving(write_rows(tmp_path / "rows.onnx"), token="0123456789abcdef") as address:
        shown = run("examples/ask_server.py", address.url, "--token", "0123456789abcdef", cwd=tmp_path)
    assert "rows, versions 1, check at export: never" in shown
    assert "y of shape (1, 3)" in shown


def test_the_benchmark_of_the_server_runs(tmp_path):
    shown = run("benchmarks/serving.py", "--only", "small", "--rounds", 1, "--seconds", 0.5, cwd=tmp_path)
    assert "Small CNN, 32 px, closed loop" in shown
    assert "Start and idle memory" in shown


def test_watching_writes_pages_and_pictures(tmp_path):
    shown = run("examples/watch_training.py", tmp_path / "shift", "--epochs", "1", cwd=tmp_path)
    assert shown.endswith("depth.png, drift.png, with.html, without.html\n")
    written = {path.name for path in (tmp_path / "shift").iterdir()}
    assert written == {"depth.png", "drift.png", "with.html", "without.html"}
