"""Activations that ONNX has as one node, or onnxruntime from a form of its own.

    hard_sigmoid(x) = relu6(x + 3) / 6                 HardSigmoid, alpha = 1/6, beta = 1/2
    hard_silu(x) = x * hard_sigmoid(x)                 HardSwish (opset 14)
    gelu(x) = x * (1 + erf(x / sqrt(2))) / 2           as it stands here, which onnxruntime makes one node of

Keras writes the last as x / 2 * erfc(-x / sqrt(2)), which stays five nodes. What these
bring is measured by `benchmarks/fused_nodes.py`.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from tf2onnx import utils

from .markers import Marked, mark, replace

_gelu = keras.src.backend.nn.gelu


def _keras_hard_sigmoid(x: Any) -> Any:
    return mark("HardSigmoid", keras.ops.convert_to_tensor(x))


def _keras_hard_silu(x: Any) -> Any:
    return mark("HardSwish", keras.ops.convert_to_tensor(x))


def _keras_gelu(x: Any, approximate: bool = True) -> Any:
    return _gelu(x, approximate) if approximate else mark("Gelu", keras.ops.convert_to_tensor(x))


def _write_hard_sigmoid(ctx: Any, node: Any, _settings: dict[str, Any]) -> None:
    replace(ctx, node, "HardSigmoid", list(node.input), {"alpha": 1 / 6, "beta": 0.5})


def _write_hard_swish(ctx: Any, node: Any, settings: dict[str, Any]) -> None:
    if ctx.opset >= 14:
        replace(ctx, node, "HardSwish", list(node.input), {})
        return
    x, output = node.input[0], node.output[0]
    shape, dtype = ctx.get_shape(output), ctx.get_dtype(output)
    ctx.remove_node(node.name)
    attributes = {"alpha": 1 / 6, "beta": 0.5}
    gate = ctx.make_node("HardSigmoid", [x], attributes, op_name_scope=node.name, shapes=[shape], dtypes=[dtype])
    ctx.make_node("Mul", [x, gate.output[0]], name=node.name, outputs=[output], shapes=[shape], dtypes=[dtype])


def _write_gelu(ctx: Any, node: Any, _settings: dict[str, Any]) -> None:
    x, output = node.input[0], node.output[0]
    shape, dtype = ctx.get_shape(output), ctx.get_dtype(output)
    ctx.remove_node(node.name)

    def constant(value: float) -> str:
        array = np.array(value, utils.map_onnx_to_numpy_type(dtype))
        return str(ctx.make_const(utils.make_name("gelu"), array).output[0])

    def step(operator: str, *inputs: str, **outputs: Any) -> str:
        made = ctx.make_node(operator, list(inputs), op_name_scope=node.name, shapes=[shape], dtypes=[dtype], **outputs)
        return str(made.output[0])

    erf = step("Erf", step("Div", x, constant(math.sqrt(2))))
    step("Mul", step("Mul", x, step("Add", erf, constant(1.0))), constant(0.5), outputs=[output])


HARD_SIGMOID = Marked(
    "HardSigmoid", ((keras.src.backend.nn, "hard_sigmoid", _keras_hard_sigmoid),), _write_hard_sigmoid
)
HARD_SWISH = Marked("HardSwish", ((keras.src.backend.nn, "hard_silu", _keras_hard_silu),), _write_hard_swish)
GELU = Marked("Gelu", ((keras.src.backend.nn, "gelu", _keras_gelu),), _write_gelu)
