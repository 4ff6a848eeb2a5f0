"""What the server counts and measures, for Prometheus. Labels are names of loaded models only: strangers can add none."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest

from .batcher import RunFacts
from .histograms import Histogram, Histograms
from .refusal import kind_of

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """All metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        model = ("model", "version")
        self.requests = Counter("kbn_requests", "Inference requests answered.", model, registry=self._registry)
        self.errors = Counter(
            "kbn_errors",
            "Requests refused, by kind; model is empty where none was found.",
            ("model", "kind"),
            registry=self._registry,
        )
        self.seconds, self.waited, self.run, self.rows = (
            Histograms(name, documentation, model, bounds, self._registry)
            for name, documentation, bounds in (
                ("kbn_request_seconds", "From a request's arrival to its answer.", _SECONDS),
                ("kbn_queue_seconds", "How long a request waited for its run.", _SECONDS),
                ("kbn_run_seconds", "How long a run of onnxruntime took.", _SECONDS),
                ("kbn_batch_rows", "Examples in a run.", _ROWS),
            )
        )
        self.waiting = Gauge("kbn_queue_length", "Requests that wait.", model, registry=self._registry)
        self.reloads = Counter(
            "kbn_reloads", "Models loaded again, by result.", ("model", "result"), registry=self._registry
        )
        self.ready = Gauge("kbn_ready", "1 where the server takes requests.", registry=self._registry)

    def of(self, name: str, version: str) -> ModelMetrics:
        """Those of one model."""
        labels = (name, version)
        return ModelMetrics(
            name,
            self.requests.labels(*labels),
            self.seconds.labels(*labels),
            self.waited.labels(*labels),
            self.run.labels(*labels),
            self.rows.labels(*labels),
        )

    def refused(self, model: str, status: int) -> None:
        self.errors.labels(model, kind_of(status)).inc()

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)


@dataclass(frozen=True)
class ModelMetrics:
    """The metrics of one model, looked up once."""

    name: str
    requests: Counter
    seconds: Histogram
    waited: Histogram
    run: Histogram
    rows: Histogram

    def ran(self, facts: RunFacts) -> None:
        self.run.observe(facts.seconds)
        self.rows.observe(facts.rows)
        for waited in facts.waited:
            self.waited.observe(waited)

    def answered(self, seconds: float) -> None:
        self.requests.inc()
        self.seconds.observe(seconds)
