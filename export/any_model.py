"""`fold` and `inspect` of whatever a model comes as: a Keras model, an ONNX model, or the file of one."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import keras

from . import folding
from .archive import load_model
from .errors import UsageError
from .fold_report import FoldReport

if TYPE_CHECKING:
    import onnx

PathOrName = str | PathLike[str]


@overload
def fold(
    model: keras.Model | PathOrName,
    *,
    ones_channel: bool = ...,
    custom_objects: Mapping[str, Any] | None = ...,
    allow_unsafe: bool = ...,
) -> tuple[keras.Model, FoldReport]: ...
@overload
def fold(model: onnx.ModelProto, *, ones_channel: bool = ...) -> tuple[onnx.ModelProto, FoldReport]: ...
def fold(
    model: Any,
    *,
    ones_channel: bool = True,
    custom_objects: Mapping[str, Any] | None = None,
    allow_unsafe: bool = False,
) -> tuple[Any, FoldReport]:
    """The model with each batch normalization, and every other affine layer, folded into the weights beside it.

    Args:
        model: a Keras model: functional, Sequential, or a subclass whose `call` is made of Keras layers and operations. Or an
            `onnx.ModelProto` from anywhere. Or the file of either: `.keras`, `.h5`, `.onnx`. It is left as it is.
        ones_channel: whether a convolution may get one more channel, to do without a normalization before zero padding. It
            leaves the fewest operations; onnxruntime's CPU kernels run the normalization faster (README).
        custom_objects, allow_unsafe: for opening a Keras file, as `kbn.export.archive.load_model` takes them.

    Returns:
        A model of the same kind that computes at inference what `model` computes, up to the rounding of the folded weights to
        their dtype, with the names of its inputs and outputs; and the report, one row for each affine layer. A Keras model
        comes back functional, made of Keras' own layers.

    Raises:
        UnsupportedError: the model is subclassed and cannot be read, was never built, has a layer that cannot be copied from
            its configuration, or a folded weight does not fit into its dtype.
        BrokenModelError: a weight is not finite, or a moving variance negative; a file that is no model.
        UsageError, UnsafeModelError: for a file, as `kbn.export.archive.load_model` raises them.
    """
    loaded = _loaded(model, custom_objects, allow_unsafe)
    if not isinstance(loaded, keras.Model):
        from .onnx_folding import fold_onnx

        return fold_onnx(loaded, ones_channel)
    return folding.fold(loaded, ones_channel)


def inspect(
    model: keras.Model | onnx.ModelProto | PathOrName,
    *,
    ones_channel: bool = True,
    custom_objects: Mapping[str, Any] | None = None,
    allow_unsafe: bool = False,
) -> FoldReport:
    """What `fold` would do with each affine layer of `model`, without doing it; arguments and errors are those of `fold`."""
    loaded = _loaded(model, custom_objects, allow_unsafe)
    if not isinstance(loaded, keras.Model):
        from .onnx_folding import inspect_onnx

        return inspect_onnx(loaded, ones_channel)
    return folding.inspect(loaded, ones_channel)


def _loaded(model: Any, custom_objects: Mapping[str, Any] | None, allow_unsafe: bool) -> Any:
    if isinstance(model, keras.Model) or hasattr(model, "SerializeToString"):
        return model
    if not isinstance(model, str | PathLike):
        raise UsageError(
            f"A model is a keras.Model, an onnx.ModelProto or the path of a file, not {type(model).__name__}."
        )
    if Path(model).suffix.lower() == ".onnx":
        from .onnx_folding import load_onnx

        return load_onnx(model)
    return load_model(model, custom_objects=custom_objects, allow_unsafe=allow_unsafe)
