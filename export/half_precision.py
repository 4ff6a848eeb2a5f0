"""A float32 ONNX file in float16: half the weights' bytes, half the memory traffic where the hardware computes in float16.

    float16: 1 sign, 5 exponent and 10 fraction bits
    largest 65504, smallest normal 2^-14, smallest subnormal 2^-24, unit in the last place 2^-10 at 1   (IEEE 754 binary16)

Every weight is rounded to the nearest float16, ties to even, and a weight below 2^-25 to zero. onnxruntime's converter, which
does the surgery, would instead move a weight past the largest onto it and one below the smallest onto that; so its weights
are written over with the rounded ones, and a weight past the largest is refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import TopologicalSortPass
from onnxruntime.transformers.float16 import convert_float_to_float16

from .errors import KbnError, UnsupportedError
from .naming import unique
from .sessions import session
from .wording import quote, reason

_LARGEST = float(np.finfo(np.float16).max)


def to_float16(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with float16 weights and arithmetic, its inputs and outputs as they were.

    A Cast follows each float32 input and precedes each float32 output, so that the file takes the place of the other. What
    ONNX or onnxruntime has in float32 alone (Range, TopK, the scales of Resize, ...) stays float32 between Casts.

    Args:
        proto: a float32 model of less than 2 GiB; it is left as it is.

    Returns:
        A new model, which passes the ONNX checker and which onnxruntime loads with its optimisations off and on.

    Raises:
        UnsupportedError: a weight is past 65504, float16's largest, or the model has no float16 form that runs.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            inferred = onnx.shape_inference.infer_shapes(proto)  # tells the converter what is float32; a new model
            lowered = onnx.ModelProto()
            lowered.CopyFrom(inferred)
            lowered = convert_float_to_float16(lowered, keep_io_types=True, disable_shape_infer=True)
        _round_weights(inferred.graph, lowered.graph)
        model = ir.from_proto(lowered)
        _name_casts(model.graph)
        TopologicalSortPass()(model)  # the converter appends its Casts at the end
        lowered = ir.to_proto(model)
        onnx.checker.check_model(lowered, full_check=True)
        for optimised in (False, True):
            session(lowered.SerializeToString(), optimised=optimised)
    except KbnError:
        raise
    except Exception as error:  # the converter asserts, onnx and onnxruntime have errors without a common base
        raise UnsupportedError(
            f"The model has no float16 form that runs: {reason(error)}. Keep the float32 file, or try int8."
        ) from error
    return lowered


def _round_weights(source: onnx.GraphProto, lowered: onnx.GraphProto) -> None:
    # The converter changes types in place and appends nodes without tensors: both graphs list theirs in one order.
    for (name, weight), (_, half) in zip(_tensors(source), _tensors(lowered), strict=True):
        if half.data_type != onnx.TensorProto.FLOAT16 or weight.data_type == onnx.TensorProto.FLOAT16:
            continue
        values = onnx.numpy_helper.to_array(weight)
        largest = float(np.abs(values[np.isfinite(values)]).max(initial=0.0))
        if largest > _LARGEST:
            raise UnsupportedError(
                f"Weight {quote(name)} holds {largest:.6g} in magnitude, past {_LARGEST:g}, the largest number of float16. "
                "Scale the weights down in the Keras model (a following layer can take the factor), or keep float32."
            )
        rounded = onnx.numpy_helper.from_array(values.astype(np.float16), half.name)
        half.CopyFrom(rounded)


def _tensors(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Initializers and the tensors of attributes, in subgraphs too, each with a name to tell it by."""
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield node.output[0], attribute.t
            for tensor in attribute.tensors:
                yield node.output[0], tensor
            for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from _tensors(inner)


def _name_casts(graph: ir.Graph) -> None:
    """Names the Casts at inputs and outputs, which the converter numbers, after the input or output."""
    casts = [node for node in graph if str(node.name).startswith(("graph_input_cast", "graph_output_cast"))]
    taken = {str(node.name) for node in graph} | {str(value.name) for node in graph for value in node.outputs}
    taken |= {str(value.name) for value in graph.inputs} | set(graph.initializers)
    ports = [node.inputs[0] if str(node.name).startswith("graph_input") else node.outputs[0] for node in casts]
    names = unique([f"{port.name}/Cast" for port in ports if port is not None], taken)
    for node, name in zip(casts, names, strict=True):
        inner = node.outputs[0] if str(node.name).startswith("graph_input") else node.inputs[0]
        node.name = name
        if inner is not None:
            inner.name = f"{name}:float16"
