"""A float64 run of an ONNX file, by the reference evaluator of onnx: numpy, one operator after the other.

onnxruntime has no double kernel on the CPU for Conv, AveragePool and others; the evaluator computes each operator in the type
of its inputs. It is checked as it goes: an operator that it has not, that fails, or that gives narrower floats all the same is
named and refused, so that nothing less than float64 is ever called the truth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from .double_graph import in_double
from .errors import UnsupportedError
from .onnx_opening import open_onnx
from .window_operators import AveragePool, Conv, MaxPool
from .wording import quote, reason

Array = NDArray[Any]

_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
_RECURRENT = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
_LENGTHS = 4  # which input of a recurrent operator holds the lengths of the sequences


class DoubleRun:
    """Runs the file in float64; `graph` is the file's own.

    Raises:
        BrokenModelError: the file, or the weights beside it, cannot be read.
        UnsupportedError: it has an operator that cannot be run in float64.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        model = open_onnx(path)
        self._check_operators(model)
        self.graph = model.graph
        self._inputs = [each.name for each in _given(model.graph)]
        wide = in_double(model)
        try:
            self._evaluator = ReferenceEvaluator(wide, new_ops=[Conv, MaxPool, AveragePool])
        except Exception as error:  # of many kinds, for an operator that it has not
            raise UnsupportedError(
                self._refusal(f"the reference evaluator does not take it ({reason(error)})")
            ) from error

    def run(self, arrays: Sequence[Array]) -> Mapping[str, Array]:
        """Every tensor by its name, for these inputs in the order of the file.

        Raises:
            UnsupportedError: an operator fails in float64, or gives narrower floats.
        """
        feeds = {
            name: array.astype(np.float64) if array.dtype.kind == "f" else array
            for name, array in zip(self._inputs, arrays, strict=True)
        }
        try:
            with np.errstate(all="ignore"):  # infinity and NaN are results, which the check compares
                results: Any = self._evaluator.run(None, feeds, intermediate=True)
        except Exception as error:  # of many kinds
            operator = _at_fault(error)
            why = f"operator {operator} cannot be run ({reason(error)})" if operator else reason(error)
            raise UnsupportedError(self._refusal(why)) from error
        for node in self.graph.node:
            for name in node.output:
                value = results.get(name)
                if isinstance(value, np.ndarray | np.generic) and value.dtype.kind == "f" and value.dtype != np.float64:
                    raise UnsupportedError(self._refusal(f"operator {_shown(node)} gives {value.dtype} there"))
        return dict(results)

    def _check_operators(self, model: onnx.ModelProto) -> None:
        functions = {(function.domain, function.name) for function in model.functions}
        for node in _every_node(model):
            own = (node.domain, node.op_type) in functions
            if node.domain not in _DOMAINS and not own:
                raise UnsupportedError(
                    self._refusal(f"operator {_shown(node)} of domain {quote(node.domain)} is not ONNX' own")
                )
            if not own and (ignored := _ignored(node)):
                raise UnsupportedError(
                    self._refusal(f"the reference evaluator ignores {ignored} of operator {_shown(node)}")
                )

    def _refusal(self, why: str) -> str:
        return (
            f"{quote(str(self._path))} cannot be run in float64, so there is no truth to compare with: {why}. Compare both "
            "files with the Keras model (`kbn check MODEL FILE.onnx`), where there is one."
        )


def _given(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs that are no constants: files of the first versions list both."""
    constants = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in constants]


def _every_node(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Those of the graph, of its subgraphs and of its functions."""
    waiting = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while waiting:
        node = waiting.pop()
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                waiting.extend(graph.node)


def _ignored(node: onnx.NodeProto) -> str:
    """What the evaluator's recurrent operators pass over without a word; "" for nothing."""
    if node.op_type not in _RECURRENT:
        return ""
    given = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    activations = [each.decode() for each in given.get("activations", [])]
    usual = _RECURRENT[node.op_type]
    if activations and activations not in (usual, usual * 2):
        return f"the activations {', '.join(activations)}"
    if given.get("clip"):
        return "the clip"
    if given.get("input_forget"):
        return "input_forget"
    return "the sequence lengths" if len(node.input) > _LENGTHS and node.input[_LENGTHS] else ""


def _at_fault(error: BaseException) -> str:
    """The operator inside which the error was raised, the innermost; "" for none."""
    found, frame = "", error.__traceback__
    while frame is not None:
        owner = frame.tb_frame.f_locals.get("self")
        if isinstance(owner, OpRun):
            found = _shown(owner.onnx_node)
        frame = frame.tb_next
    return found


def _shown(node: onnx.NodeProto) -> str:
    return f"{node.op_type} ({quote(node.name)})" if node.name else node.op_type
