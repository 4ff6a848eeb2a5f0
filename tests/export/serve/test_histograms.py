"""The histograms say what prometheus_client's own say."""

import prometheus_client
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from kbn.export.serve.histograms import Histograms

BOUNDS = (0.0005, 0.25, 1, 30)
VALUES = st.one_of(st.sampled_from(BOUNDS), st.floats(0, 100))


def told(registry):
    lines = generate_latest(registry).decode().splitlines()
    return sorted(line for line in lines if "_created" not in line)


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), VALUES)))
def test_values_are_counted_as_by_prometheus(values):
    registries = CollectorRegistry(), CollectorRegistry()
    ours = Histograms("seconds", "How long.", ("model",), BOUNDS, registries[0])
    theirs = prometheus_client.Histogram("seconds", "How long.", ("model",), buckets=BOUNDS, registry=registries[1])
    for model, value in values:
        ours.labels(model).observe(value)
        theirs.labels(model).observe(value)
    assert told(registries[0]) == told(registries[1])
