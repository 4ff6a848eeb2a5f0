"""tf2onnx handlers for the operators that it lacks or gets wrong: each puts ONNX nodes in the place of one of TensorFlow's.

    erfc(x) = 1 - erf(x)                                     exact GELU (tf2onnx #2347)
    expm1(x) = tanh(x / 2) (exp(x) + 1)                      CELU; without the cancellation of exp(x) - 1
    log1p(x) = 2 atanh(x / (x + 2)) for |x| < 1/2            elsewhere log(x + 1), whose sum is exact enough there
    bucket(x) = number of boundaries <= x                    Discretization

A handler takes tf2onnx's context and the node; what it cannot convert it raises as ValueError.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from tf2onnx import utils
from tf2onnx.onnx_opset.controlflow import Select
from tf2onnx.onnx_opset.math import FloorDiv
from tf2onnx.onnx_opset.nn import ConvOp

from .einsum_node import handle_einsum
from .marked_operations import handle_marker
from .markers import OPERATOR as MARKER
from .resize_nodes import RESIZE_HANDLERS
from .spectrum_nodes import handle_part, handle_rfft


def handle_erfc(ctx: Any, node: Any, _name: str, _args: Any) -> None:
    """1 - Erf(x)."""
    x, output = node.input[0], node.output[0]
    shape, dtype = ctx.get_shape(output), ctx.get_dtype(output)
    one = _constant(ctx, 1, dtype)
    ctx.remove_node(node.name)
    erf = ctx.make_node("Erf", [x], op_name_scope=node.name, shapes=[shape], dtypes=[dtype]).output[0]
    ctx.make_node("Sub", [one, erf], name=node.name, outputs=[output], shapes=[shape], dtypes=[dtype])


def handle_expm1(ctx: Any, node: Any, _name: str, _args: Any) -> None:
    """Tanh(x / 2) * (Exp(x) + 1)."""
    x, output = node.input[0], node.output[0]
    shape, dtype = ctx.get_shape(output), ctx.get_dtype(output)
    half, one = _constant(ctx, 0.5, dtype), _constant(ctx, 1, dtype)
    ctx.remove_node(node.name)

    def made(operator: str, *inputs: str) -> str:
        return str(
            ctx.make_node(operator, list(inputs), op_name_scope=node.name, shapes=[shape], dtypes=[dtype]).output[0]
        )

    factors = [made("Tanh", made("Mul", x, half)), made("Add", made("Exp", x), one)]
    ctx.make_node("Mul", factors, name=node.name, outputs=[output], shapes=[shape], dtypes=[dtype])


def handle_log1p(ctx: Any, node: Any, _name: str, _args: Any) -> None:
    """2 Atanh(x / (x + 2)) near 0, Log(x + 1) elsewhere."""
    x, output = node.input[0], node.output[0]
    shape, dtype = ctx.get_shape(output), ctx.get_dtype(output)
    half, one, two = (_constant(ctx, value, dtype) for value in (0.5, 1, 2))
    ctx.remove_node(node.name)

    def made(operator: str, *inputs: str) -> str:
        return str(ctx.make_node(operator, list(inputs), op_name_scope=node.name).output[0])

    near = made("Mul", made("Atanh", made("Div", x, made("Add", x, two))), two)
    choices = [made("Less", made("Abs", x), half), near, made("Log", made("Add", x, one))]
    ctx.make_node("Where", choices, name=node.name, outputs=[output], shapes=[shape], dtypes=[dtype])


def handle_bucketize(ctx: Any, node: Any, _name: str, _args: Any) -> None:
    """The boundaries, which are float32, that are not above x, counted."""
    x, output = node.input[0], node.output[0]
    shape, dtype, kind = ctx.get_shape(output), ctx.get_dtype(output), ctx.get_dtype(x)
    precision = np.float64 if kind == onnx.TensorProto.DOUBLE else np.float32
    boundaries = np.array(node.get_attr("boundaries").floats, precision)
    known = ctx.make_const(utils.make_name("boundaries"), boundaries).output[0]
    last = ctx.make_const(utils.make_name("axes"), np.array([-1], np.int64)).output[0]
    ctx.remove_node(node.name)
    if not _is_float(kind):
        x = ctx.make_node("Cast", [x], {"to": onnx.TensorProto.FLOAT}, op_name_scope=node.name).output[0]
    spread = ctx.make_node("Unsqueeze", [x, last], op_name_scope=node.name).output[0]
    below = ctx.make_node("Less", [spread, known], op_name_scope=node.name).output[0]
    reached = ctx.make_node("Not", [below], op_name_scope=node.name).output[0]
    counted = ctx.make_node("Cast", [reached], {"to": dtype}, op_name_scope=node.name).output[0]
    ctx.make_node(
        "ReduceSum",
        [counted, last],
        {"keepdims": 0},
        name=node.name,
        outputs=[output],
        shapes=[shape],
        dtypes=[dtype],
    )


def handle_select(ctx: Any, node: Any, _name: str, _args: Any) -> None:
    """Where. tf2onnx's is condition * x + (1 - condition) * y, which is NaN where the one not chosen is infinite.

    onnxruntime has no Where for booleans and other integers, which have no infinity either: they stay tf2onnx's.
    """
    if ctx.get_dtype(node.output[0]) in _CHOSEN:
        node.set_attr("handles_nan", True)
    Select.version_9(ctx, node)


def handle_floor_div(ctx: Any, node: Any, _name: str, _args: Any) -> None:
    """(x - x mod y) / y for integers, of which ONNX' Div drops the sign's share as C does: tf2onnx has -7 // 2 = -3."""
    if _is_float(ctx.get_dtype(node.input[0])):
        FloorDiv.version_6(ctx, node)
        return
    (x, y), output = node.input, node.output[0]
    shape, dtype = ctx.get_shape(output), ctx.get_dtype(output)
    ctx.remove_node(node.name)
    remainder = ctx.make_node("Mod", [x, y], op_name_scope=node.name, shapes=[shape], dtypes=[dtype]).output[0]
    whole = ctx.make_node("Sub", [x, remainder], op_name_scope=node.name, shapes=[shape], dtypes=[dtype]).output[0]
    ctx.make_node("Div", [whole, y], name=node.name, outputs=[output], shapes=[shape], dtypes=[dtype])


def handle_floor_mod(ctx: Any, node: Any, _name: str, _args: Any) -> None:
    """Mod, which has the sign of y for integers; for floats that of x, and y is added where they differ.

    tf2onnx's x - floor(x / y) y is another number for integers, and off by y where x / y rounds up to an integer.
    """
    (x, y), output = node.input, node.output[0]
    shape, dtype = ctx.get_shape(output), ctx.get_dtype(output)
    whole = {"name": node.name, "outputs": [output], "shapes": [shape], "dtypes": [dtype]}
    ctx.remove_node(node.name)
    if not _is_float(dtype):
        ctx.make_node("Mod", [x, y], **whole)
        return

    def made(operator: str, *inputs: str, **attributes: int) -> str:
        return str(ctx.make_node(operator, list(inputs), attributes, op_name_scope=node.name).output[0])

    remainder = made("Mod", x, y, fmod=1)
    differ = made("Less", made("Mul", made("Sign", remainder), made("Sign", y)), _constant(ctx, 0, dtype))
    ctx.make_node("Where", [differ, made("Add", remainder, y), remainder], **whole)


def handle_conv3d(ctx: Any, node: Any, _name: str, _args: Any) -> None:
    """tf2onnx's own, and the number of groups, which it works out for rank 4 only."""
    channels_first = node.get_attr_value("data_format") in (b"NCDHW", "NCDHW")
    channels = ctx.get_shape(node.input[0])[1 if channels_first else 4]
    group_channels = ctx.get_shape(node.input[1])[3]
    ConvOp.any_version(ctx.opset, ctx, node)
    node.set_attr("group", channels // group_channels)


def handle_reverse(ctx: Any, node: Any, _name: str, _args: Any) -> None:
    """A Slice with steps of -1, where tf2onnx's own is a ReverseSequence with the lengths worked out for it."""
    rank = len(ctx.get_shape(node.output[0]))
    axes = [axis % rank for axis in node.inputs[1].get_tensor_value()]
    x, output = node.input[0], node.output[0]
    shape, dtype = ctx.get_shape(output), ctx.get_dtype(output)
    bounds = ([-1] * len(axes), [np.iinfo(np.int64).min] * len(axes), axes, [-1] * len(axes))
    constants = [ctx.make_const(utils.make_name("reverse"), np.array(each, np.int64)).output[0] for each in bounds]
    ctx.remove_node(node.name)
    ctx.make_node("Slice", [x, *constants], name=node.name, outputs=[output], shapes=[shape], dtypes=[dtype])


def handle_one_hot(ctx: Any, node: Any, _name: str, _args: Any) -> None:
    """Where x equals 0, 1, ..., depth - 1, along a new axis. To ONNX' OneHot -1 is the last class, to TensorFlow none."""
    if not node.inputs[1].is_const():
        raise ValueError("the number of classes of a one-hot encoding is not known")
    (x, _, on, off), output = node.input, node.output[0]
    shape, dtype = ctx.get_shape(output), ctx.get_dtype(output)
    values = [each.get_tensor_value() if each.is_const() else None for each in node.inputs[2:]]
    rank, count = len(shape), int(node.inputs[1].get_tensor_value())
    axis = node.get_attr_value("axis", -1) % rank
    classes = np.arange(count, dtype=np.int64).reshape([-1 if each == axis else 1 for each in range(rank)])
    known = ctx.make_const(utils.make_name("classes"), classes).output[0]
    axes = ctx.make_const(utils.make_name("axes"), np.array([axis], np.int64)).output[0]
    if ctx.get_dtype(x) != onnx.TensorProto.INT64:
        x = ctx.make_node("Cast", [x], {"to": onnx.TensorProto.INT64}, op_name_scope=node.name).output[0]
    ctx.remove_node(node.name)
    spread = ctx.make_node("Unsqueeze", [x, axes], op_name_scope=node.name).output[0]
    equal = ctx.make_node("Equal", [spread, known], op_name_scope=node.name).output[0]
    whole = {"name": node.name, "outputs": [output], "shapes": [shape], "dtypes": [dtype]}
    if values == [1, 0]:
        ctx.make_node("Cast", [equal], {"to": dtype}, **whole)
    else:
        ctx.make_node("Where", [equal, on, off], **whole)


def _is_float(dtype: int) -> bool:
    return bool(np.issubdtype(utils.map_onnx_to_numpy_type(dtype), np.floating))


def _constant(ctx: Any, value: float, dtype: int) -> str:
    array = np.array(value, utils.map_onnx_to_numpy_type(dtype))
    return str(ctx.make_const(utils.make_name("constant"), array).output[0])


# The types of onnxruntime's Where, and half precision, which it runs in float32.
_CHOSEN = frozenset(
    getattr(onnx.TensorProto, name) for name in ("FLOAT", "FLOAT16", "DOUBLE", "INT32", "INT64", "UINT8")
)

HANDLERS: dict[str, tuple[Any, list[Any]]] = {
    "Bucketize": (handle_bucketize, []),
    "ComplexAbs": (handle_part, []),
    "Conv3D": (handle_conv3d, []),
    "Einsum": (handle_einsum, []),
    "Erfc": (handle_erfc, []),
    "Expm1": (handle_expm1, []),
    "FloorDiv": (handle_floor_div, []),
    "FloorMod": (handle_floor_mod, []),
    "Imag": (handle_part, []),
    "Log1p": (handle_log1p, []),
    "OneHot": (handle_one_hot, []),
    MARKER: (handle_marker, []),
    "RFFT": (handle_rfft, []),
    "Real": (handle_part, []),
    **RESIZE_HANDLERS,
    "ReverseV2": (handle_reverse, []),
    "Select": (handle_select, []),
    "SelectV2": (handle_select, []),
}
