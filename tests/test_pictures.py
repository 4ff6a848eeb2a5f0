"""The examples that draw pictures measure what they say, here in a small way: their tables, not just their files."""

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs a script as its command line would, in this process, which has TensorFlow already: what it prints."""
    monkeypatch.syspath_prepend(ROOT / "examples")

    def run(name, picture, *arguments):
        monkeypatch.setattr(sys, "argv", [name, str(tmp_path / "out"), *map(str, arguments)])
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
        (written,) = (tmp_path / "out").iterdir()
        assert written.name == picture
        with Image.open(written) as image:
            width, height = image.size
            assert 1000 <= width <= 1250
            assert 500 <= height <= 1000
            assert np.asarray(image.convert("L")).std() > 10
        return capsys.readouterr().out

    yield run
    sys.modules.pop("digits", None)


def numbers(line):
    return [float(each) for each in re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?", line)]


def rows(shown, *names):
    """Of the lines that begin with these words, the numbers behind them."""
    lines = [line.lstrip() for line in shown.splitlines()]
    return [numbers(line.removeprefix(name)) for line in lines for name in names if line.startswith(name)]


def test_the_papers_figure(run):
    shown = run("paper_figure_1.py", "paper-figure-1.png", "--steps", 500, "--every", 100, "--seeds", 1)
    with_it, without = rows(shown, "with ", "without ")
    accuracy, _, _, reached, shift, widens = with_it
    assert accuracy > 90 > without[0] + 20
    assert reached <= 500
    assert "never" in shown  # without it
    assert shift < 0.3 < without[-2]
    assert 0.5 < widens < 2.5


def test_the_sweep(run):
    chosen = ("--rates", 0.1, 1, "--scales", 0.03, 1, "--steps", 200, "--seeds", 1)
    shown = run("learning_rate_sweep.py", "learning-rate-sweep.png", *chosen)
    without, with_it = (rows(part, "0.03 ", "1 ") for part in shown.split("\nwith batch normalization"))
    assert np.array(without).shape == np.array(with_it).shape == (2, 2)
    assert np.min(with_it) > 90
    assert max(without[0]) < 30  # too small weights
    assert without[1][0] > 85  # He's, at the rate that suits them
    assert without[1][1] < 60
    assert "4 of 4 cells" in shown or "3 of 4 cells" in shown


def test_the_noise_of_batches(run):
    chosen = ("--sizes", 4, "--steps", 40, "--draws", 40, "--seeds", 1)
    shown = run("batch_size_noise.py", "batch-size-noise.png", *chosen)
    table = {int(row[0]): row[1:] for row in map(numbers, shown.splitlines()) if row and row[0] in (4, 256)}
    assert list(table) == [4, 256]
    for size, (mean, mean_theory, variance, variance_theory, output, ghost, output_theory, *_) in table.items():
        assert mean_theory == pytest.approx(size**-0.5, abs=1e-3)
        assert mean == pytest.approx(mean_theory, rel=0.25)
        assert variance == pytest.approx(variance_theory, rel=0.3)
        assert output == pytest.approx(output_theory, rel=0.2)
        assert ghost == pytest.approx(output_theory, rel=0.2)
    ghost_accuracy, plain_accuracy = ({size: row[place] for size, row in table.items()} for place in (7, 10))
    assert plain_accuracy[4] + 3 < ghost_accuracy[4] < ghost_accuracy[256]
    assert table[256][7:10] == table[256][10:13]  # one ghost batch is the batch


def test_the_cold_start(run):
    shown = run("cold_start.py", "cold-start.png", "--last", 66, "--seeds", 1)
    first, accuracies, distances = re.split(r"\n\n(?:Test accuracy at|Averages against)", shown)
    theirs, converted, recalibrated, undone = map(float, re.findall(r"([\d.]+) %", first))
    assert theirs == converted == undone
    assert recalibrated > max(93, theirs + 5)
    names = ("moving average, momentum 0.99", "the same, debiased", "mean of all batches", "recalibrated")
    plain, debiased, cumulative, recalibrated = rows(accuracies, *names)
    assert max(93, plain[-1] + 5) < min(debiased[-1], cumulative[-1], recalibrated[-1])
    plain, debiased, cumulative = rows(distances.partition("\n\n")[0], *names)
    assert len(plain) == len(debiased) == len(cumulative) == 7  # steps 1 to 66
    assert plain[-1] > 2 * max(debiased[-1], cumulative[-1])
    assert plain[0] > plain[-1]
