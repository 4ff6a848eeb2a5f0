"""How long ONNX files take in onnxruntime, side by side, and whether they compute the same.

Time on a shared machine drifts by more than one file is faster than another. So the files take turns: in round r every file
runs once, in an order drawn anew, and

    ratio of file f  =  median over r of  t(f, r) / t(first, r)

where whatever slows a whole round cancels. All files get the same numbers, matched by position. Neither Keras nor TensorFlow
is needed: this runs where the files will run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from os import PathLike
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from .bench_report import BenchReport, Difference, Machine, Setting, Spread, Timing, names_of
from .errors import BrokenModelError, UsageError
from .runtime import LAYOUT_KEY
from .wording import quote, reason

Array = NDArray[Any]

SIZE = 32  # of a free dimension other than the batch, where none is given
_DRAWN_BELOW = 10  # every vocabulary has these token ids
_FROM_MODEL = {"nchw": (0, 3, 1, 2), "nhwc": (0, 2, 3, 1)}  # from the Keras model's axes to the file's
_AS_IT_IS = (0, 1, 2, 3)


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
            mapping from the first file's input names (or x, or x0, x1, ...). Repeated or cut to the batch size.
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
    _check(files, threads, batch_sizes, rounds, warm_up, size)
    names = names_of(files)
    settings = []
    for count in dict.fromkeys(threads):
        for batch in dict.fromkeys(batch_sizes):
            progress(f"{count} thread{'s' if count > 1 else ''}, batch {batch}")
            runners = [_Runner(path, count) for path in files]
            arrays = _inputs(runners, batch, size, np.random.default_rng(seed), data)
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


@dataclass(frozen=True)
class _Port:
    """One input of a file: dimensions are numbers where fixed, names where named, else None."""

    name: str
    shape: tuple[int | str | None, ...]
    dtype: np.dtype[Any]


class _Runner:
    """One file in a session of its own."""

    def __init__(self, path: Path, threads: int) -> None:
        self.path = path
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 4  # what is fatal; all else comes back as an exception
        # The threads of the file that ran last would spin on the cores of the one that runs now, for up to a second.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        with self._told("Write it anew, and any file of weights beside it"):
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.ports = [_Port(each.name, tuple(each.shape), self._dtype(each)) for each in self._session.get_inputs()]
        self.output_names = [value.name for value in self._session.get_outputs()]
        layout = self._session.get_modelmeta().custom_metadata_map.get(LAYOUT_KEY, "")
        self.from_model = _FROM_MODEL.get(layout, _AS_IT_IS)
        self._feeds: dict[str, Array] = {}

    def axes_from(self, first: _Runner, index: int) -> tuple[int, ...]:
        """The order in which this file's input has the axes of the first file's.

        1. For images, the layouts that the metadata tell, then both files' axes as they are: the first of these in which
        the same axes are fixed, at the same sizes. 2. Images that would match so in the other layout, of which no metadata
        tell: refused, rather than guessed. 3. The first order of case 1 that is not contradicted.

        Raises:
            UsageError: none fits.
        """
        ours, theirs = self.ports[index].shape, first.ports[index].shape
        orders, untold = [tuple(range(len(theirs)))], False
        if len(theirs) == len(ours) == 4:
            orders.insert(0, tuple(first.from_model.index(axis) for axis in self.from_model))
            untold = any(_fits(_same, order, theirs, ours) for order in _FROM_MODEL.values())
        for match in [_same] if untold else [_same, _compatible]:
            for order in orders:
                if _fits(match, order, theirs, ours):
                    return order
        hint = ""
        if untold:
            hint = (
                f" Images that lie NHWC in one file and NCHW in the other are matched where the metadata have {LAYOUT_KEY}, "
                "which `kbn export --input-layout` writes."
            )
        raise UsageError(
            f"Input {index} of {self.path} takes {_shown(ours)}, where {first.path} takes {_shown(theirs)}. Files must take "
            f"the same inputs to be benched together.{hint}"
        )

    def feed(self, first: _Runner, arrays: Sequence[Array]) -> None:
        """Keeps the first file's inputs as this file takes them, so that a run converts nothing."""
        self._feeds = {}
        for index, (port, array) in enumerate(zip(self.ports, arrays, strict=True)):
            moved = array.transpose(self.axes_from(first, index))
            self._feeds[port.name] = _converted(moved, port, self.path)

    def run(self) -> list[Any]:
        """The outputs.

        Raises:
            BrokenModelError: the file fails.
        """
        with self._told(
            "If random inputs are not for it (numbers normal, integers 0 to 9), give it others with --data"
        ):
            return list(self._session.run(None, self._feeds))

    def nanoseconds(self) -> int:
        """The time of a run; the outputs are freed after it."""
        session, feeds = self._session, self._feeds
        start = perf_counter_ns()
        outputs = session.run(None, feeds)
        spent = perf_counter_ns() - start
        del outputs
        return spent

    def _dtype(self, value: Any) -> np.dtype[Any]:
        """onnxruntime calls an input tensor(float), tensor(int64), tensor(string), seq(...)."""
        held = re.fullmatch(r"tensor\((\w+)\)", value.type)
        word = held[1] if held else ""
        try:
            dtype = np.dtype({"float": "float32", "double": "float64"}.get(word, word or "?"))
        except TypeError:
            dtype = np.dtype(object)
        if not held or dtype.kind not in "fiub":
            raise UsageError(
                f"Input {quote(value.name)} of {self.path} takes {value.type}, of which kbn draws none. Bench a file whose "
                "inputs are numbers that numpy has."
            )
        return dtype

    @contextmanager
    def _told(self, advice: str) -> Iterator[None]:
        """Turns what onnxruntime raises, whose classes share no base but Exception, into one error."""
        try:
            yield
        except Exception as error:
            raise BrokenModelError(
                f"onnxruntime cannot run {quote(str(self.path))}: {reason(error)}. {advice}."
            ) from error


def _differences(runners: Sequence[_Runner]) -> list[tuple[Difference, ...]]:
    """Each file's outputs against the first's."""
    first = runners[0].run()
    found = []
    for runner in runners:
        outputs = first if runner is runners[0] else runner.run()
        names = max(runners[0].output_names, runner.output_names, key=len)
        pairs = zip(names, zip_longest(outputs, first), strict=True)
        found.append(tuple(Difference.between(name, ours, theirs) for name, (ours, theirs) in pairs))
    return found


def _take_turns(runners: Sequence[_Runner], rounds: int, warm_up: int, random: np.random.Generator) -> Array:
    """Nanoseconds, of shape (files, rounds)."""
    for _ in range(warm_up):
        for runner in runners:
            runner.run()
    spent = np.zeros((len(runners), rounds))
    for turn in range(rounds):
        for index in random.permutation(len(runners)):
            spent[index, turn] = runners[index].nanoseconds()
    return spent


def _inputs(runners: Sequence[_Runner], batch: int, size: int, random: np.random.Generator, data: Any) -> list[Array]:
    """An array for each input of the first file."""
    first = runners[0]
    for runner in runners[1:]:
        _check_kinds(first, runner)
    for runner in runners:
        _check_batch(runner, batch)
    shapes = _shapes(runners, batch, size)
    if data is not None:
        given = _by_position(data, first)
        return [_fitted(*each, first, batch) for each in zip(given, first.ports, shapes, strict=True)]
    arrays = []
    for port, shape in zip(first.ports, shapes, strict=True):
        limit = 2 if port.dtype.kind == "b" else _DRAWN_BELOW
        drawn: Array = random.normal(size=shape) if port.dtype.kind == "f" else random.integers(0, limit, shape)
        arrays.append(np.asarray(drawn).astype(port.dtype))
    return arrays


def _check_kinds(first: _Runner, other: _Runner) -> None:
    if len(other.ports) != len(first.ports):
        raise UsageError(
            f"{other.path} takes {len(other.ports)} inputs, where {first.path} takes {len(first.ports)}. Files must take the "
            "same inputs to be benched together."
        )
    for index, (ours, theirs) in enumerate(zip(other.ports, first.ports, strict=True)):
        # float16 for float32 and int32 for int64 is what is to be compared; an index for a number is another model.
        if {ours.dtype.kind, theirs.dtype.kind} not in ({"f"}, {"b"}, {"i"}, {"u"}, {"i", "u"}):
            raise UsageError(
                f"Input {index} of {other.path} holds {ours.dtype}, where {first.path} takes {theirs.dtype}. Files must take "
                "the same inputs to be benched together."
            )


def _check_batch(runner: _Runner, batch: int) -> None:
    """Refuses a file whose batch is fixed: no input has a free first axis, and the first that has one has another size."""
    sizes = [port.shape[0] for port in runner.ports if port.shape]
    if sizes and all(isinstance(fixed, int) for fixed in sizes) and sizes[0] != batch:
        raise UsageError(
            f"{runner.path} takes batches of exactly {sizes[0]}, where {batch} was asked for. Bench with batch {sizes[0]}, or "
            "export the file with a free batch."
        )


def _shapes(runners: Sequence[_Runner], batch: int, size: int) -> list[tuple[int, ...]]:
    """A size for each axis of the first file's inputs.

    1. One that any file fixes is that. 2. The first axis, one called `batch`, and one called like a first axis, is the batch
    size. 3. One called like an axis of case 1 is as long. 4. Any other is `size`.
    """
    first = runners[0]
    fixed = [[{value} if isinstance(value, int) else set() for value in port.shape] for port in first.ports]
    for runner in runners[1:]:
        for index, port in enumerate(runner.ports):
            for axis, value in zip(runner.axes_from(first, index), port.shape, strict=True):
                fixed[index][axis] |= {value} if isinstance(value, int) else set()
    named: dict[int | str | None, int] = {}
    for port, sizes in zip(first.ports, fixed, strict=True):
        for value, found in zip(port.shape, sizes, strict=True):
            if len(found) > 1:
                raise UsageError(
                    f"The files fix an axis of input {quote(port.name)} at different sizes, {sorted(found)}. Files must take "
                    "the same inputs to be benched together."
                )
            if found and isinstance(value, str):
                named.setdefault(value, *found)
    named |= {port.shape[0]: batch for port in first.ports if port.shape and isinstance(port.shape[0], str)}
    named |= {"batch": batch}
    return [
        tuple(
            next(iter(found), named.get(value) or (size if axis else batch))
            for axis, (value, found) in enumerate(zip(port.shape, sizes, strict=True))
        )
        for port, sizes in zip(first.ports, fixed, strict=True)
    ]


def _by_position(data: Any, first: _Runner) -> list[Array]:
    names = [port.name for port in first.ports]
    if isinstance(data, Mapping):
        for keys in (names, [f"x{index}" for index in range(len(names))], ["x"] if len(names) == 1 else []):
            if keys and all(key in data for key in keys):
                return [np.asarray(data[key]) for key in keys]
        raise UsageError(
            f"The data names {', '.join(map(quote, data)) or 'nothing'}, but the inputs of {first.path} are "
            f"{', '.join(map(quote, names))}; name an array for each (or x0, x1, ... in their order)."
        )
    if len(names) != 1:
        raise UsageError(
            f"The data is one array, but {first.path} has {len(names)} inputs: {', '.join(map(quote, names))}. Give a "
            ".npz file (a mapping) with an array for each."
        )
    return [np.asarray(data)]


def _fitted(array: Array, port: _Port, shape: tuple[int, ...], first: _Runner, batch: int) -> Array:
    """The array with as many examples as the batch, from the model's layout to the file's where that is another."""
    orders = [tuple(range(array.ndim))]
    if array.ndim == 4:
        orders.insert(0, first.from_model)
    for order in orders:
        moved = array.transpose(order)
        # The first axis counts examples, where the file does not use it for something else.
        counts = bool(port.shape) and shape[0] == batch and moved.ndim > 0
        wanted: list[Any] = [shape[axis] if isinstance(value, int) else None for axis, value in enumerate(port.shape)]
        sizes: list[Any] = list(moved.shape)
        if counts:
            wanted[0] = sizes[0] = None
        if len(sizes) == len(wanted) and all(map(_compatible, wanted, sizes)) and 0 not in moved.shape:
            taken = moved[np.arange(batch) % len(moved)] if counts else moved
            return _converted(taken, port, first.path)
    raise UsageError(
        f"The data for input {quote(port.name)} has shape {array.shape}, but {first.path} takes {_shown(port.shape)}, the "
        "first axis counting examples, at least one."
    )


def _converted(array: Array, port: _Port, path: Path) -> Array:
    """The array in the input's dtype, of which no number is changed but for the rounding of floats."""
    if array.dtype.kind not in "fiub":
        raise UsageError(f"The data for input {quote(port.name)} holds {array.dtype}, but {path} takes {port.dtype}.")
    with np.errstate(over="ignore", invalid="ignore"):  # what float16 cannot hold is infinite there, and shows as such
        converted = np.ascontiguousarray(array, port.dtype).reshape(array.shape)  # which makes a vector of a scalar
    if port.dtype.kind != "f" and not np.array_equal(converted, array):
        raise UsageError(
            f"The data for input {quote(port.name)} holds numbers that {port.dtype}, which {path} takes, has not."
        )
    return converted


def _fits(match: Callable[[Any, Any], bool], order: Sequence[int], theirs: Sequence[Any], ours: Sequence[Any]) -> bool:
    """Whether each axis of their shape, in this order, matches ours."""
    return len(theirs) == len(ours) and all(match(theirs[axis], size) for axis, size in zip(order, ours, strict=True))


def _same(ours: Any, theirs: Any) -> bool:
    """Whether two dimensions are both free, or fixed at the same size."""
    return ours == theirs if isinstance(ours, int) else not isinstance(theirs, int)


def _compatible(ours: Any, theirs: Any) -> bool:
    """Whether two dimensions are not fixed at different sizes."""
    return not (isinstance(ours, int) and isinstance(theirs, int)) or ours == theirs


def _shown(shape: Sequence[Any]) -> str:
    return "(" + ", ".join(str(value) if isinstance(value, int) else "any" for value in shape) + ")"
