"""Train a small network with kbn.BatchNormalization on real digits, export it, and see what the export brings.

    python examples/train_and_export.py [FOLDER] [--epochs N]

Writes FOLDER/digits.keras (trained), digits.onnx (folded and proved), digits_unfolded.onnx (what tf2onnx alone makes of the
same model), digits_test.npz (the test set) and report.json.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from kbn.export.quiet import import_quietly

os.environ["KERAS_BACKEND"] = "tensorflow"  # which tf2onnx converts from
import_quietly("tensorflow", "tf2onnx")

import keras
import numpy as np
import onnx
import onnxruntime
import tensorflow as tf
import tf2onnx
from keras import layers
from keras.callbacks import LambdaCallback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import kbn

console = Console()


def build_model() -> keras.Model:
    """A residual block of a convolution and a depthwise convolution, then a dense layer; each with its normalization."""
    inputs = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(32, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = shortcut = layers.ReLU()(kbn.BatchNormalization(name="stem_bn")(x))
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(x)
    x = layers.ReLU()(kbn.BatchNormalization(name="depthwise_bn")(x))
    x = layers.Conv2D(32, 1, use_bias=False, name="pointwise")(x)
    x = layers.Add(name="residual")([kbn.BatchNormalization(name="pointwise_bn")(x), shortcut])
    x = layers.MaxPooling2D()(layers.ReLU()(x))
    x = layers.Conv2D(64, 3, use_bias=False, name="conv")(x)
    x = layers.Flatten()(layers.ReLU()(kbn.BatchNormalization(name="conv_bn")(x)))
    x = layers.Dense(64, use_bias=False, name="dense")(layers.Dropout(0.3)(x))
    x = layers.ReLU()(kbn.BatchNormalization(name="dense_bn")(x))
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="digit")(x), name="digits")


def train(epochs: int) -> tuple[keras.Model, np.ndarray, np.ndarray]:
    """The trained model and the test set."""
    keras.utils.set_random_seed(0)
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) / 16).astype("float32")
    x, x_test, y, y_test = train_test_split(images, labels, test_size=0.25, stratify=labels, random_state=0)
    model = build_model()
    steps = epochs * -(-len(x) // 64)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(3e-3, steps)),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("epochs, {task.fields[shown]}"))
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=epochs, shown="")

        def advance(epoch: int, logs: dict[str, float]) -> None:
            progress.update(task, advance=1, shown=f"loss {logs['loss']:.3f}, accuracy {logs['accuracy']:.2%}")

        model.fit(x, y, batch_size=64, epochs=epochs, verbose=0, callbacks=[LambdaCallback(on_epoch_end=advance)])
    return model, x_test, y_test


def export_unfolded(model: keras.Model, path: Path) -> float:
    """Converts with tf2onnx alone, as a user without kbn would; returns the seconds it took."""
    start = time.perf_counter()
    signature = [tf.TensorSpec((None, 8, 8, 1), tf.float32, name="image")]
    function = tf.function(lambda image: model(image, training=False))
    proto, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=18)
    onnx.save(proto, path)
    return time.perf_counter() - start


def export_folded(source: Path, path: Path, data: Path, report: Path) -> float:
    """Runs the command that a user types; returns the seconds that folding and converting took."""
    kbn_command = str(Path(sys.executable).with_name("kbn"))
    command = [kbn_command, "export", str(source), str(path), "--data", str(data), "--report", str(report), "--force"]
    console.print(f"\n[bold]$ kbn {' '.join(command[1:])}[/]", soft_wrap=True)
    subprocess.run(command, check=True)
    seconds = json.loads(report.read_text())["seconds"]
    return seconds["fold"] + seconds["convert"]


def compare(before: Path, after: Path, seconds: tuple[float, float], batch: np.ndarray) -> None:
    """Prints both files side by side: size, operators, and latency measured in turns."""
    sessions = [onnxruntime.InferenceSession(path) for path in (before, after)]
    feeds = [{session.get_inputs()[0].name: batch} for session in sessions]
    rounds: list[list[float]] = [[], []]
    for _ in range(60):
        for times, session, feed in zip(rounds, sessions, feeds, strict=True):
            start = time.perf_counter()
            for _ in range(20):
                session.run(None, feed)
            times.append((time.perf_counter() - start) / 20 * 1e3)
    table = Table(title=f"\nUnfolded against folded, batch {len(batch)}", title_justify="left", box=None)
    for column in ("", "tf2onnx alone", "kbn export"):
        table.add_column(column, justify="right" if column else "left")
    nodes = [[node.op_type for node in onnx.load(path).graph.node] for path in (before, after)]
    table.add_row("operators", *(str(len(names)) for names in nodes))
    for name in ("BatchNormalization", "Mul", "Add", "Transpose"):
        table.add_row(f"  {name}", *(str(names.count(name)) for names in nodes))
    table.add_row("file size, KiB", *(f"{path.stat().st_size / 1024:.1f}" for path in (before, after)))
    table.add_row("conversion, s", *(f"{spent:.2f}" for spent in seconds))
    quartiles = [np.percentile(times, (50, 25, 75)) for times in rounds]
    table.add_row("latency, ms (quartiles)", *(f"{q[0]:.3f} ({q[1]:.3f} to {q[2]:.3f})" for q in quartiles))
    console.print(table)
    ratio = np.array(rounds[0]) / np.array(rounds[1])
    low, middle, high = np.percentile(ratio, (25, 50, 75))
    console.print(f"Time unfolded over time folded: {middle:.2f} (quartiles {low:.2f} to {high:.2f}).")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", default="demo", type=Path)
    parser.add_argument("--epochs", type=int, default=30)
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)

    model, x_test, y_test = train(arguments.epochs)
    _, accuracy = model.evaluate(x_test, y_test, verbose=0)
    console.print(f"\nTest accuracy: [bold]{accuracy:.2%}[/] on {len(x_test)} digits it has not seen.")
    trained, exported, unfolded = (folder / name for name in ("digits.keras", "digits.onnx", "digits_unfolded.onnx"))
    data, report = folder / "digits_test.npz", folder / "report.json"
    model.save(trained)
    np.savez(data, image=x_test, label=y_test)

    unfolded_seconds = export_unfolded(model, unfolded)
    folded_seconds = export_folded(trained, exported, data, report)
    compare(unfolded, exported, (unfolded_seconds, folded_seconds), x_test[:32])
    steps = {
        f"kbn inspect {trained}": "how each normalization folds",
        f"kbn check {trained} {exported}": "prove the file again",
        f"kbn inspect {trained} --report {folder}/fold.html": "the same as a page",
        "python examples/export_pretrained.py": "export a model of keras.applications",
    }
    console.print(f"\nThe files are in [bold]{folder}/[/]. What next:")
    for command, purpose in steps.items():
        console.print(f"  {command}\n      [dim]{purpose}[/]", soft_wrap=True)


if __name__ == "__main__":
    main()
