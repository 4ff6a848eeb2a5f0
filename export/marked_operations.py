"""Every operation that is traced as a marker; a context that traces them so, and the handler that writes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import keras
import tensorflow as tf

from .activation_nodes import GELU, HARD_SIGMOID, HARD_SWISH
from .batch_norm_node import BATCH_NORMALIZATION
from .layer_norm_node import LAYER_NORMALIZATION
from .layer_norm_node import OLDEST_OPSET as LAYER_NORMALIZATION_OPSET
from .lookup_node import LOOKUP
from .markers import read_marker
from .recurrent_nodes import GRU, LSTM

_MARKED = (BATCH_NORMALIZATION, GELU, GRU, HARD_SIGMOID, HARD_SWISH, LAYER_NORMALIZATION, LOOKUP, LSTM)
_keras_resize = keras.src.ops.image.resize
_BY_NAME = {operation.name: operation for operation in _MARKED}


@contextmanager
def operations_marked(opset: int) -> Iterator[None]:
    """While this is open, the operations that ONNX has at this opset are traced as markers."""
    with ExitStack() as stack:
        for operation in _MARKED:
            if operation is LAYER_NORMALIZATION and opset < LAYER_NORMALIZATION_OPSET:
                continue
            for module, name, replacement in operation.patches:
                stack.enter_context(mock.patch.object(module, name, replacement))
        stack.enter_context(mock.patch.object(keras.src.backend.tensorflow.numpy, "signbit", _signbit))
        stack.enter_context(mock.patch.object(keras.src.ops.image, "resize", _resize))
        yield


def _signbit(x: Any) -> Any:
    """Whether the sign bit is set, zeros told apart by their reciprocals: Keras' argmax looks at the bits, ONNX cannot."""
    x = tf.convert_to_tensor(x)
    return tf.where(tf.equal(x, 0), 1 / x, x) < 0 if x.dtype.is_floating else x < 0


def _resize(images: Any, size: Any, *args: Any, **kwargs: Any) -> Any:
    """`keras.ops.image.resize`, which asks whether the size is positive: of one known only when the model runs it cannot."""
    if not any(tf.is_tensor(each) for each in size):
        return _keras_resize(images, size, *args, **kwargs)
    return keras.src.ops.image._resize(images, size, *args, **kwargs)


def handle_marker(ctx: Any, node: Any, _name: str, _args: Any) -> None:
    """tf2onnx handler of every marker."""
    name, settings = read_marker(node)
    _BY_NAME[name].write(ctx, node, settings)
