"""Mutated model files through the real commands: each is folded, checked, timed or refused, and nothing else happens.

    python benchmarks/mutated_files.py --kind onnx --count 5000 [--first 0] [--children 2]

A mutant that ends the process, or takes more than a minute, would end the test as well; so children work through the seeds
and say which one they are at. What counts as a finding: an exit code other than 0 to 4, a traceback, a crash, a minute, a
file at the output after an error, anything left elsewhere, more than 1 GiB of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

HERE = Path(__file__).parent
SECONDS = 60  # that a mutant may take in all its commands
_MEMORY = 2**30  # bytes that a mutant may add to the process
_START = 300  # seconds in which a child must have started TensorFlow


def findings(
    kind: str, first: int, count: int, seconds: float = SECONDS, planted: str = ""
) -> tuple[Counter[str], list[str]]:
    """How often each outcome came, and what went wrong, for the mutants of these seeds; one child at a time.

    planted: a module whose `fail(seed)` is called in place of what opens the file: the test of this very function.
    """
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    seed, end = first, first + count
    while seed < end:
        for seed, outcome, fault in _batch(kind, seed, end, seconds, planted):  # noqa: B020  # goes on where the child ended
            outcomes[outcome] += 1
            if fault:
                wrong.append(f"{kind} {seed}: {fault}")
                print(wrong[-1], file=sys.stderr, flush=True)
        seed += 1
    return outcomes, wrong


def _batch(kind: str, first: int, end: int, seconds: float, planted: str) -> Iterator[tuple[int, str, str]]:
    """What a child says of the seeds from `first` on; the last is one that it did not survive, or the last of all."""
    line = [sys.executable, str(HERE / "mutated_files.py"), "--child", kind, str(first), str(end), planted]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": os.pathsep.join(sys.path)}
    with tempfile.TemporaryDirectory() as folder, open(Path(folder) / "stderr", "w+b") as said:
        Path(folder, "work").mkdir()
        child = subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=said, cwd=Path(folder, "work"), env=environment, text=True
        )
        assert child.stdout is not None
        lines: queue.Queue[str] = queue.Queue()
        reader = threading.Thread(target=_pass_on, args=(child.stdout, lines), daemon=True)
        reader.start()
        at, doing, patience = first, "starting", float(_START)
        try:
            while at < end:
                told = lines.get(timeout=patience)
                if not told:
                    raise ChildProcessError
                value: dict[str, Any] = json.loads(told)
                at, patience = value["seed"], seconds
                if "outcome" in value:
                    yield at, value["outcome"], value["fault"]
                    at += 1
                else:
                    doing = value["doing"]
        except queue.Empty:
            yield at, "hang", f"still at {doing} after {patience:g} s"
        except ChildProcessError:
            code = child.wait()
            said.seek(0)
            yield at, "crash", f"the process ended with {code} at {doing}: {said.read()[-300:]!r}"
        finally:
            child.kill()
            child.wait()
            child.stdout.close()


def _pass_on(stream: TextIO, lines: queue.Queue[str]) -> None:
    for line in stream:
        lines.put(line)
    lines.put("")  # it ended


# ------------------------------------------------------------------------------------------------------------ the child


def work(kind: str, first: int, end: int, planted: str) -> None:
    """Works through the seeds in the current folder, which is empty, and prints a line of JSON before and after each."""
    import io
    from contextlib import redirect_stderr, redirect_stdout

    from file_mutations import mutant
    from sound_files import sound_file

    from kbn.export import cli
    from kbn.export.commands.running import import_keras

    if not planted:
        import_keras(lambda step: None)  # which is no mutant's time
    telling = os.fdopen(os.dup(1), "w", buffering=1)
    folder = Path.cwd()
    sound = sound_file(kind, folder)
    whole, path = sound.read_bytes(), folder / f"mutant.{kind}"
    present = {*os.listdir(folder), path.name}
    for seed in range(first, end):
        if planted:
            _plant(planted, seed)
        path.write_bytes(mutant(kind, whole, seed))
        outcomes, fault = [], ""
        before = _forget_peak()
        for line, output in _commands(kind, seed, sound, path)[-1 if planted else 0 :]:
            print(json.dumps({"seed": seed, "doing": line[0]}), file=telling)
            sys.argv = ["kbn", *map(str, line)]
            shown = io.StringIO()
            with redirect_stdout(shown), redirect_stderr(shown):
                try:
                    cli.main()
                    code: Any = 0
                except SystemExit as stopped:
                    code = stopped.code or 0
            outcomes.append(f"{line[0]} {code}")
            if code not in range(5):
                fault += f"{line[0]} exited with {code}: {shown.getvalue()[-600:]} "
            if "Traceback" in shown.getvalue():
                fault += f"{line[0]} showed a traceback: {shown.getvalue()[-600:]} "
            if output is not None:
                if output.exists() != (code == 0):
                    fault += (
                        f"{line[0]} exited with {code}, and the output is {'' if output.exists() else 'not '}there "
                    )
                output.unlink(missing_ok=True)
        if left := set(os.listdir(folder)) - present:
            fault += f"left {sorted(left)} "
            for name in left:
                shutil.rmtree(name) if Path(name).is_dir() else Path(name).unlink()
        if (grown := _memory("VmHWM") - before) > _MEMORY:
            fault += f"took {grown / 2**30:.1f} GiB "
        # A mutant is what its first command makes of it.
        print(json.dumps({"seed": seed, "outcome": outcomes[0], "fault": fault}), file=telling)


def _plant(planted: str, seed: int) -> None:
    """Lets `bench`, which needs no TensorFlow, fail as the module has it for this seed."""
    from importlib import import_module

    from kbn.export import bench_runner, onnx_opening

    genuine = onnx_opening.open_onnx

    def failing(path: Any, **options: Any) -> Any:
        import_module(planted).fail(seed)
        return genuine(path, **options)

    bench_runner.open_onnx = failing


def _forget_peak() -> int:
    """Lets the peak of the process' memory begin anew (proc(5), clear_refs); the bytes that it has now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(field: str) -> int:
    line = next(each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith(field))
    return int(line.split()[1]) * 1024


def _commands(kind: str, seed: int, sound: Path, path: Path) -> list[tuple[list[Any], Path | None]]:
    """The command lines for a mutant, each with its output."""
    out = path.with_name(f"out.{'onnx' if kind == 'onnx' else 'keras'}")
    fold: tuple[list[Any], Path | None] = (["fold", path, out, "-q"], out)
    if kind != "onnx":
        exported = path.with_name("out.onnx")
        return [fold, (["export", path, exported, "-q"], exported)] if seed % 10 == 0 else [fold]
    return [
        fold,
        (["check", sound, path, "-q"], None),
        (["check", path, path, "--layers", "-q"], None),
        (["bench", path, sound, "--rounds", "1", "-q"], None),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=["keras", "h5", "onnx"], required=True)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    arguments = parser.parse_args()
    outcomes, wrong = findings(arguments.kind, arguments.first, arguments.count)
    for outcome, times in outcomes.most_common():
        print(f"{times:7} {outcome}")
    print(f"{len(wrong)} findings")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        work(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
    else:
        main()
