"""The page on batch normalization: its Python runs, its two languages say the same, its links lead somewhere."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest

DOCS = Path(__file__).parents[1] / "docs"
NAMES = ("batch-normalization.md", "batch-normalization.ko.md")
PAGES = {name: (DOCS / name).read_text(encoding="utf-8") for name in NAMES}


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_the_python_runs_in_the_order_in_which_it_stands(tmp_path, monkeypatch, capsys):
    # Of both pages: but for comments, they have the same, as another test sees.
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks(PAGES[NAMES[0]], "python"):
        exec(block, names)
    assert {path.name for path in tmp_path.iterdir()} == {"drift-by-depth.png", "shift.html", "digits.onnx"}
    shown = capsys.readouterr().out
    assert "[  1.  -23.5] [  1.  -23.5]" in shown
    assert shown.endswith("True\n")  # the file is proved
    # What the comments beside the fold say.
    for variable, told in (
        ("s", [0.75, 4.0]),
        ("t", [-0.5, 4.5]),
        ("folded_W", [[1.5, -4.0], [0.375, 12.0]]),
        ("folded_b", [0.25, 4.5]),
    ):
        assert np.allclose(names[variable], told, rtol=1e-12)


def test_both_languages_have_the_same_code_equations_pictures_and_numbers():
    english, korean = PAGES.values()
    programs = [[ast.dump(ast.parse(block)) for block in blocks(text, "python")] for text in (english, korean)]
    assert programs[0] == programs[1]
    assert len(programs[0]) == 8
    assert blocks(english, "console") == blocks(korean, "console")
    for pattern, least in ((r"^\$\$.*\$\$$", 10), (r"^!\[.*\]\((.*)\)", 5), (r"\]\((http.*?)\)", 8), (r"^## (\d)", 7)):
        found = [re.findall(pattern, text, re.MULTILINE) for text in (english, korean)]
        assert found[0] == found[1]
        assert len(found[0]) >= least
    # Results in the prose have a decimal, or are of the table.
    measured = [
        re.findall(r"\d+\.\d+ ?%|\d\.\d{3}(?!\d)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
        for text in PAGES.values()
    ]
    assert sorted(measured[0]) == sorted(measured[1])
    assert len(measured[0]) > 12


@pytest.mark.parametrize("name", NAMES)
def test_linked_files_exist(name):
    linked = [link.partition("#") for link in re.findall(r"\]\(([^)]*)\)", PAGES[name]) if not link.startswith("http")]
    assert {"shift-by-depth.png", "paper-figure-1.png", *NAMES} - {name} <= {path for path, _, _ in linked}
    for path, _, anchor in linked:
        assert (DOCS / path).exists(), path
        if anchor:
            heads = re.findall(r"^#+ (.*)", (DOCS / path).read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {head.lower().replace(" ", "-") for head in heads}


def test_equations_are_as_github_draws_them():
    within = []
    for name, text in PAGES.items():
        text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
        shown = re.findall(r"^\$\$(.*)\$\$$", text, re.MULTILINE)
        assert text.count("$$") == 2 * len(shown)  # each on a line of its own
        text = re.sub(r"^\$\$.*", "", text, flags=re.MULTILINE)
        # Hangul may follow an equation directly, which GitHub takes for one with backticks only.
        inline = re.findall(r"\$`([^`]+)`\$" if ".ko." in name else r"\$([^$`\n]+)\$", text)
        assert text.count("$") == 2 * len(inline)
        for equation in (*shown, *inline):
            assert equation.count("{") == equation.count("}")
            assert not re.search(r"\\[^a-zA-Z]", equation)  # Markdown would take the backslash away
            assert equation == equation.strip()
        within.append(set(inline))
    assert within[0] == within[1]
