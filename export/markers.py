"""An operation that ONNX has as one node is traced as one: as a marker, which becomes the node.

Traced as it stands, Keras' batch normalization is a Reshape of each vector, an Add, an Rsqrt, two Mul, a Sub and an Add, from
which the statistics and epsilon can no longer be told; layer normalization and the activations fare alike. So while a model is
traced, such an operation is replaced by a marker that carries its operands through TensorFlow and tf2onnx untouched, and a
tf2onnx handler turns the marker into what the operation is in ONNX.

The marker is TensorFlow's `Print`: an operation that returns its first operand, takes any number of others, has a string
attribute, and that no optimiser removes. It never runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

OPERATOR = "Print"
_PREFIX = "kbn."


@dataclass(frozen=True)
class Marked:
    """An operation that is traced as a marker.

    Attributes:
        name: the operation's, in the marker.
        patches: (module, attribute, replacement) for each function of Keras or kbn that computes it; the replacement returns
            what `mark` returns, or calls the original where ONNX has no such node.
        write: the tf2onnx handler: (context, the marker's node, its settings) -> None.
    """

    name: str
    patches: tuple[tuple[Any, str, Callable[..., Any]], ...]
    write: Callable[[Any, Any, dict[str, Any]], None]


def mark(name: str, x: Any, operands: tuple[Any, ...] = (), **settings: Any) -> Any:
    """A marker of the shape and dtype of x; the settings are JSON values."""
    message = _PREFIX + json.dumps({"name": name, **settings})
    return tf.raw_ops.Print(input=x, data=list(operands), message=message)


def read_marker(node: Any) -> tuple[str, dict[str, Any]]:
    """The name and the settings of a marker in a tf2onnx graph; raises ValueError for another `Print`."""
    message = node.get_attr_value("message", b"")
    message = message.decode() if isinstance(message, bytes) else message
    if not message.startswith(_PREFIX):
        raise ValueError("Print has no counterpart in ONNX")
    settings = json.loads(message.removeprefix(_PREFIX))
    return settings.pop("name"), settings


def replace(
    ctx: Any, node: Any, operator: str, inputs: list[str], attributes: dict[str, Any], domain: str = ""
) -> None:
    """Puts one ONNX node in the marker's place."""
    output = node.output[0]
    shapes, dtypes = [ctx.get_shape(output)], [ctx.get_dtype(output)]
    ctx.remove_node(node.name)
    ctx.make_node(
        operator, inputs, attributes, name=node.name, outputs=[output], shapes=shapes, dtypes=dtypes, domain=domain
    )
