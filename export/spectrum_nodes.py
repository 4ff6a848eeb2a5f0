"""The Fourier transform of real frames becomes two MatMul: STFTSpectrogram, MelSpectrogram, keras.ops.rfft and stft.

    Re X_k = sum_n x_n cos(2 pi n k / N)          Im X_k = -sum_n x_n sin(2 pi n k / N)          k = 0 ... N / 2

ONNX has no complex numbers, and onnxruntime's DFT (1.32, one thread) is 1.5 to 25 times as slow as the two MatMul for frames of
up to 1024 samples, and loses two digits where their number is no power of two.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tf2onnx import utils

_PARTS = ("Real", "Imag", "ComplexAbs")


def handle_rfft(ctx: Any, node: Any, _name: str, _args: Any) -> None:
    """tf2onnx handler: leaves the node to those that take its parts, which then leave it without a reader.

    Raises ValueError where another operator takes complex numbers, or the length is not known or another than the samples'.
    """
    if others := sorted({user.type for user in ctx.find_output_consumers(node.output[0])} - set(_PARTS)):
        raise ValueError(f"ONNX has no complex numbers, which {', '.join(others)} takes")
    length = _length(ctx, node)
    if length < 0 or not node.inputs[1].is_const():
        raise ValueError("the number of samples of a Fourier transform is not known; fix the size of the model's input")
    if length != (wanted := int(node.inputs[1].get_tensor_value()[0])):
        raise ValueError(
            f"a Fourier transform of length {wanted} is made of {length} samples; pad or cut them before it"
        )


def handle_part(ctx: Any, node: Any, _name: str, _args: Any) -> None:
    """tf2onnx handler of Real, Imag and ComplexAbs of an RFFT."""
    transform, output = node.inputs[0], node.output[0]
    if transform.type != "RFFT":
        raise ValueError("ONNX has no complex numbers")
    shape, dtype = ctx.get_shape(output), ctx.get_dtype(output)
    length = _length(ctx, transform)
    angles = 2 * np.pi * (np.outer(np.arange(length), np.arange(length // 2 + 1)) % length) / length
    frames = transform.input[0]
    ctx.remove_node(node.name)

    def product(kind: str, matrix: np.ndarray[Any, Any], **outputs: Any) -> str:
        weights = ctx.make_const(utils.make_name(kind), matrix.astype(utils.map_onnx_to_numpy_type(dtype)))
        made = ctx.make_node("MatMul", [frames, weights.output[0]], **outputs)
        return str(made.output[0])

    whole = {"name": node.name, "outputs": [output], "shapes": [shape], "dtypes": [dtype]}
    inside = {"op_name_scope": node.name}
    if node.type == "Real":
        product("cosine", np.cos(angles), **whole)
    elif node.type == "Imag":
        product("sine", -np.sin(angles), **whole)
    else:
        parts = product("cosine", np.cos(angles), **inside), product("sine", -np.sin(angles), **inside)
        squares = [ctx.make_node("Mul", [part, part], **inside).output[0] for part in parts]
        ctx.make_node("Sqrt", [ctx.make_node("Add", squares, **inside).output[0]], **whole)


def _length(ctx: Any, transform: Any) -> int:
    shape = ctx.get_shape(transform.input[0])
    return int(shape[-1]) if shape else -1
