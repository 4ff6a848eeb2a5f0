"""A table from integers to integers becomes one LabelEncoder of ONNX' ai.onnx.ml domain: IntegerLookup.

TensorFlow keeps the table outside the graph, as a resource, which neither tf2onnx nor ONNX has; the marker carries its keys and
values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from .markers import Marked, mark, replace

DOMAIN = "ai.onnx.ml"
VERSION = 2  # of the domain, the first with integers on both sides

_lookup = tf.lookup.StaticHashTable.lookup


def _table_lookup(table: Any, keys: Any, name: str | None = None) -> Any:
    if not table.key_dtype == table.value_dtype == tf.int64 or isinstance(keys, tf.SparseTensor | tf.RaggedTensor):
        return _lookup(table, keys, name)
    with tf.init_scope():
        known, values = (each.numpy() for each in table.export())
        default = int(table.default_value)
    order = np.argsort(known)
    operands = (tf.constant(known[order]), tf.constant(values[order]))
    return mark("Lookup", tf.cast(keys, tf.int64), operands, default=default)


def _write(ctx: Any, node: Any, settings: dict[str, Any]) -> None:
    keys, values = (operand.get_tensor_value(as_list=False) for operand in node.inputs[1:])
    attributes = {"keys_int64s": keys, "values_int64s": values, "default_int64": settings["default"]}
    replace(ctx, node, "LabelEncoder", [node.input[0]], attributes, domain=DOMAIN)


LOOKUP = Marked("Lookup", ((tf.lookup.StaticHashTable, "lookup", _table_lookup),), _write)
