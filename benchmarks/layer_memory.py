"""Peak memory of a training step of the layer alone, kbn's and Keras', each in a process of its own. Linux only.

    python benchmarks/layer_memory.py [--mean 50]

What is given is what the step needs above the inputs, in multiples of their size.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from alternating import console, shown

SHAPES = [(32, 56, 56, 64), (32, 28, 28, 256), (8, 112, 112, 32), (4, 16, 28, 28, 32)]


def peak(layer, shape, mean):
    """Bytes above what was resident before the first of three steps."""
    from layer_step import training_step

    training_step(layer, (8, 4, 4, 4), mean, xla=False)()  # loads what is loaded once
    step = training_step(layer, shape, mean, xla=False)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark is what is resident now
    before = resident("VmHWM")
    for _ in range(3):
        step()
    return resident("VmHWM") - before


def resident(field):
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith(field)).split()[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mean", type=float, default=0.0)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        layer, shape = options.one[0], tuple(map(int, options.one[1].split(",")))
        print(peak(layer, shape, options.mean))
        return
    for shape in SHAPES:
        cells = []
        for layer in ("Keras", "kbn"):
            command = [sys.executable, __file__, "--mean", str(options.mean), "--one", layer, ",".join(map(str, shape))]
            found = sorted(
                int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
                for _ in range(3)
            )
            size = 4
            for side in shape:
                size *= side
            cells.append(f"{layer} {found[1] / size:.1f} ({found[0] / size:.1f} to {found[2] / size:.1f})")
        console.print(f"{shown(shape)}: {', '.join(cells)}")


if __name__ == "__main__":
    main()
