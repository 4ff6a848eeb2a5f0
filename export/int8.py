"""A float32 ONNX file in int8: a quarter of the weights' bytes, integer arithmetic where onnxruntime has it.

    real = scale * (integer - zero point)

Weights are symmetric int8 with a scale per output channel, activations uint8 with a scale and zero point per tensor, taken
from the range that calibration data span (static quantisation, QDQ format; Jacob et al. 2018, arXiv:1712.05877).
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry
from onnxruntime.quantization.shape_inference import quant_pre_process

from .errors import UnsupportedError, UsageError
from .sessions import session
from .wording import quote, reason

Batch = Mapping[str, NDArray[Any]]

# Softmax stays float32: its probabilities in steps of 1/256 cost 1.8 to 3.4 dB on digits (45 to 48 dB) and 0.5 to 7 dB on
# tiny_sww_dscnn1d, by the calibration data; fer_mini_xception gains 0.2 dB by them. No difference in speed held in every run.
_OPERATORS = sorted({*QDQRegistry, *QLinearOpsRegistry} - {"Softmax"})

_SETTINGS: dict[str, Any] = {
    "quant_format": QuantFormat.QDQ,
    "op_types_to_quantize": _OPERATORS,
    "per_channel": True,
    "weight_type": QuantType.QInt8,
    # As fast as int8 activations or up to 2.9 times as fast (digits; 1.9 times tiny_ic_resnet8): kernels of x86 take uint8.
    "activation_type": QuantType.QUInt8,
    # CPUs with AVX2 and without VNNI add two products of uint8 and int8 in int16, which saturates: at 8 bits
    # fer_mini_xception falls from 20.1 dB to 6.1 and from 100 % top-1 agreement to 69 %, tiny_sww_dscnn1d from 41 dB to 27.
    # Weights of 7 bits cannot saturate. They cost 3 to 4.3 dB on three models as written.
    "reduce_range": True,
    # Entropy and percentile differed by at most 1.1 dB from it on six real models, up and down; they keep every activation
    # of every batch in memory and fail where the last batch is smaller.
    "calibrate_method": CalibrationMethod.MinMax,
}


def to_int8(proto: onnx.ModelProto, batches: Sequence[Batch]) -> onnx.ModelProto:
    """The model with int8 weights and uint8 activations between QuantizeLinear and DequantizeLinear.

    What onnxruntime has no integer form of (LSTM, LayerNormalization's arithmetic, Softmax, loops) stays float32.

    Args:
        proto: a float32 model of opset 13 or newer and of less than 2 GiB; it is left as it is.
        batches: calibration data, inputs as in use: per batch an array for each input by name. Ranges are of all batches.

    Returns:
        A new model with the names of inputs and outputs and the metadata of the old one.

    Raises:
        UsageError: there are no batches, or one does not fit the inputs or holds NaN or infinity.
        UnsupportedError: nothing in the model can be int8, or onnxruntime cannot quantise it.
    """
    _check_batches(proto, batches)
    try:
        with tempfile.TemporaryDirectory(prefix="kbn-") as folder, _silence():
            # Files, as quantize_static moves the weights of a model in memory to a temporary file and leaves it without.
            source, prepared, quantised = (Path(folder) / name for name in ("a.onnx", "b.onnx", "c.onnx"))
            onnx.save(proto, source)
            # It makes Gemm of MatMul and Add, whose bias then is part of the integer arithmetic: 2.5 dB on
            # tiny_ad_autoencoder, 1.4 on digits without optimisations, 0 to -0.4 on the other four.
            quant_pre_process(source, prepared, skip_symbolic_shape=True)
            quantize_static(prepared, quantised, _Reader(batches), **_SETTINGS)
            lowered = onnx.load(quantised)
        onnx.checker.check_model(lowered)
        session(lowered.SerializeToString())
    except Exception as error:  # onnx, onnxruntime and its quantiser have errors without a common base
        raise UnsupportedError(
            f"onnxruntime cannot quantise the model: {reason(error)}. Keep float32 or float16."
        ) from error
    if not any(node.op_type == "QuantizeLinear" for node in lowered.graph.node):
        found = ", ".join(sorted({node.op_type for node in proto.graph.node}))
        raise UnsupportedError(
            f"Nothing in the model can be int8: onnxruntime has no integer form of {found}. Keep float32 or float16."
        )
    del lowered.metadata_props[:]
    lowered.metadata_props.extend(proto.metadata_props)
    return lowered


def _check_batches(proto: onnx.ModelProto, batches: Sequence[Batch]) -> None:
    if not len(batches):
        raise UsageError(
            "int8 needs calibration data, and there is none: give some hundred inputs as the model meets them."
        )
    weights = {tensor.name for tensor in proto.graph.initializer}
    ports = [value for value in proto.graph.input if value.name not in weights]
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in ports
    }  # 0 where free
    names = set(shapes)
    for batch in batches:
        if set(batch) != names:
            raise UsageError(
                f"The calibration data name {', '.join(map(quote, sorted(batch))) or 'nothing'}, but the model's inputs are "
                f"{', '.join(map(quote, sorted(names)))}; give an array for each."
            )
        for name, array in batch.items():
            shape = shapes[name]
            if array.ndim != len(shape) or any(b not in (0, a) for a, b in zip(array.shape, shape, strict=True)):
                expected = ", ".join(str(size or "any") for size in shape)
                raise UsageError(
                    f"The calibration data for input {quote(name)} have shape {array.shape}, not ({expected})."
                )
            if array.size == 0 or (array.dtype.kind == "f" and not np.isfinite(array).all()):
                raise UsageError(
                    f"The calibration data for input {quote(name)} are empty or hold NaN or infinity, of which no range can "
                    "be taken. Leave such inputs out."
                )


class _Reader(CalibrationDataReader):
    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        batch = next(self._batches, None)
        return None if batch is None else dict(batch)


@contextmanager
def _silence() -> Iterator[None]:
    """Holds back what the quantiser prints, warns of and logs; it raises what matters."""
    root, handler, disabled = logging.getLogger(), logging.NullHandler(), logging.root.manager.disable
    root.addHandler(handler)  # with no handler at all, logging.warning() would install one for good
    logging.disable(logging.CRITICAL)
    onnxruntime.set_default_logger_severity(4)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        onnxruntime.set_default_logger_severity(2)  # as onnxruntime starts
        logging.disable(disabled)
        root.removeHandler(handler)
