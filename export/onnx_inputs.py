"""What two ONNX files declare of their inputs: the sizes that both take, the integers that a table has rows for, the layout.

An integer that the graph looks up in a table (Gather) must be one of its rows. So the graph is followed from each input over
the operators that hand integers on as they are, and the smallest table bounds what is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from .drawing import Declared, integer_limit
from .errors import UsageError
from .file_inputs import FileInputs, Port, compatible
from .image_folder import ImageFolder
from .named_arrays import arrays_of
from .wording import quote

Array = NDArray[Any]

_HAND_ON = frozenset({"Cast", "Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


def declared_inputs(
    graph: onnx.GraphProto, first: FileInputs, second: FileInputs, orders: Sequence[tuple[int, ...]]
) -> list[Declared]:
    """The first file's inputs, with the sizes that the second fixes.

    graph: of the first file. orders: in which each input of the second file has the axes of the first's.

    Raises:
        UsageError: one name stands for axes of different sizes.
    """
    found: list[tuple[Port, tuple[int | str | None, ...]]] = []
    fixed: dict[str, int] = {}
    for index, port in enumerate(first.ports):
        theirs = dict(zip(orders[index], second.ports[index].shape, strict=True))
        shape = tuple(
            theirs[axis] if isinstance(theirs[axis], int) and not isinstance(size, int) else size
            for axis, size in enumerate(port.shape)
        )
        for named, size in zip(port.shape, shape, strict=True):
            if isinstance(named, str) and isinstance(size, int) and fixed.setdefault(named, size) != size:
                raise UsageError(
                    f"{second.path} fixes axes that {first.path} calls {quote(named)} at different sizes, {fixed[named]} and "
                    f"{size}. Files must take the same inputs to be compared."
                )
        found.append((port, shape))
    return [
        Declared(
            port.name,
            tuple(fixed.get(size, size) if isinstance(size, str) else size for size in shape),
            port.dtype.name,
            integer_limit(port.dtype.name, looked_up(graph, port.name)),
        )
        for port, shape in found
    ]


def looked_up(graph: onnx.GraphProto, name: str) -> list[int]:
    """How many rows the tables have in which this input, or what is made of it, is looked up."""
    tables = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    same, rows = {name}, []
    for node in graph.node:  # in the order in which they run
        # Where: Keras counts negative integers from the end of the table, `x + rows if x < 0 else x`.
        handed = node.input[1:] if node.op_type == "Where" else node.input[:1] if node.op_type in _HAND_ON else ()
        if same & set(handed):
            same.add(node.output[0])
        elif node.op_type == "Gather" and node.input[1] in same and node.input[0] in tables:
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
            rows.append(tables[node.input[0]][axis])
    return rows


def as_the_file_has_it(data: Any, inputs: FileInputs) -> list[Array] | ImageFolder:
    """The user's arrays, one for each input; images as the Keras model takes them in the layout of the file.

    A folder of images has no layout yet: it is read in that of the input which asks for it.
    """
    if isinstance(data, ImageFolder):
        return data
    arrays = arrays_of(data, [port.name for port in inputs.ports], str(inputs.path))
    return [_turned(array, port, inputs) for array, port in zip(arrays, inputs.ports, strict=True)]


def _turned(array: Array, port: Port, inputs: FileInputs) -> Array:
    """The array in the model's layout, where that fits, else as it is."""
    if array.ndim != 4 or len(port.shape) != 4:
        return array
    moved = np.transpose(array, inputs.from_model)
    return moved if all(map(compatible, port.shape[1:], moved.shape[1:])) else array
