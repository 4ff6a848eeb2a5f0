"""What the benchmarks share: timing in turns, and tables of ratios with their spread."""

import time

import numpy as np
from rich.console import Console
from rich.table import Table

console = Console(width=110)


def quartiles(steps, baseline, rounds, warm_up=3):
    """How many times as long as each other step the baseline takes: the quartiles over `rounds`.

    The steps, functions by name, take turns in one process, so that whatever else the machine does falls on all of
    them; the ratio is taken within each turn.
    """
    for step in steps.values():
        for _ in range(warm_up):
            step()
    spent = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            spent[name].append(time.perf_counter() - start)
    times = {name: np.array(each) for name, each in spent.items()}
    return {
        name: np.percentile(times[baseline] / each, (25, 50, 75)) for name, each in times.items() if name != baseline
    }


class RatioTable:
    """Rows of ratios, each "median (quartile to quartile)", and their geometric means at the end."""

    def __init__(self, title, columns):
        self.table = Table(title=title, title_justify="left", box=None)
        self.table.add_column("")
        for column in columns:
            self.table.add_column(column, justify="right")
        self.medians = []

    def add(self, name, ratios):
        """Adds a row; None is a cell that could not be measured, and counts in no mean."""
        self.table.add_row(
            name, *("" if each is None else "{1:.2f} ({0:.2f} to {2:.2f})".format(*each) for each in ratios)
        )
        self.medians.append([np.nan if each is None else each[1] for each in ratios])

    def show(self):
        means = np.exp(np.nanmean(np.log(self.medians), axis=0))
        self.table.add_row("geometric mean", *(f"{mean:.2f}" for mean in means), style="bold")
        console.print(self.table)
        console.print()


def shown(shape):
    return " x ".join(map(str, shape))
