"""What each step of the conversion that makes one node of several, or none, brings in onnxruntime.

    python benchmarks/fused_nodes.py [--rounds 40]

A model is converted as `kbn export` does, and with one step left out; both files take turns (`kbn.export.bench`, one thread,
batch 1). The ratio is how many times as long the file without the step takes.
"""

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

from conversion import build, start_keras

start_keras()

import keras
from alternating import console
from keras import layers
from rich.table import Table

from kbn.export import bench, fold, marked_operations, operator_handlers, tf2onnx_fixes, tidying
from kbn.export.onnx_conversion import convert
from kbn.export.saving import save


def without_marker(*names):
    marked = tuple(operation for operation in marked_operations._MARKED if operation.name not in names)
    return lambda: mock.patch.object(marked_operations, "_MARKED", marked)


def without_einsum():
    handlers = {name: handler for name, handler in operator_handlers.HANDLERS.items() if name != "Einsum"}
    return mock.patch.object(tf2onnx_fixes, "HANDLERS", handlers)


def without_rules():
    return mock.patch.object(tidying, "_RULES", ())


def without_reshapes():
    return mock.patch.object(tidying, "tidy_reshapes", return_value=None)


def recurrent(layer):
    inputs = keras.Input((100, 64))
    return keras.Model(inputs, layer(128, return_sequences=True)(inputs))


CASES = [
    ("MobileNetV3Small", "HardSwish and HardSigmoid", without_marker("HardSwish", "HardSigmoid")),
    ("MobileNetV3Small", "Pad into Conv, Min and Max as Clip", without_rules),
    ("MobileNetV3Small", "Reshapes gone", without_reshapes),
    ("EfficientNetB0", "Pad into Conv, Min and Max as Clip", without_rules),
    ("EfficientNetB0", "Reshapes gone", without_reshapes),
    ("ConvNeXtTiny", "Reshapes gone", without_reshapes),
    ("ConvNeXtTiny", "LayerNormalization as one node", without_marker("LayerNormalization")),
    ("ConvNeXtTiny", "GELU as onnxruntime fuses it", without_marker("Gelu")),
    ("Transformer", "LayerNormalization as one node", without_marker("LayerNormalization")),
    ("Transformer", "GELU as onnxruntime fuses it", without_marker("Gelu")),
    ("Transformer", "attention as MatMul", without_einsum),
    ("GRU", "GRU as one node", without_marker("GRU")),
    ("LSTM", "LSTM by its own marker", without_marker("LSTM")),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    table = Table("model", "step", "time without it", "nodes with it", "without it", box=None)
    models = {}
    for name, step, leave_out in CASES:
        model = models.setdefault(name, fold(recurrent(layers.GRU) if name == "GRU" else build(name))[0])
        with tempfile.TemporaryDirectory() as folder:
            paths, counts = [], []
            for way in ("with", "without"):
                with ExitStack() as stack:
                    if way == "without":
                        stack.enter_context(leave_out())
                    converted = convert(model).model
                paths.append(Path(folder, f"{way}.onnx"))
                counts.append(len(converted.graph))
                save(converted, paths[-1])
            (setting,) = bench(paths, rounds=options.rounds, size=224).settings
            ratio = setting.timings[1].ratio
        shown = f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
        table.add_row(name, step, shown, *map(str, counts))
    console.print(table)


if __name__ == "__main__":
    main()
