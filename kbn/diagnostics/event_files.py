"""A record's samples as TensorBoard's event files, while training goes on.

Written by TensorFlow's own `tf.summary.write`, with the metadata that TensorBoard's two plugins look for, so that the package
tensorboard is needed only where the files are looked at. A histogram is a tensor (bins, 3): left end, right end, and count.
"""

import os
from typing import Any

import numpy as np

from kbn.diagnostics import measures
from kbn.diagnostics.moments import Floats

_BINS = 30
_SCALARS = ("drift", "kl", "variation", "gap", "model_gap", "flat", "dead", "epsilon", "effective")


class EventFiles:
    """Writes to a folder.

    Args:
        folder: TensorBoard's log directory; made where it is missing.

    Raises:
        ImportError: TensorFlow is not installed.
        OSError: the folder cannot be made or written to.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        try:
            import tensorflow as tf
        except ModuleNotFoundError as missing:
            raise ImportError(
                f"TensorBoard's files are written by TensorFlow; {missing.name} is not installed: "
                "pip install 'kbn[tensorflow]', or leave `log_dir` out."
            ) from missing
        self._tf = tf
        folder = os.fspath(folder)
        try:
            tf.io.gfile.makedirs(folder)
            self._writer = tf.summary.create_file_writer(folder)
            self._writer.flush()  # makes the file, now rather than while training
        except tf.errors.OpError as error:
            raise OSError(
                f"Argument `log_dir` must be a folder that can be made and written to. Received: {folder!r}: {error.message}"
            ) from error

    def write(self, record: Any) -> None:
        """The newest sample of a record: a scalar of each measure and point, a histogram of each site and point."""
        newest = record.latest(2)
        step = int(newest.steps[-1])
        with self._writer.as_default():
            for name in _SCALARS:
                if name in ("drift", "kl") and len(newest) < 2:
                    continue
                for point, value in zip(record.points, measures.measured(newest, name)[-1], strict=True):
                    if np.isfinite(value):
                        self._write(f"{name}/{point.name}", np.float32(value), step, "scalars", 1)
            for number, point in enumerate(record.points):
                for site in point.sites:
                    quantiles = newest.values(f"quantiles/{site}")[-1, number]
                    if np.isfinite(quantiles).all():
                        self._write(f"{site}/{point.name}", histogram(quantiles, _BINS), step, "histograms", 2)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()

    def _write(self, tag: str, value: Any, step: int, plugin: str, data_class: int) -> None:
        metadata = self._tf.compat.v1.SummaryMetadata(
            plugin_data=self._tf.compat.v1.SummaryMetadata.PluginData(plugin_name=plugin), data_class=data_class
        )
        self._tf.summary.write(tag, value, step=step, metadata=metadata)


def histogram(quantiles: Floats, bins: int) -> Floats:
    """(bins, 3): left end, right end and percent of the values, from their quantiles at equal distances, least to largest."""
    low, high = float(quantiles[0]), float(quantiles[-1])
    edges = np.linspace(low, high, bins + 1) if high > low else np.array([low - 0.5, low + 0.5])
    return np.stack([edges[:-1], edges[1:], 100 * shares(quantiles, edges)], -1)


def shares(quantiles: Floats, edges: Floats) -> Floats:
    """The share of the values in each bin, from their quantiles at equal distances: between two of these, they lie evenly.

    A value at an edge counts in the bin above it, one at the last edge in the last bin.
    """
    levels = np.linspace(0.0, 1.0, len(quantiles))
    # The share below each edge. Of equal quantiles, as where a ReLU makes zeros, the first level: these values lie at the edge.
    distinct, first = np.unique(quantiles, return_index=True)
    last = len(quantiles) - 1 - np.unique(quantiles[::-1], return_index=True)[1]
    below = np.empty(len(edges))
    for number, edge in enumerate(edges):
        right = int(np.searchsorted(distinct, edge))  # the first that is not below the edge
        if right == 0:
            below[number] = 0.0
        elif right == len(distinct):
            below[number] = 1.0
        else:
            start, end = distinct[right - 1], distinct[right]
            share = (edge - start) / (end - start)
            below[number] = levels[last[right - 1]] * (1 - share) + levels[first[right]] * share
    if edges[-1] >= quantiles[-1]:
        below[-1] = 1.0
    return np.diff(below)
