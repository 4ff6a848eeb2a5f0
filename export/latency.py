"""How long ONNX files take in onnxruntime, side by side, and whether they compute the same.

Time on a shared machine drifts by more than one file is faster than another. So the files take turns: in round r every file
runs once, in an order drawn anew, and

    ratio of file f  =  median over r of  t(f, r) / t(first, r)

where whatever slows a whole round cancels. All files get the same numbers, matched by position. Neither Keras nor TensorFlow
is needed: this runs where the files will run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bench_inputs import inputs_of
from .bench_report import BenchReport, Difference, Machine, Setting, Spread, Timing, names_of
from .bench_runner import Runner
from .errors import UsageError
from .wording import quote

Array = NDArray[Any]

SIZE = 32  # of a free dimension other than the batch, where none is given


def bench(
    paths: str | PathLike[str] | Iterable[str | PathLike[str]],
    *,
    threads: Sequence[int] = (1,),
    batch_sizes: Sequence[int] = (1,),
    rounds: int = 50,
    warm_up: int = 5,
    data: Any = None,
    seed: int = 0,
    size: int | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> BenchReport:
    """Measures the latency of ONNX files, in turns, for each number of threads and each batch size.

    Args:
        paths: the files. Ratios and differences are to the first. All take the same inputs, matched by position; image
            inputs may lie NHWC in one file and NCHW in another that `kbn export --input-layout` wrote.
        threads: for onnxruntime to use inside an operator.
        batch_sizes: examples per run: what a free first axis, and every dimension named `batch` or like one, is set to.
        rounds: how often each file is timed per setting.
        warm_up: how often each file is run before that.
        data: arrays to feed in place of random ones, as the first file or its Keras model takes them: one array, or a
            mapping from the first file's input names (or x, or x0, x1, ...); or an `ImageFolder`. Repeated or cut to the
            batch size.
        seed: of the random inputs (floats normal, integers 0 to 9) and of the order within rounds.
        size: elements along each other free dimension; 32 by default. Without effect where `data` is given.
        progress: is told each setting as it begins.

    Returns:
        The report: medians and quartiles in milliseconds, ratios within rounds, differences of the outputs.

    Raises:
        UsageError: a file is missing, a number is below 1, the files take different inputs, a file's fixed batch is another
            than the one asked for, or the data does not fit.
        BrokenModelError: onnxruntime cannot load or run a file.
    """
    files = [Path(path) for path in ([paths] if isinstance(paths, str | PathLike) else paths)]
    size = SIZE if size is None else size
    if seed < 0:
        raise UsageError(f"The seed must be 0 or more; found {seed}.")
    _check(files, threads, batch_sizes, rounds, warm_up, size)
    names = names_of(files)
    settings = []
    for count in dict.fromkeys(threads):
        for batch in dict.fromkeys(batch_sizes):
            progress(f"{count} thread{'s' if count > 1 else ''}, batch {batch}")
            runners = [Runner(path, count) for path in files]
            arrays = inputs_of(runners, batch, size, np.random.default_rng(seed), data)
            for runner in runners:
                runner.feed(runners[0], arrays)
            differences = _differences(runners)
            nanoseconds = _take_turns(runners, rounds, warm_up, np.random.default_rng(seed))
            timings = tuple(
                Timing(name, Spread.of(spent / 1e6), Spread.of(spent / nanoseconds[0]), found)
                for name, spent, found in zip(names, nanoseconds, differences, strict=True)
            )
            ports = zip(runners[0].ports, arrays, strict=True)
            fed = tuple((port.name, str(array.dtype), array.shape) for port, array in ports)
            settings.append(Setting(count, batch, fed, timings))
    paths_by_name = dict(zip(names, files, strict=True))
    return BenchReport(paths_by_name, tuple(settings), rounds, warm_up, seed, size, data is not None, Machine.here())


def _check(
    files: list[Path], threads: Sequence[int], batch_sizes: Sequence[int], rounds: int, warm_up: int, size: int
) -> None:
    if not files:
        raise UsageError("There is no file to bench; give at least one ONNX file.")
    for path in files:
        if path.is_dir():
            raise UsageError(f"{quote(str(path))} is a folder; give the ONNX files in it.")
        if not path.is_file():
            raise UsageError(f"There is no ONNX file {quote(str(path))}.")
    for what, numbers in (("threads", threads), ("batch sizes", batch_sizes)):
        if not numbers:
            raise UsageError(f"There are no {what} to bench with; give at least one number.")
    for what, smallest, lowest in (
        ("threads", min(threads), 1),
        ("batch size", min(batch_sizes), 1),
        ("rounds", rounds, 1),
        ("warm-up", warm_up, 0),
        ("size", size, 1),
    ):
        if smallest < lowest:
            raise UsageError(f"The {what} must be {lowest} or more; found {smallest}.")


def _differences(runners: Sequence[Runner]) -> list[tuple[Difference, ...]]:
    """Each file's outputs against the first's."""
    first = runners[0].run()
    found = []
    for runner in runners:
        outputs = first if runner is runners[0] else runner.run()
        both = zip_longest(runners[0].output_names, runner.output_names, first, outputs)
        found.append(tuple(Difference.between(name or own, ours, theirs) for name, own, theirs, ours in both))
    return found


def _take_turns(runners: Sequence[Runner], rounds: int, warm_up: int, random: np.random.Generator) -> Array:
    """Nanoseconds, of shape (files, rounds)."""
    for _ in range(warm_up):
        for runner in runners:
            runner.run()
    spent = np.zeros((len(runners), rounds))
    for turn in range(rounds):
        for index in random.permutation(len(runners)):
            spent[index, turn] = runners[index].nanoseconds()
    return spent
