"""tf2onnx, quiet, with the operators it lacks, and with its failures turned into errors.

    erfc(x) = 1 - erf(x)                 exact GELU (tf2onnx #2347)

tf2onnx reports an operator that it cannot convert in its log only, and returns the graph with the TensorFlow node in it.
Here the log is kept off the terminal, and a graph with such a node raises.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import tensorflow as tf
from tf2onnx import optimizer, tf_loader, tfonnx, utils
from tf2onnx.onnx_opset.nn import ConvOp, Resize
from tf2onnx.optimizer.transpose_optimizer import TransposeOptimizer, is_transpose, is_useless_transpose

from .einsum_node import handle_einsum
from .errors import UnsupportedError
from .marked_operations import handle_marker
from .markers import OPERATOR as MARKER

# The newest operator set that tf2onnx writes; above it, onnx's version converter takes over.
NEWEST_OPSET = 18

_log = logging.getLogger(__name__)


def handle_erfc(ctx: Any, node: Any, _name: str, _args: Any) -> None:
    """tf2onnx handler: 1 - Erf(x)."""
    x, output = node.input[0], node.output[0]
    shape, dtype = ctx.get_shape(output), ctx.get_dtype(output)
    one = ctx.make_const(utils.make_name("one"), np.ones((), utils.map_onnx_to_numpy_type(dtype))).output[0]
    ctx.remove_node(node.name)
    erf = ctx.make_node("Erf", [x], op_name_scope=node.name, shapes=[shape], dtypes=[dtype]).output[0]
    ctx.make_node("Sub", [one, erf], name=node.name, outputs=[output], shapes=[shape], dtypes=[dtype])


def handle_conv3d(ctx: Any, node: Any, _name: str, _args: Any) -> None:
    """tf2onnx handler: its own, and the number of groups, which it works out for rank 4 only."""
    channels_first = node.get_attr_value("data_format") in (b"NCDHW", "NCDHW")
    channels = ctx.get_shape(node.input[0])[1 if channels_first else 4]
    group_channels = ctx.get_shape(node.input[1])[3]
    ConvOp.any_version(ctx.opset, ctx, node)
    node.set_attr("group", channels // group_channels)


def handle_reverse(ctx: Any, node: Any, _name: str, _args: Any) -> None:
    """tf2onnx handler: a Slice with steps of -1, where its own is a ReverseSequence with the lengths worked out for it."""
    rank = len(ctx.get_shape(node.output[0]))
    axes = [axis % rank for axis in node.inputs[1].get_tensor_value()]
    x, output = node.input[0], node.output[0]
    shape, dtype = ctx.get_shape(output), ctx.get_dtype(output)
    bounds = ([-1] * len(axes), [np.iinfo(np.int64).min] * len(axes), axes, [-1] * len(axes))
    constants = [ctx.make_const(utils.make_name("reverse"), np.array(each, np.int64)).output[0] for each in bounds]
    ctx.remove_node(node.name)
    ctx.make_node("Slice", [x, *constants], name=node.name, outputs=[output], shapes=[shape], dtypes=[dtype])


def handle_resize(ctx: Any, node: Any, name: str, args: Any) -> None:
    """tf2onnx handler: its own, with the next larger scale where one in float32 does not give the size.

    13 / 9 is rounded down, and floor(9 * 1.4444444) is 12. (Sizes with axes, of opset 18, onnxruntime 1.32 mishandles as it
    moves Transposes past a Resize.)
    """
    target, shape = node.inputs[1], ctx.get_shape(node.input[0])
    sizes = target.get_tensor_value() if target.is_const() else None
    output = node.output[0]
    Resize.version_11(ctx, node)
    if sizes is None or not shape or -1 in shape[1:3]:
        return
    resize = ctx.get_node_by_output(output).inputs[0]
    scales = [np.float32(size / old) for size, old in zip(sizes, shape[1:3], strict=True)]
    if [int(old * float(scale)) for scale, old in zip(scales, shape[1:3], strict=True)] == list(sizes):
        return
    larger = [1.0, 1.0, *(np.nextafter(scale, np.float32(np.inf)) for scale in scales)]
    ctx.replace_input(
        resize, resize.input[2], ctx.make_const(utils.make_name("scales"), np.array(larger, "f")).output[0], 2
    )


class Transposes(TransposeOptimizer):
    """tf2onnx's pass that moves Transposes until they meet and cancel, with what stops it on ordinary models mended."""

    def _initialize_handlers(self) -> None:
        super()._initialize_handlers()
        for operator in (
            "Ceil",
            "Floor",
            "HardSigmoid",
            "HardSwish",
            "Mish",
            "Not",
            "Sign",
            "Softsign",
            "ThresholdedRelu",
        ):
            self._handler_map[operator] = self._simple_through_handler

    def _optimize_at_current_graph_level(self, graph: Any) -> Any:
        # tf2onnx starts over at the first node after each move: the square of the number of nodes, 12 s for NASNet.
        self._g = graph
        self.pre_optimize_action()
        moved = True
        while moved:
            moved = False
            for node in list(graph.get_nodes()):
                if graph.get_node_by_name(node.name) is not node or not is_transpose(node):
                    continue
                if self._handle_nhwc_tranpose(node):
                    moved = self.graph_been_opt = True
                if graph.get_node_by_name(node.name) is node and is_useless_transpose(node):
                    self._remove_useless_tranpose(node)
                    moved = True
        self.merge_duplicated_transposes()
        self.post_optimize_action()
        return graph

    def post_optimize_action(self) -> None:
        # tf2onnx would make a Reshape of a Transpose that moves axes of size 1 only, which then stands in the way of the
        # others in its next round. reshapes.py does so when all have been moved.
        pass

    def _add_handler(self, trans: Any, node: Any) -> bool:
        # A scalar has no axis to move. tf2onnx takes the max of its empty shape, raises, and gives up on the whole
        # graph: the hard-swish of MobileNetV3, x + 3, left 108 Transposes.
        if node.inputs[1].is_const() and node.inputs[1].get_tensor_value(as_list=False).ndim == 0:
            return bool(self._switch_transpose_and_node(node, trans))
        return bool(super()._add_handler(trans, node))


_OPTIMIZERS = {**optimizer._get_optimizers(), "optimize_transpose": Transposes}

HANDLERS: dict[str, tuple[Any, list[Any]]] = {
    "Conv3D": (handle_conv3d, []),
    "Einsum": (handle_einsum, []),
    "Erfc": (handle_erfc, []),
    MARKER: (handle_marker, []),
    **{f"Resize{kind}": (handle_resize, []) for kind in ("Area", "Bicubic", "Bilinear", "NearestNeighbor")},
    "ReverseV2": (handle_reverse, []),
}


def to_onnx(
    graph_def: Any, inputs: Sequence[str], outputs: Sequence[str], opset: int, layer_of: Callable[[str], str]
) -> onnx.ModelProto:
    """The ONNX model of a TensorFlow graph, with TensorFlow's names (`node:0`) on its inputs and outputs.

    Args:
        opset: NEWEST_OPSET at most.
        layer_of: the layer that a node of the graph belongs to, for the error message.

    Raises UnsupportedError where an operator has no conversion.
    """
    names, wanted = list(inputs), list(outputs)
    with _quiet() as failures, tf.device("/cpu:0"):
        with tf.Graph().as_default():
            whole = _with_loops_whole(graph_def)
            tf.import_graph_def(whole, name="")
            graph_def = tf_loader.tf_optimize(names, wanted, whole)
        with tf.Graph().as_default() as graph:
            tf.import_graph_def(graph_def, name="")
            # continue_on_error: a rewriter that fails leaves the nodes to the next; an operator that fails is named below.
            onnx_graph = tfonnx.process_tf_graph(
                graph,
                continue_on_error=True,
                opset=opset,
                custom_op_handlers=dict(HANDLERS),
                input_names=names,
                output_names=wanted,
            )
        for node, error in failures:
            raise UnsupportedError(
                f"A TensorFlow operator in the layer {layer_of(node) or node!r} has no conversion to ONNX: {error}. "
                "Replace the layer, or cut the model in front of it."
            )
        # catch_errors copies the graph before every pass.
        proto = optimizer.optimize_graph(onnx_graph, catch_errors=False, optimizers=_OPTIMIZERS).make_model("kbn")
    _refuse_leftovers(proto.graph, opset, layer_of)
    return proto


def _with_loops_whole(graph_def: Any) -> Any:
    """Keeps While and If as they are: TensorFlow would take them apart into Switch and Merge, which have no conversion."""
    result = tf.compat.v1.GraphDef()
    result.CopyFrom(graph_def)
    for nodes in (result.node, *(function.node_def for function in result.library.function)):
        for node in nodes:
            if "_lower_using_switch_merge" in node.attr:
                node.attr["_lower_using_switch_merge"].b = False
    return result


def _refuse_leftovers(graph: onnx.GraphProto, opset: int, layer_of: Callable[[str], str]) -> None:
    for node in graph.node:
        if node.domain or not onnx.defs.has(node.op_type, opset, ""):
            raise UnsupportedError(
                f"The TensorFlow operator {node.op_type} in the layer {layer_of(node.name) or node.name!r} has no "
                "conversion to ONNX. Replace the layer, or cut the model in front of it."
            )
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _refuse_leftovers(attribute.g, opset, layer_of)


class _Listener(logging.Handler):
    """Passes what tf2onnx logs on to our own logger, below warnings, and keeps which nodes failed."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        _log.debug("tf2onnx: %s", record.getMessage())
        if str(record.msg).startswith("Failed to convert node") and isinstance(record.args, tuple):
            error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
            self.failures.append((str(record.args[0]), str(error or record.getMessage()).strip().rstrip(".")))


@contextmanager
def _quiet() -> Iterator[list[tuple[str, str]]]:
    """Keeps tf2onnx and TensorFlow off the terminal; gives the list of (node, error) that tf2onnx only logs."""
    tf2onnx, tensorflow = logging.getLogger("tf2onnx"), tf.get_logger()
    handlers, propagate, level = tf2onnx.handlers, tf2onnx.propagate, tensorflow.level
    listener = _Listener()
    tf2onnx.handlers, tf2onnx.propagate = [listener], False
    # TensorFlow warns of its deprecated functions as tf2onnx calls them.
    tensorflow.setLevel(logging.ERROR)
    try:
        yield listener.failures
    finally:
        tf2onnx.handlers, tf2onnx.propagate = handlers, propagate
        tensorflow.setLevel(level)
