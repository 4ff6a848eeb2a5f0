"""A model that is being served: its file, its queue, and what its requests took."""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .batcher import Batcher
from .metrics import ModelMetrics
from .model import Model, load
from .protocol import RequestReader
from .settings import Settings
from .warming import WarmUp, warm_up

_REMEMBERED = 500


@dataclass(eq=False)
class Served:
    """One version of one model.

    Attributes:
        latest: seconds that each of the last requests took, from its arrival to its answer.
        seconds: that loading and warming up took.
    """

    name: str
    version: str
    model: Model
    warm: WarmUp
    batcher: Batcher
    requests: RequestReader
    metrics: ModelMetrics
    seconds: float
    latest: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

    @classmethod
    def load(cls, name: str, version: str, path: Path, settings: Settings, metrics: ModelMetrics) -> Served:
        """Loads and warms up; raises as `model.load` does."""
        started = time.perf_counter()
        model = load(path, settings.threads)
        warm = warm_up(model, settings.max_batch)
        _return_memory()
        batcher = Batcher(model, warm.merges, settings.max_batch, settings.queue, metrics.ran)
        requests = RequestReader(model.inputs, model.outputs)
        return cls(name, version, model, warm, batcher, requests, metrics, time.perf_counter() - started)

    def count(self, seconds: float) -> None:
        """Counts an answer, which took so long from its request's arrival."""
        self.latest.append(seconds)
        self.metrics.answered(seconds)

    def metadata(self) -> dict[str, Any]:
        """The protocol's metadata of the model, and beside it what kbn knows of the file."""
        file = self.model.file
        return {
            "platform": "onnxruntime_onnx",
            "inputs": [port.to_dict() for port in self.model.inputs],
            "outputs": [port.to_dict() for port in self.model.outputs],
            "parameters": {
                "sha256": file.sha256,
                **({"weights_sha256": file.weights_sha256} if file.weights_sha256 else {}),
                "check": file.check.verdict,
                "checker": file.checker,
                "merges": self.warm.merges,
            },
        }

    def state(self) -> dict[str, Any]:
        """What the page shows beside the metadata; times are milliseconds."""
        file, latest = self.model.file, np.array(self.latest) * 1e3
        middle, late = np.percentile(latest, (50, 99)) if len(latest) else (None, None)
        return {
            "name": self.name,
            "version": self.version,
            **self.metadata(),
            "file": self.model.path.name,
            "check": {"verdict": file.check.verdict, "sentence": file.check.sentence(), "errors": file.check.errors},
            "labels": len(file.labels),
            "why_apart": self.warm.why,
            "waiting": self.batcher.waiting,
            "latency": {"requests": len(latest), "median": middle, "p99": late},
        }


def _return_memory() -> None:
    """Has glibc return what reading and checking the file took; elsewhere, nothing."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
