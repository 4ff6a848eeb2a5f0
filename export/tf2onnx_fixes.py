"""tf2onnx, quiet, with the operators it lacks, and with its failures turned into errors.

tf2onnx reports an operator that it cannot convert in its log only, and returns the graph with the TensorFlow node in it.
Here the log is kept off the terminal, and a graph with such a node raises.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import onnx
import tensorflow as tf
from tf2onnx import optimizer, tf_loader, tfonnx
from tf2onnx.optimizer.transpose_optimizer import TransposeOptimizer, is_transpose, is_useless_transpose

from .errors import UnsupportedError
from .lookup_node import DOMAIN as ML_DOMAIN
from .lookup_node import VERSION as ML_VERSION
from .operator_handlers import HANDLERS

# The newest operator set that tf2onnx writes; above it, onnx's version converter takes over.
NEWEST_OPSET = 18

_log = logging.getLogger(__name__)


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
                extra_opset=[onnx.helper.make_opsetid(ML_DOMAIN, ML_VERSION)],
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
        version = ML_VERSION if node.domain == ML_DOMAIN else opset
        if not onnx.defs.has(node.op_type, version, node.domain):
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
