"""The check: does this ONNX file compute what this model computes?

The truth is a float64 run of the original model; what error is allowed against it, verdict.py derives. The file is run with
onnxruntime's optimisations off and on, and the larger error counts. Where the truth is finite the file must be.
"""

from __future__ import annotations

from itertools import chain, islice
from os import PathLike
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import tree
from numpy.typing import NDArray

from .check_report import CheckReport
from .cpu_kernels import cpu_kernels
from .drawing import Sample
from .drift import layer_drift
from .errors import UsageError
from .model_ports import input_ports, output_ports, pack_inputs, with_inputs
from .output_check import OutputCheck
from .precision import in_float32, in_precision, own_rounding
from .rules.rule import Shape
from .runtime import Runtime
from .samples import seeded_samples, user_samples
from .saved_inputs import SavedInputs
from .wording import quote, reason

Array = NDArray[Any]


def check_model(
    model: keras.Model,
    onnx_path: str | PathLike[str],
    data: Any = None,
    *,
    seed: int = 0,
    layers: bool = False,
    save_inputs: str | PathLike[str] | None = None,
) -> CheckReport:
    """Compares an ONNX file with the Keras model it was made from; as `kbn.export.check`.

    Raises:
        UsageError: the data does not fit the model, or the file has other inputs or outputs than the model.
        UnsupportedError: the model was never built, or has a layer that cannot be copied from its configuration.
        BrokenModelError: onnxruntime cannot load or run the file.
    """
    if seed < 0:
        raise UsageError(f"The seed must be 0 or more; found {seed}.")
    model = with_inputs(model)
    runtime = Runtime(Path(onnx_path))
    runtime.check_outputs()
    _match_signature(model, runtime)
    shapes = common_shapes(model, runtime)
    own = user_samples(model, data, shapes) if data is not None else iter(())
    first = list(islice(own, 1))  # data that does not fit is told before the long work
    reference, single, rounding = in_precision(model, "float64"), in_float32(model), own_rounding(model)
    report = CheckReport([OutputCheck(name) for name in runtime.output_names], model=model.name, file=str(onnx_path))
    report.precision = runtime.precision
    kept = SavedInputs(save_inputs, [port.name for port in input_ports(model, None)]) if save_inputs else None
    for sample in chain(first, own, seeded_samples(model, seed, shapes)):
        try:
            truths, singles = _run(reference, sample), _run(single, sample)
            owns = singles if single is model else _run(model, sample)
        except _NotTakenError as refusal:
            report.skipped[sample.origin] = str(refusal)
            continue
        if kept:
            kept.save(sample)
        if layers and not report.with_layers:
            drift = layer_drift(model, Path(onnx_path), sample)
            report.layers, report.fold, report.weights = drift.layers, drift.fold, drift.weights
            report.with_layers = True
        report.samples[sample.origin] = report.samples.get(sample.origin, 0) + sample.examples
        files = zip(*runtime.run(sample.arrays), strict=True)
        for output, truth, computed, found, came in zip(report.outputs, truths, singles, files, owns, strict=True):
            output.add(sample.kind, truth, computed, found, came, rounding)
    if not report.samples:
        refusals = "; ".join(f"{origin}: {why}" for origin, why in report.skipped.items())
        raise UsageError(
            f"Model {model.name!r} runs on none of the seeded inputs ({refusals}); give data that it takes."
        )
    return report


class _NotTakenError(Exception):
    """The model does not take these seeded inputs."""


def _match_signature(model: keras.Model, runtime: Runtime) -> None:
    sides = (
        ("inputs", [port.name for port in input_ports(model, None)], runtime.input_names),
        ("outputs", [port.name for port in output_ports(model)], runtime.output_names),
    )
    for side, expected, found in sides:
        if len(expected) != len(found):
            raise UsageError(
                f"The file has {len(found)} {side} ({', '.join(map(quote, found))}), but model {model.name!r} has "
                f"{len(expected)} ({', '.join(map(quote, expected))}); is it the file of another model?"
            )
    for tensor, name, shape in zip(model.inputs, runtime.input_names, runtime.input_shapes, strict=True):
        pairs = list(zip(tensor.shape, shape, strict=False))
        if len(shape) != len(tensor.shape) or any(isinstance(b, int) and a not in (None, b) for a, b in pairs):
            raise UsageError(
                f"Input {name!r} of the file takes {tuple(shape)}, but model {model.name!r} has {tuple(tensor.shape)} there; "
                "is it the file of another model?"
            )


def common_shapes(model: keras.Model, runtime: Runtime) -> list[Shape]:
    """The shapes that both take, in the model's layout."""
    return [
        tuple(size if isinstance(size, int) else own for own, size in zip(tensor.shape, shape, strict=True))
        for tensor, shape in zip(model.inputs, runtime.input_shapes, strict=True)
    ]


def _run(model: keras.Model, sample: Sample) -> list[Array]:
    """The model's outputs at inference, flattened.

    Raises:
        _NotTakenError: seeded inputs on which the model fails: of a size that was guessed, or out of its domain.
        UsageError: the user's inputs, on which it fails.
    """
    try:
        with cpu_kernels():
            outputs = model(pack_inputs(model, sample.arrays), training=False)
    except Exception as error:  # what the backend raises has no common base
        if sample.origin != "data":
            raise _NotTakenError(reason(error)) from error
        raise UsageError(f"Model {model.name!r} does not run on {sample.origin} inputs: {reason(error)}") from error
    return [np.asarray(keras.ops.convert_to_numpy(output)) for output in tree.flatten(outputs)]
