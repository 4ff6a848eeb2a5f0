"""The plots and the page, as methods of whatever has a record; matplotlib is loaded when one is asked for."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kbn.diagnostics.record import ShiftRecord


class Showing:
    """Has a record to show."""

    @property
    @abstractmethod
    def _shown(self) -> ShiftRecord:
        """The record."""

    def plot(
        self,
        kind: str = "drift",
        path: str | os.PathLike[str] | None = None,
        *,
        site: str = "before",
        since: str | None = None,
        layers: Sequence[str] | None = None,
        others: Mapping[str, Showing] | None = None,
    ) -> Any:
        """A figure of at most one page that can be read in grey.

        Args:
            kind: "drift", "kl", "variation", "gap", "model_gap", "flat", "dead", "epsilon" or "effective" is a heat map, layer
                by step, of the measure of that name (`kbn.diagnostics.measures`). "depth" shows the drift since the start, and
                the variation between batches, against depth. "histograms" shows how the values before and after batch
                normalization and after the activation are distributed as training goes on.
            path: where to save it: .png, .svg or .pdf. None saves nothing.
            site: "before", "normalized" (after batch normalization) or "activated", where the kind has a choice.
            since: what a drift is measured from: the "previous" sample, or the "start". None is "start" for "depth", else
                "previous".
            layers: names of those to show; None is all, of "histograms" a few from first to last.
            others: for "depth", other monitors or records to compare with, by what the legend shall call them.

        Returns:
            The `matplotlib.figure.Figure`.

        Raises:
            ValueError: there is no such kind, site or layer, the record has too few samples, or nothing to show of this kind.
            ImportError: matplotlib is not installed.
        """
        from kbn.diagnostics import plots

        records = {name: other._shown for name, other in (others or {}).items()}
        return plots.plot(self._shown, kind, path, site=site, since=since, layers=layers, others=records)

    def report(self, path: str | os.PathLike[str], *, others: Mapping[str, Showing] | None = None) -> None:
        """Writes one HTML page with the plots and a table of the layers, which needs no network; replaces what is there.

        Args:
            path: where to write it, .html or .htm. A plot of which the record holds no finite number is left out.
            others: as for `plot`.

        Raises:
            ValueError: the record has too few samples, the name ends otherwise, or its folder is not there.
            ImportError: matplotlib is not installed.
            OSError: the page cannot be written.
        """
        from kbn.diagnostics import page

        page.save(self._shown, path, {name: other._shown for name, other in (others or {}).items()})
