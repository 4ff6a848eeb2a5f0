"""The functions that an ONNX file defines: none calls itself, and unfolded they are not many times the file.

onnxruntime, shape inference and the reference evaluator put the body of a function in the place of each call. Functions that
call others twice double at each step, so that a file of a few kilobytes unfolds to more nodes than any memory holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx

from .errors import BrokenModelError, UnsafeModelError
from .wording import quote

_MOST_NODES = 200_000  # that functions may unfold to, where the file itself has less than a tenth

_Name = tuple[str, str]  # domain and operator
_Calls = dict[_Name, Counter[_Name]]


def every_node(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """These and those of the subgraphs below them. No recursion: depth is the file's choice."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        yield node
        waiting += _below(node.attribute)


def nodes_of(function: onnx.FunctionProto) -> list[onnx.NodeProto]:
    """The nodes of its body, and of the graphs that its attributes have where a call gives none."""
    return [*function.node, *_below(function.attribute_proto)]


def check_functions(path: Path, model: onnx.ModelProto) -> None:
    """Looks at how the functions of a model call each other.

    Raises:
        BrokenModelError: one calls itself, if by others.
        UnsafeModelError: they unfold to more nodes than a model has.
    """
    calls: _Calls = {}
    for function in model.functions:
        # Overloads of a function are taken together: which one is called does not matter here.
        own = calls.setdefault((function.domain, function.name), Counter())
        own.update((node.domain, node.op_type) for node in every_node(nodes_of(function)))
    graph = Counter((node.domain, node.op_type) for node in every_node(model.graph.node))
    allowed = max(_MOST_NODES, 10 * (graph.total() + sum(each.total() for each in calls.values())))
    sizes: dict[_Name, int] = {}
    for name in _callees_first(path, calls):
        sizes[name] = _unfolded(calls[name], sizes, allowed)
    if max(_unfolded(graph, sizes, allowed), *sizes.values(), 0) > allowed:
        raise UnsafeModelError(
            f"{path} has {graph.total()} nodes, which unfold to more than {allowed} by functions that call others: it would "
            "fill the memory. Do not open this file unless you know who made it."
        )


def _below(attributes: Iterable[onnx.AttributeProto]) -> list[onnx.NodeProto]:
    """The nodes of the graphs in these attributes; by the fields, not by the type, which a reader may not look at."""
    return [
        node
        for attribute in attributes
        for graph in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs)
        for node in graph.node
    ]


def _unfolded(calls: Counter[_Name], sizes: dict[_Name, int], allowed: int) -> int:
    """How many nodes these unfold to; past what is allowed a number of any size is as good as another."""
    return min(sum(times * sizes.get(name, 1) for name, times in calls.items()), allowed + 1)


def _callees_first(path: Path, calls: _Calls) -> Iterator[_Name]:
    """The functions, each behind those that it calls."""
    done: set[_Name] = set()
    for start in calls:
        if start in done:
            continue
        under_way, stack = {start}, [(start, iter(calls[start]))]
        while stack:
            name, callees = stack[-1]
            callee = next((each for each in callees if each in calls and each not in done), None)
            if callee is None:
                stack.pop()
                under_way.discard(name)
                done.add(name)
                yield name
            elif callee in under_way:
                raise BrokenModelError(
                    f"{path}: function {quote(callee[1])} calls itself. Write the file anew with its exporter."
                )
            else:
                under_way.add(callee)
                stack.append((callee, iter(calls[callee])))
