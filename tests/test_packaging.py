"""The built wheel and sdist hold the whole product, and the wheel runs where the checkout is not."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.version import Version

ROOT = Path(__file__).parents[1]
NOT_SOURCE = shutil.ignore_patterns(".*", "build", "dist", "demo", "*.egg-info", "__pycache__")

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | variables
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build(source: Path, into: Path, *kinds: str) -> dict[str, Path]:
    """Build `source` with this environment's setuptools where it is new enough for pyproject.toml, else a fetched one."""
    installed = {distribution.name for distribution in importlib.metadata.distributions()}
    enough = "setuptools" in installed and Version(importlib.metadata.version("setuptools")) >= Version("77")
    isolation = ["--no-isolation"] if enough else []
    run(sys.executable, "-m", "build", *isolation, *kinds, "--outdir", into, source, cwd=into)
    return {path.suffix: path for path in into.iterdir()}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy: building leaves its traces in the folder it builds, and picks up those of earlier builds."""
    return Path(shutil.copytree(ROOT, tmp_path_factory.mktemp("source") / "kbn", ignore=NOT_SOURCE))


@pytest.fixture(scope="module")
def sdist(checkout, tmp_path_factory) -> Path:
    return build(checkout, tmp_path_factory.mktemp("sdist"), "--sdist")[".gz"]


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory) -> Path:
    return build(checkout, tmp_path_factory.mktemp("wheel"), "--wheel")[".whl"]


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder that holds the wheel's files; everything else comes from this environment."""
    folder = tmp_path_factory.mktemp("site")
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", folder, wheel, cwd=folder)
    return folder


def files_of(wheel: Path) -> dict[str, bytes]:
    """Everything in a wheel but its RECORD."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/RECORD")}


def test_the_wheel_holds_every_module_and_nothing_else(wheel):
    modules = {str(Path("kbn") / path.relative_to(ROOT / "kbn")) for path in (ROOT / "kbn").rglob("*.py")}
    modules |= {str(Path("kbn/export") / path.relative_to(ROOT / "export")) for path in (ROOT / "export").rglob("*.py")}
    files = files_of(wheel)
    info = next(name for name in files if name.endswith(".dist-info/METADATA")).partition("/")[0]
    data = {name for name in files if not name.startswith(info) and not name.endswith(".py")}
    assert {name for name in files if name.endswith(".py")} == modules
    assert "kbn/py.typed" in data
    assert {"kbn/export/serve/page.html", "kbn/export/serve/page.js"} <= data
    assert files[f"{info}/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()
    assert b"kbn = kbn.export.__main__:main" in files[f"{info}/entry_points.txt"]


def test_the_sdist_builds_the_same_wheel(sdist, wheel, tmp_path):
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    (tmp_path / "wheel").mkdir()
    again = build(source, tmp_path / "wheel", "--wheel")[".whl"]
    assert again.name == wheel.name
    assert files_of(again) == files_of(wheel)


def test_the_wheel_runs_where_the_checkout_is_not(installed, tmp_path):
    program = (
        "import kbn, kbn.export, kbn.export.archive, kbn.export.writing, sys\n"
        "assert not {'keras', 'tensorflow'} & set(sys.modules)\n"
        "print(kbn.__file__, kbn.export.__file__, sep='\\n')\n"
    )
    shown = run(sys.executable, "-c", program, cwd=tmp_path, PYTHONPATH=str(installed)).splitlines()
    assert shown == [str(installed / "kbn" / "__init__.py"), str(installed / "kbn" / "export" / "__init__.py")]


def test_the_installed_layer_and_tool_work_together(installed, tmp_path):
    program = (
        "import keras, numpy, kbn\n"
        "from kbn.export.archive import load_model\n"
        "model = keras.Sequential([keras.Input((3,)), kbn.BatchNormalization(name='norm')])\n"
        "model.save('model.keras')\n"
        "assert type(load_model('model.keras').get_layer('norm')) is kbn.BatchNormalization\n"
        "print(kbn.__file__)\n"
    )
    shown = run(sys.executable, "-c", program, cwd=tmp_path, PYTHONPATH=str(installed)).splitlines()
    assert shown[-1] == str(installed / "kbn" / "__init__.py")


def test_the_command_runs_from_the_wheel(installed, tmp_path):
    shown = run(installed / "bin" / "kbn", "--help", cwd=tmp_path, PYTHONPATH=str(installed))
    for command in ("inspect", "fold", "export", "check", "serve"):
        assert command in shown


def test_the_wheel_says_what_it_is(wheel):
    version = {}
    exec((ROOT / "kbn" / "_version.py").read_text(), version)
    metadata = next(data for name, data in files_of(wheel).items() if name.endswith("/METADATA")).decode()
    assert f"\nVersion: {version['__version__']}\n" in metadata
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    assert "\nRequires-Python: >=3.11\n" in metadata
