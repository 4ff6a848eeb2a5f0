"""`kbn bench FILE.onnx ...`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Json, Quiet, ReportFile
from .running import check_outputs, progress, read_data, show


def bench(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE.onnx...", help="The files; ratios are to the first.", show_default=False),
    ],
    threads: Annotated[
        list[int] | None,
        typer.Option(
            min=1, max=256, help="Threads inside an operator, 1 by default; may be repeated.", show_default=False
        ),
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(min=1, max=1_000_000, help="Examples per run, 1 by default; may be repeated.", show_default=False),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each file is timed.")] = 50,
    size: Annotated[
        int | None, typer.Option(min=1, help="Length of other free dimensions; 32 by default.", show_default=False)
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Inputs to feed: .npy, .npz with an array per input, or a folder of images (pixels 0 to 255).",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random inputs and of the order.")] = 0,
    as_json: Json = False,
    report_file: ReportFile = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also draw it: .png or .svg.", show_default=False)
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Time ONNX files in onnxruntime, in turns, and compare their outputs."""
    with progress(quiet) as step:
        check_outputs(report_file=report_file)
        if plot is not None:
            from ..figures import check_plot

            check_plot(plot)
        arrays = read_data(data, step)
        from ..latency import bench as bench_files

        report = bench_files(
            files,
            threads=threads or (1,),
            batch_sizes=batch or (1,),
            rounds=rounds,
            data=arrays,
            seed=seed,
            size=size,
            progress=step,
        )
    show(report, as_json, report_file)
    if plot is not None:
        from ..bench_plot import bench_plot
        from ..figures import save_figure

        save_figure(bench_plot(report), plot)
