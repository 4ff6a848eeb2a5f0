"""What imports what: serving and `kbn --help` stay free of Keras and TensorFlow, and the packages keep their order."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"jax", "keras", "tensorflow", "tf2onnx", "torch"}


def modules_after(code: str) -> set[str]:
    """The top-level packages that a fresh interpreter has imported once it has run `code`."""
    program = (
        "import json, sys\n"
        "try:\n"
        f"    exec({code!r}, {{}})\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "print('\\n' + json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))\n"
    )
    # Of Keras' backends numpy takes the least time to import.
    environment = os.environ | {"KERAS_BACKEND": "numpy"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(level, module) of every import statement in a file, wherever it stands; level 0 is absolute."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # `from . import folding` names the module on the right, `from .folding import fold` on the left.
            yield from ((node.level, node.module or alias.name) for alias in node.names)


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize(
    "code",
    [
        "import kbn",
        "import kbn.export",
        "import kbn; kbn.__version__; dir(kbn); kbn.export; dir(kbn.diagnostics)",
        "import kbn.export; dir(kbn.export)",
        "import kbn; kbn.diagnostics; dir(kbn.diagnostics)",
        "import kbn.diagnostics; kbn.diagnostics.ShiftRecord",
        "import kbn.diagnostics.plots, kbn.diagnostics.page",
        "import kbn.export.archive, kbn.export.writing, kbn.export.errors",
        "import kbn.export.latency",
        "import kbn.export; kbn.export.bench",
        "import kbn.export; kbn.export.check, kbn.export.CheckReport; import kbn.export.onnx_parity",
        "import kbn.export.serve.server, kbn.export.serve.plain_input; from PIL import Image",
        "import sys; sys.argv = ['kbn', 'serve', '--help']; from kbn.export.cli import main; main()",
        "import sys; sys.argv = ['kbn', '--help']; from kbn.export.cli import main; main()",
    ],
)
def test_nothing_heavy_is_imported(code):
    assert not modules_after(code) & HEAVY


def test_matplotlib_is_imported_for_a_plot_alone():
    assert "matplotlib" not in modules_after("import kbn.diagnostics.plots, kbn.diagnostics.page")


def test_ray_is_imported_once_there_is_something_to_deploy():
    code = "import kbn.export.cli, kbn.export.serve.server, kbn.export.serve.ray_engine"
    assert "ray" not in modules_after(code)


def test_triton_repositories_need_no_server():
    assert not modules_after("import kbn.export.triton_repository") & {"starlette", "uvicorn", "orjson", *HEAVY}


def test_the_helper_sees_what_is_imported():
    assert {"kbn", "keras"} <= modules_after("import kbn; kbn.BatchNormalization")
    assert "keras" in modules_after("import sys, keras; sys.exit()")
    assert "colorsys" in modules_after("def f():\n    import colorsys\nf()")


def test_the_layer_is_registered_whichever_is_imported_first():
    check = "assert keras.saving.get_registered_object('kbn>BatchNormalization') is kbn.BatchNormalization"
    modules_after(f"import kbn, keras; {check}")
    modules_after(f"import keras, kbn; {check}")


@pytest.mark.parametrize("path", sources("kbn"), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_layer_does_not_import_the_tool(path):
    for level, module in imports(path):
        names = module.split(".")
        assert "export" not in (names[:1] if level else names[:2])


@pytest.mark.parametrize("path", sources("export"), ids=lambda path: str(path.relative_to(ROOT)))
def test_inside_the_tool_imports_are_relative(path):
    for level, module in imports(path):
        assert level or module.split(".")[:2] not in (["kbn", "export"], ["export"])


@pytest.mark.parametrize("path", sources("export/rules"), ids=lambda path: path.name)
def test_rules_do_not_import_the_engine(path):
    for level, module in imports(path):
        assert not level or module.split(".")[0] not in ("folding", "planning", "exporting")


@pytest.mark.parametrize("path", sources("export/serve"), ids=lambda path: path.name)
def test_the_server_takes_little_of_the_tool(path):
    shared = {"class_labels", "errors", "onnx_opening", "pixels", "sessions", "wording"}
    assert {module for level, module in imports(path) if level == 2} <= shared


def test_the_scan_of_imports_sees_each_form(tmp_path):
    path = tmp_path / "module.py"
    path.write_text("import a.b as c, d\nfrom e.f import g\ndef h():\n    from . import i\n    from ..j.k import l\n")
    assert sorted(imports(path)) == [(0, "a.b"), (0, "d"), (0, "e.f"), (1, "i"), (2, "j.k")]


def test_no_module_has_the_name_of_a_public_function():
    # Importing kbn.export.fold, were it a module, would replace the function of that name.
    public = {"fold", "inspect", "export", "check", "bench"}
    assert not public & {path.stem for path in (ROOT / "export").iterdir()}
    assert not {"audit"} & {path.stem for path in (ROOT / "kbn" / "diagnostics").iterdir()}
