"""The record, its file, and the measures that are made of it."""

import json

import numpy as np
import pytest

from kbn.diagnostics import ShiftRecord, measures, moments


def test_the_file_holds_all(make_record, tmp_path):
    record = make_record()
    record.save(tmp_path / "run.npz")
    back = ShiftRecord.load(tmp_path / "run.npz")
    assert (back.points, back.batch_size, back.batches, back.spent) == (record.points, 16, 3, 0.5)
    assert np.array_equal(back.steps, record.steps)
    assert np.array_equal(back.seconds, record.seconds)
    for name in ("channels/before/mean", "channels/flat", "quantiles/activated", "points/gap", "seen/effective"):
        assert np.array_equal(back.values(name), record.values(name), equal_nan=True), name
    with np.load(tmp_path / "run.npz", allow_pickle=False) as file:
        assert file["channels/before/mean"].dtype == np.float64
        assert file["channels/before/variance"].dtype == np.float32
    assert [path.name for path in tmp_path.iterdir()] == ["run.npz"]


def test_a_damaged_a_strange_and_a_newer_file(make_record, tmp_path):
    path = tmp_path / "run.npz"
    make_record().save(path)
    content = path.read_bytes()
    for write, told in (
        (lambda: path.write_bytes(content[: len(content) // 2]), "it is no whole .npz file"),
        (lambda: path.write_text("step,drift"), "it is no whole .npz file"),
        (lambda: np.savez(path, a=np.ones(3)), "it is an .npz file without the array 'meta'"),
        (lambda: np.savez(path, meta=np.array({"version": 1}, dtype=object)), "cannot be read as samples"),
        (lambda: np.savez(path, meta=np.array(json.dumps({"version": 1}))), "cannot be read as samples"),
    ):
        write()
        with pytest.raises(ValueError, match=rf"is no record of a ShiftMonitor, or is damaged: .*{told}") as error:
            ShiftRecord.load(path)
        assert "pickle" not in str(error.value)
    np.savez(path, meta=np.array(json.dumps({"version": 99})))
    with pytest.raises(ValueError, match="version 99; this kbn reads version 1"):
        ShiftRecord.load(path)
    with pytest.raises(FileNotFoundError):
        ShiftRecord.load(tmp_path / "none.npz")


def test_where_a_record_cannot_be_saved(make_record, tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.npz"):
        make_record().save(tmp_path / "run.txt")
    with pytest.raises(ValueError, match="folder"):
        make_record().save(tmp_path / "missing" / "run.npz")
    with pytest.raises(ValueError, match="no sample to save"):
        make_record(samples=0).save(tmp_path / "run.npz")


def test_thinning_keeps_the_first_and_the_newest(make_record):
    record = make_record(samples=6)
    record.thin()
    assert list(record.steps) == [0, 20, 40, 50]


@pytest.mark.parametrize(("since", "then"), [("previous", 4), ("start", 0)])
def test_drift_is_that_of_the_moments(make_record, since, then):
    record = make_record()
    mean, variance = record.values("channels/before/mean"), record.values("channels/before/variance")
    squares = moments.wasserstein(mean[5], variance[5], mean[then], variance[then])
    kl = moments.symmetric_kl(mean[5], variance[5], mean[then], variance[then], 1e-3)
    for number, columns in enumerate(record.columns):
        expected = np.sqrt(squares[columns].sum() / variance[then, columns].sum())
        assert measures.drift(record, "before", since)[5, number] == pytest.approx(expected)
        assert measures.kl(record, "before", since)[5, number] == pytest.approx(kl[columns].mean())
    assert np.array_equal(measures.drift(record)[0], np.zeros(4))


def test_shares_of_channels(make_record):
    record = make_record(samples=1)
    row = record._rows[0]
    row["channels/flat"][record.columns[1]] = [1.0, 0.5, 1.0]
    row["channels/before/variance"][record.columns[1]] = [0.99e-3, 1.1e-3, 5.0]
    assert measures.dead(record)[0, 1] == pytest.approx(2 / 3)
    assert measures.flat(record)[0, 1] == pytest.approx(2.5 / 3)
    assert measures.near_epsilon(record)[0, 1] == pytest.approx(1 / 3)


def test_since_when_a_layer_is_not_finite(make_record):
    record = make_record()
    assert measures.not_finite_since(record) == [None] * 4
    for row in record._rows[3:]:
        row["channels/before/mean"][record.columns[1]][-1] = np.inf
        row["channels/activated/variance"][record.columns[2]] = np.nan
    record._rows[2]["channels/before/mean"][record.columns[1]] = np.nan
    for row in record._rows:
        row["channels/before/mean"][record.columns[0]] = np.nan
    record._rows[1]["channels/before/mean"][record.columns[3]] = np.nan  # and is finite again
    assert measures.not_finite_since(record) == [None, 20, 30, None]


def test_without_batch_normalization_and_with_one_batch(make_record):
    record = make_record(normalized=False, batches=1)
    for name in ("gap", "epsilon", "variation"):
        assert np.isnan(measures.measured(record, name)).all(), name
    for name in ("drift", "kl", "flat"):
        assert np.isfinite(measures.measured(record, name)).all(), name


def test_a_measure_that_is_not_there(make_record):
    with pytest.raises(ValueError, match=r"no measure 'drfit'; there are drift, kl"):
        measures.measured(make_record(), "drfit")
    with pytest.raises(ValueError, match=r"no site 'after'; there are before"):
        measures.measured(make_record(), "drift", "after")
    with pytest.raises(ValueError, match="'previous' or 'start'"):
        measures.measured(make_record(), "drift", since="yesterday")
