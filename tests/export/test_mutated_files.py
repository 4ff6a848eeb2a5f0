"""Mutated model files by the hundred, through the commands: folded or refused, never a fault, a crash, a hang or half a file.

benchmarks/mutated_files.py runs as many as are wanted; KBN_MUTANTS=5000 does so here.
"""

import os

import pytest
from file_mutations import mutant
from mutated_files import findings
from sound_files import sound_file

COUNTS = {"keras": 14, "h5": 10, "onnx": 60}  # what takes a few seconds each beside the start of TensorFlow


@pytest.mark.slow
@pytest.mark.parametrize("kind", COUNTS)
def test_mutants_are_folded_or_refused(kind):
    count = int(os.environ.get("KBN_MUTANTS", COUNTS[kind]))
    outcomes, wrong = findings(kind, 0, count)
    assert wrong == []
    assert outcomes.total() == count
    # The mutations reach both what is refused at once and what lies behind.
    assert outcomes["fold 4"] > count / 10
    assert outcomes["fold 0"] > count / 20


@pytest.mark.parametrize("kind", COUNTS)
def test_a_seed_always_makes_the_same_mutant_and_another_another(kind, tmp_path):
    whole = sound_file(kind, tmp_path).read_bytes()
    first = [mutant(kind, whole, seed) for seed in range(20)]
    assert len(set(first)) > 15
    assert first.count(whole) < 5  # a run of zeros changes nothing where there were zeros
    if kind != "keras":  # a zip archive holds the time
        assert first == [mutant(kind, whole, seed) for seed in range(20)]


# What a planted fault does in place of reading the file.
FAULTS = {
    "a fault in kbn": ("raise ZeroDivisionError", "exited with 70"),
    "something left": ("Path('left').touch(); raise UsageError('x')", "left ['left']"),
    "memory": ("np.ones(10 * 2**24); raise UsageError('x')", "took 1."),
    "a crash": ("os.kill(os.getpid(), signal.SIGSEGV)", "the process ended with -11 at bench"),
    "a hang": ("time.sleep(60)", "still at bench after 15 s"),
}


@pytest.mark.slow
def test_each_kind_of_finding_is_found(tmp_path, monkeypatch):
    branches = "".join(f"    if seed == {seed}:\n        {code}\n" for seed, (code, _) in enumerate(FAULTS.values()))
    (tmp_path / "planted.py").write_text(
        "import os, signal, time\nfrom pathlib import Path\nimport numpy as np\n"
        "from kbn.export.errors import UsageError\n"
        f"def fail(seed):\n{branches}"
    )
    monkeypatch.syspath_prepend(tmp_path)
    outcomes, wrong = findings("onnx", 0, len(FAULTS), seconds=15, planted="planted")
    assert outcomes["crash"] == outcomes["hang"] == 1
    for seed, (found, (_, told)) in enumerate(zip(wrong, FAULTS.values(), strict=True)):
        assert found.startswith(f"onnx {seed}: ")
        assert told in found
