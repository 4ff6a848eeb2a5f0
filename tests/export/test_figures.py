"""Files of figures are what their suffix says, and take the place of the last one; any name can be written."""

import sys
import warnings

import pytest

from kbn.export.errors import UsageError
from kbn.export.figures import check_plot, empty_figure, name_rows, save_figure

HEADERS = {".png": b"\x89PNG\r\n\x1a\n", ".svg": b"<?xml"}


def make(names=("a",)):
    figure = empty_figure((3.0, 2.0))
    name_rows(figure.subplots(), names)
    return figure


@pytest.mark.parametrize("suffix", HEADERS)
def test_the_file_is_what_its_suffix_says_and_replaces_the_last_one(tmp_path, suffix):
    path = tmp_path / f"plot{suffix}"
    path.write_text("old")
    save_figure(make(), path)
    assert path.read_bytes().startswith(HEADERS[suffix])
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["$x_{$.onnx", "模型.onnx", "new\\line.onnx"])
def test_any_file_name_can_be_drawn(tmp_path, name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(make((name,)), tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(HEADERS[".png"])


def test_pyplot_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    save_figure(make(), tmp_path / "p.svg")
    assert (tmp_path / "p.svg").stat().st_size > 0


@pytest.mark.parametrize("name", ["p.pdf", "p", "none/p.png"])
def test_where_it_cannot_go(tmp_path, name):
    for act in (check_plot, lambda path: save_figure(make(), path)):
        with pytest.raises(UsageError, match=r"\.png or \.svg|does not exist"):
            act(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"needs matplotlib.*pip install 'kbn\[plot\]'"):
        check_plot(tmp_path / "p.png")
    assert list(tmp_path.iterdir()) == []
