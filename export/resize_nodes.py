"""Resizing of images, as TensorFlow's kernels do it.

Nearest and bilinear with known sizes are a Resize where its arithmetic cannot come out otherwise, and nearest a Gather of rows
and columns elsewhere. Every other kernel (bicubic, area, Lanczos, Gaussian, antialiased ones) weighs rows, then columns:

    y = R x C^T        R, C: (size, old size), what the kernel makes of the unit images

two MatMul with R and C as constants: onnxruntime has no Lanczos, and TensorFlow's bicubic weights come from a table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tf2onnx import utils
from tf2onnx.onnx_opset.nn import Resize

from .layouts import TO_CHANNELS_FIRST, TO_CHANNELS_LAST
from .markers import replace

Array = npt.NDArray[Any]

_FLAGS = ("align_corners", "half_pixel_centers", "antialias")


def handle_nearest(ctx: Any, node: Any, _name: str, _args: Any) -> None:
    """tf2onnx handler: a Resize by whole factors, which repeats pixels; else Gather with TensorFlow's own indices."""
    sizes = _sizes(ctx, node)
    if sizes is None:
        output = node.output[0]
        Resize.version_11(ctx, node)
        _replace_dropped_mode(ctx.get_node_by_output(output).inputs[0])
        return
    settings = {name: bool(node.get_attr_value(name, False)) for name in ("align_corners", "half_pixel_centers")}
    indices = [_nearest(old, new, settings) for old, new in sizes]
    repeats = [new // old for old, new in sizes]
    if all(old == new for old, new in sizes):
        replace(ctx, node, "Identity", [node.input[0]], {})
        return
    if all(
        new % old == 0 and np.array_equal(index, np.arange(new) // (new // old))
        for index, (old, new) in zip(indices, sizes, strict=True)
    ):
        attributes = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
        scales = ctx.make_const(utils.make_name("scales"), np.array([1, 1, *repeats], np.float32)).output[0]
        _between_transposes(ctx, node, lambda x: ctx.make_node("Resize", [x, "", scales], attributes).output[0])
        return

    def gathered(x: str) -> str:
        for axis, index in zip((2, 3), indices, strict=True):
            picked = ctx.make_const(utils.make_name("indices"), index).output[0]
            x = ctx.make_node("Gather", [x, picked], {"axis": axis}, op_name_scope=node.name).output[0]
        return x

    _between_transposes(ctx, node, gathered)


def handle_bilinear(ctx: Any, node: Any, _name: str, _args: Any) -> None:
    """tf2onnx handler: its own, with the next larger scale where one in float32 does not give the size.

    13 / 9 is rounded down, and floor(9 * 1.4444444) is 12. (Sizes with axes, of opset 18, onnxruntime 1.32 mishandles as it
    moves Transposes past a Resize.)
    """
    sizes, output = _sizes(ctx, node), node.output[0]
    Resize.version_11(ctx, node)
    if sizes is None:
        return
    resize = ctx.get_node_by_output(output).inputs[0]
    scales = [np.float32(new / old) for old, new in sizes]
    if all(int(old * float(scale)) == new for scale, (old, new) in zip(scales, sizes, strict=True)):
        return
    larger = [1.0, 1.0, *(np.nextafter(scale, np.float32(np.inf)) for scale in scales)]
    ctx.replace_input(
        resize, resize.input[2], ctx.make_const(utils.make_name("scales"), np.array(larger, "f")).output[0], 2
    )


def handle_weighted(ctx: Any, node: Any, _name: str, _args: Any) -> None:
    """tf2onnx handler of ResizeBicubic, ResizeArea and ScaleAndTranslate: a MatMul over the rows and one over the columns.

    Raises ValueError where a size, a scale or a translation is known only when the model runs.
    """
    sizes = _sizes(ctx, node)
    if sizes is None:
        raise ValueError(f"{node.type} converts with known sizes only; fix those of the model's input")
    kernel = getattr(tf.raw_ops, node.type)
    settings = {name: bool(node.get_attr_value(name)) for name in _FLAGS if node.get_attr(name) is not None}
    along: list[dict[str, Any]] = [dict(settings) for _ in sizes]
    if node.type == "ScaleAndTranslate":
        for each, scale, translation in zip(along, _scale(node, sizes), _known(node.inputs[3]), strict=True):
            kind = node.get_attr_value("kernel_type")
            each |= {"scale": [scale, 1.0], "translation": [translation, 0.0], "kernel_type": kind}
    weights = [_weights(kernel, old, new, each) for (old, new), each in zip(sizes, along, strict=True)]

    def weighed(x: str) -> str:
        rows, columns = (
            ctx.make_const(utils.make_name("weights"), array).output[0] for array in (weights[0], weights[1].T.copy())
        )
        x = ctx.make_node("MatMul", [rows, x], op_name_scope=node.name).output[0]
        return str(ctx.make_node("MatMul", [x, columns], op_name_scope=node.name).output[0])

    _between_transposes(ctx, node, weighed)


def _sizes(ctx: Any, node: Any) -> list[tuple[int, int]] | None:
    """(old, new) of the height and the width; None where one is known only when the model runs."""
    shape = ctx.get_shape(node.input[0])
    if not node.inputs[1].is_const() or not shape or -1 in shape[1:3]:
        return None
    return list(zip(shape[1:3], node.inputs[1].get_tensor_value(), strict=True))


def _known(value: Any) -> list[float]:
    if not value.is_const():
        raise ValueError("ScaleAndTranslate converts with known scales and translations only")
    return list(value.get_tensor_value())


def _scale(node: Any, sizes: list[tuple[int, int]]) -> list[float]:
    """The scales; those of tf.image.resize, the new size over the shape of the images, TensorFlow leaves to be worked out."""
    scale = node.inputs[2]
    if scale.type in ("Div", "RealDiv") and scale.inputs[0].is_const():
        below = scale.inputs[1]
        while below.type in ("Cast", "Slice", "StridedSlice", "Squeeze"):
            below = below.inputs[0]
        if below.type == "Shape" and below.input[0] == node.input[0]:
            numerators = _known(scale.inputs[0])
            return [float(np.float32(n) / np.float32(old)) for n, (old, _) in zip(numerators, sizes, strict=True)]
    return _known(scale)


def _nearest(old: int, new: int, settings: dict[str, bool]) -> npt.NDArray[np.int64]:
    """The row that TensorFlow takes for each new row."""
    column = np.arange(old, dtype=np.int32).reshape(1, old, 1, 1)
    found = _run(lambda: tf.raw_ops.ResizeNearestNeighbor(images=column, size=[new, 1], **settings))
    return found.reshape(new).astype(np.int64)


def _weights(kernel: Callable[..., Any], old: int, new: int, settings: dict[str, Any]) -> npt.NDArray[np.float32]:
    """(new, old): what each old row gives to each new one. The image is `old` rows of one column, with a channel for each."""
    units = np.eye(old, dtype=np.float32).reshape(1, old, 1, old)
    return _run(lambda: kernel(images=units, size=[new, 1], **settings)).reshape(new, old)


def _run(make: Callable[[], Any]) -> Array:
    """What a graph of its own gives: tf2onnx's handlers are called inside another."""
    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
        return np.asarray(session.run(make()))


def _between_transposes(ctx: Any, node: Any, make: Callable[[str], str]) -> None:
    """Puts what `make` makes of the channels-first images in the node's place; the Transposes cancel with neighbours'."""
    x, output = node.input[0], node.output[0]
    shape, dtype = ctx.get_shape(output), ctx.get_dtype(output)
    kind = ctx.get_dtype(x)
    ctx.remove_node(node.name)
    if kind != dtype:  # of integers TensorFlow makes floats
        x = ctx.make_node("Cast", [x], {"to": dtype}, op_name_scope=node.name).output[0]
    first = ctx.make_node("Transpose", [x], {"perm": TO_CHANNELS_FIRST}, op_name_scope=node.name).output[0]
    ctx.make_node(
        "Transpose",
        [make(first)],
        {"perm": TO_CHANNELS_LAST},
        name=node.name,
        outputs=[output],
        shapes=[shape],
        dtypes=[dtype],
    )


def _replace_dropped_mode(resize: Any) -> None:
    """ONNX dropped `tf_half_pixel_for_nn` at opset 13. floor((x + 1/2) s) is (x + 1/2) s - 1/2, half_pixel, rounded half up."""
    if resize.get_attr_value("coordinate_transformation_mode") in (b"tf_half_pixel_for_nn", "tf_half_pixel_for_nn"):
        resize.set_attr("coordinate_transformation_mode", "half_pixel")
        resize.set_attr("nearest_mode", "round_prefer_ceil")


RESIZE_HANDLERS: dict[str, tuple[Any, list[Any]]] = {
    "ResizeArea": (handle_weighted, []),
    "ResizeBicubic": (handle_weighted, []),
    "ResizeBilinear": (handle_bilinear, []),
    "ResizeNearestNeighbor": (handle_nearest, []),
    "ScaleAndTranslate": (handle_weighted, []),
}
