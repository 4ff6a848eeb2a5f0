"""Keras to ONNX: trace, convert the skeleton, bind the weights, tidy, name, check.

    keras.Model ──trace──> TensorFlow graph ──to_onnx──> ONNX skeleton ──bind, tidy, name──> ModelProto ──check──> Conversion

What tf2onnx cannot do without constant weights, or does wrongly, is done again with the weights in the graph ("frozen"),
and said so. The file that comes out has passed onnx's full checker; that it computes what the model computes is proved
apart (parity.py).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import onnx
import onnx_ir as ir
from onnx import version_converter

from kbn._version import __version__

from . import tf2onnx_fixes
from .dimensions import Dimensions, name_inputs, name_outputs
from .errors import UnsupportedError, UsageError
from .model_ports import Shapes
from .naming import unique
from .onnx_names import layer_path, name_initializers, name_nodes
from .saving import large_weights, without
from .subnormal import flush_subnormals
from .tidying import bind, tidy
from .tracing import Trace, Weight, trace
from .wording import reason

OLDEST_OPSET = 13

# The newest that the installed onnx knows; onnxruntime of the same time runs it.
NEWEST_OPSET = onnx.defs.onnx_opset_version()

# IR version 8 is read by every runtime of the last years, and by every opset up to 18.
OLDEST_IR_VERSION = 8

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Conversion:
    """An ONNX model that the full checker accepts; its weights are those of the Keras model, in their own memory.

    path: "skeleton" (the weights were bound after the conversion) or "frozen" (they were constants during it).
    notes: what a reader of the report should know, such as why the path is frozen.
    """

    model: ir.Model
    path: str
    notes: tuple[str, ...]

    @property
    def proto(self) -> onnx.ModelProto:
        """The model as protobuf has it, with a copy of the weights."""
        return ir.to_proto(self.model)


def convert(
    model: keras.Model,
    *,
    opset: int = 18,
    input_layout: str | None = None,
    input_shapes: Shapes | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> Conversion:
    """Converts a built float32 model, in inference mode.

    Args:
        model: Functional, Sequential, or a subclass of keras.Model that was called once.
        opset: from 13 to NEWEST_OPSET; 18 and IR version 8 are read by every runtime of the last years.
        input_layout: "nchw" or "nhwc" for the inputs of rank 4, None to leave them as the model has them.
        input_shapes: by input name a shape that the file is to have otherwise than the model, in the file's layout: sizes fixed
            that the model leaves free, or None for a free size.
        input_names, output_names: one for each input and output, in the order of `model.inputs` and `model.outputs`;
            None for Keras' names.

    Raises:
        UsageError: an argument does not fit the model.
        UnsupportedError: other precisions than float32, or an operator without a counterpart in ONNX.
    """
    check_opset(opset)
    traced = trace(model, opset, input_layout, input_shapes)
    inputs = _names("input", input_names, [port.name for port in traced.inputs.values()])
    outputs = _names("output", output_names, [port.name for port in traced.outputs.values()], taken=inputs)

    graph_def, weights = traced.skeleton()
    try:
        converted = _finish(traced, graph_def, weights, opset, inputs, outputs)
        return Conversion(converted, "skeleton", _loop_note(traced))
    except Exception as error:  # whatever tf2onnx raises: the frozen graph is the second chance
        _log.debug("the skeleton did not convert", exc_info=True)
        why = reason(error)
    try:
        converted = _finish(traced, traced.frozen(), (), opset, inputs, outputs)
    except UnsupportedError:
        raise
    except Exception as error:
        raise UnsupportedError(
            f"The model {model.name!r} did not convert to a valid ONNX graph: {reason(error)}. Cut the model in two "
            "to find the layer, and replace it or leave it out of the export."
        ) from error
    return Conversion(converted, "frozen", (f"Converted with the weights as constants, because without: {why}.",))


def check_opset(opset: int) -> None:
    """Raises UsageError for one that kbn does not write."""
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise UsageError(f"The opset is {opset}; it must lie between {OLDEST_OPSET} and {NEWEST_OPSET}.")


def _loop_note(traced: Trace) -> tuple[str, ...]:
    layers = sorted({weight.path.rpartition("/")[0] for weight in traced.looped})
    if not layers:
        return ()
    return (f"The weights of {', '.join(layers)} were constants during the conversion: it needs those of loops.",)


def _finish(
    traced: Trace,
    graph_def: Any,
    weights: Sequence[Weight],
    opset: int,
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> ir.Model:
    in_shapes = dict(zip(traced.inputs, name_inputs(list(traced.inputs.values()), inputs), strict=True))
    out_shapes = name_outputs(traced, in_shapes, outputs)
    weight_tensors = [f"{weight.node}:0" for weight in weights]
    proto = tf2onnx_fixes.to_onnx(
        graph_def,
        [*traced.inputs, *weight_tensors],
        list(traced.outputs),
        min(opset, tf2onnx_fixes.NEWEST_OPSET),
        lambda node: layer_path(node, traced.layers, traced.model.name),
    )
    if opset > tf2onnx_fixes.NEWEST_OPSET:
        proto = version_converter.convert_version(proto, opset)

    model = ir.from_proto(_with_shapes(proto, in_shapes))
    bind(model, {f"{weight.node}:0": weight.value for weight in weights})
    _order_inputs(model, list(traced.inputs))
    tidy(model)
    flush_subnormals(model)
    _set_interface(model, [*inputs, *outputs], [*in_shapes.values(), *out_shapes])
    name_nodes(model, traced.layers, traced.model.name)
    name_initializers(
        model,
        {weight.node: weight.path for weight in traced.weights},
        {weight.path: weight.value for weight in traced.weights if weight.is_vector},
    )
    _describe(model, opset, traced.model.name)
    check(model)
    return model


def check(model: ir.Model) -> None:
    """onnx's full checker, on the graph with its large initializers as inputs: it cannot take 2 GiB, nor need it."""
    weights = large_weights(model)
    with without(model, weights):
        model.graph.inputs.extend(weights)
        try:
            proto = ir.to_proto(model)
        finally:
            del model.graph.inputs[len(model.graph.inputs) - len(weights) :]
    onnx.checker.check_model(proto, full_check=True)


def _names(kind: str, given: Sequence[str] | None, own: Sequence[str], taken: Sequence[str] = ()) -> list[str]:
    if given is None:
        return unique(own, taken)
    if len(given) != len(own) or len({*given, *taken}) != len(given) + len(taken) or not all(given):
        raise UsageError(
            f"The {kind} names {list(given)} do not fit: the model has {len(own)} of them ({', '.join(own)}), and each "
            f"needs a name of its own{f', other than {list(taken)}' if taken else ''}."
        )
    return list(given)


def _with_shapes(proto: onnx.ModelProto, inputs: Mapping[str, Dimensions]) -> onnx.ModelProto:
    """The model with its input dimensions named and every shape inferred that follows from them, computed ones included."""
    for value in proto.graph.input:
        if value.name in inputs:
            value.type.tensor_type.shape.CopyFrom(
                onnx.helper.make_tensor_type_proto(0, inputs[value.name]).tensor_type.shape
            )
    # tf2onnx's own shapes of the outputs (unk__12) would stand in the way.
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(proto, data_prop=True)


def _order_inputs(model: ir.Model, tensors: Sequence[str]) -> None:
    by_name = {value.name: value for value in model.graph.inputs}
    missing, extra = set(tensors) - set(by_name), set(by_name) - set(tensors)
    if missing or extra:
        raise UnsupportedError(
            f"The converted graph has other inputs than the model: missing {sorted(missing)}, extra {sorted(map(str, extra))}."
        )
    model.graph.inputs[:] = [by_name[name] for name in tensors]


def _set_interface(model: ir.Model, names: Sequence[str], shapes: Sequence[Dimensions]) -> None:
    """Names and shapes for the inputs, then the outputs."""
    for value, name, shape in zip([*model.graph.inputs, *model.graph.outputs], names, shapes, strict=True):
        value.name, value.shape = name, ir.Shape(shape)


def _describe(model: ir.Model, opset: int, name: str) -> None:
    model.producer_name, model.producer_version = "kbn", __version__
    model.graph.name, model.doc_string, model.graph.doc_string = name, None, None
    model.ir_version = max(
        OLDEST_IR_VERSION, onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])
    )
    model.metadata_props.clear()
    for value in [v for node in model.graph for v in node.outputs] + list(model.graph.initializers.values()):
        value.metadata_props.clear()
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
