"""One ONNX file of a bench: a session of its own, and how its inputs lie beside the first file's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from numpy.typing import NDArray

from .errors import BrokenModelError
from .file_inputs import FileInputs, converted
from .onnx_opening import open_onnx
from .sessions import session
from .wording import quote, reason

Array = NDArray[Any]


class Runner:
    """One file in a session of its own."""

    def __init__(self, path: Path, threads: int) -> None:
        self.path = path
        open_onnx(path, weights=False)
        with self._told("Write it anew, and any file of weights beside it"):
            # The threads of the file that ran last would spin on the cores of the one that runs now, for up to a second.
            self._session = session(path, threads=threads, entries={"session.force_spinning_stop": "1"})
        self.inputs = FileInputs.of(self._session, path)
        self.ports, self.from_model = self.inputs.ports, self.inputs.from_model
        self.output_names = [value.name for value in self._session.get_outputs()]
        self._feeds: dict[str, Array] = {}

    def feed(self, first: Runner, arrays: Sequence[Array]) -> None:
        """Keeps the first file's inputs as this file takes them, so that a run converts nothing."""
        self._feeds = {}
        for index, (port, array) in enumerate(zip(self.ports, arrays, strict=True)):
            moved = array.transpose(self.inputs.axes_from(first.inputs, index))
            self._feeds[port.name] = converted(moved, port, self.path)

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
        run, feeds = self._session.run, self._feeds
        start = perf_counter_ns()
        outputs = run(None, feeds)
        spent = perf_counter_ns() - start
        del outputs
        return spent

    @contextmanager
    def _told(self, advice: str) -> Iterator[None]:
        """Turns what onnxruntime raises, whose classes share no base but Exception, into one error."""
        try:
            yield
        except Exception as error:
            raise BrokenModelError(
                f"onnxruntime cannot run {quote(str(self.path))}: {reason(error)}. {advice}."
            ) from error
