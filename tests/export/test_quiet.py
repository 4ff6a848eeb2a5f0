"""TensorFlow's start-up lines are withheld, and shown where they explain a failure."""

import subprocess
import sys

MODULES = {
    "loud": "import os\nos.write(2, b'noise\\n')\n",
    "broken": "import os\nos.write(2, b'the reason\\n')\nraise ImportError('broken')\n",
}


def run(script, tmp_path):
    for name, content in MODULES.items():
        (tmp_path / f"{name}.py").write_text(content)
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from kbn.export.quiet import import_quietly; {script}"
    )
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def test_what_an_import_writes_to_stderr_is_withheld(tmp_path):
    done = run("import_quietly('loud'); print('after', file=sys.stderr)", tmp_path)
    assert (done.returncode, done.stderr) == (0, "after\n")


def test_it_is_shown_where_the_import_fails(tmp_path):
    done = run("import_quietly('loud', 'broken')", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("noise\nthe reason\n")
    assert "ImportError: broken" in done.stderr
