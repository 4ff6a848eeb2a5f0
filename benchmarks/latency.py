"""Latency in onnxruntime of the files that conversion.py left, kbn's beside the other tools', at default settings.

    python benchmarks/latency.py FOLDER [--models ResNet50 ...] [--rounds 30]

All files of a model take turns in one process (`kbn.export.bench`), on 1 and on 2 threads, batch 1. A cell is how many times as
long as kbn's file the other takes: the median, and the quartiles, of the ratios within a round.
"""

import argparse
from pathlib import Path

from alternating import RatioTable

from kbn.export import bench
from kbn.export.errors import KbnError

OTHERS = ["tf2onnx", "keras", "onnxsim", "onnxslim"]


def runnable(ours, paths):
    """Those that onnxruntime runs on what our file takes: EfficientNet's of tf2onnx wants its statistics as inputs."""
    found = []
    for path in paths:
        try:
            bench([ours, path], rounds=1, warm_up=0, size=224)
        except KbnError:
            continue
        found.append(path)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+")
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    names = options.models or sorted(path.name.split(".")[0] for path in options.folder.glob("*.kbn.onnx"))
    tables = {threads: RatioTable(f"{threads} threads", OTHERS) for threads in (1, 2)}
    for name in names:
        others = [options.folder / f"{name}.{tool}.onnx" for tool in OTHERS]
        ours = options.folder / f"{name}.kbn.onnx"
        files = runnable(ours, [path for path in others if path.is_file()])
        report = bench([ours, *files], threads=tuple(tables), rounds=options.rounds, size=224)
        for setting in report.settings:
            ratios = {timing.file.split(".")[1]: timing.ratio for timing in setting.timings}
            cells = [
                (ratios[tool].low, ratios[tool].median, ratios[tool].high) if tool in ratios else None
                for tool in OTHERS
            ]
            tables[setting.threads].add(name, cells)
    for table in tables.values():
        table.show()


if __name__ == "__main__":
    main()
