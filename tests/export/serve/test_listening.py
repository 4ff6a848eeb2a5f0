"""How many files may be open: as many as the connections need."""

import pytest

from kbn.export.serve import listening

resource = pytest.importorskip("resource")
FOR_EVER = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "taken", "told"),
    [
        (1024, 4096, 2304, False),
        (1024, FOR_EVER, 2304, False),
        (2304, 2304, None, False),
        (FOR_EVER, FOR_EVER, None, False),
        (1024, 2000, 2000, True),
        (1024, 1024, 1024, True),
    ],
)
def test_the_limit_of_open_files_is_raised_as_far_as_it_can_be(monkeypatch, soft, hard, taken, told):
    limits, lines = [], []
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, to: limits.append((kind, to)))
    monkeypatch.setattr(listening, "log", lambda event, level, **facts: lines.append((event, level, facts["reason"])))
    listening.take_files(1024)
    assert limits == ([] if taken is None else [(resource.RLIMIT_NOFILE, (taken, hard))])
    why = f"{taken} files may be open, --connections 1024 needs 2304: raise ulimit -n, or ask for fewer."
    assert lines == ([("files", "warning", why)] if told else [])
