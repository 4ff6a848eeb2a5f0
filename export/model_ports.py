"""What goes into and comes out of a Keras model, whatever kind of model it is: names, shapes, layouts.

A subclass of keras.Model has no symbolic inputs; it is wrapped in a functional model of the shapes that it was called
with. A model whose precision or inputs cannot be converted is refused here, before anything is traced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
from keras import tree
from keras.src.models.functional import Functional

from .errors import UnsupportedError, UsageError
from .layouts import TO_CHANNELS_FIRST, TO_CHANNELS_LAST
from .rules.rule import Shape
from .wording import reason

Shapes = Mapping[str, Sequence[int | None]]

_OTHER_FLOATS = frozenset({"float16", "bfloat16", "float64"})


@dataclass(frozen=True)
class Port:
    """An input or an output of the model, as the ONNX file has it."""

    name: str  # the layer's
    shape: Shape  # None where the size is free
    channels_first: bool
    transposition: tuple[int, ...] | None = None  # from the file's layout to the model's, where they differ

    @property
    def own_shape(self) -> Shape:
        """The shape in the model's layout."""
        return tuple(self.shape[axis] for axis in self.transposition or range(len(self.shape)))


def as_functional(model: keras.Model) -> Any:
    """The model itself where it has symbolic inputs, else one around it.

    Raises UsageError for a model that was never called, UnsupportedError for precisions other than float32.
    """
    _require_float32(model)
    return model if getattr(model, "inputs", None) else _wrapped(model)


def with_inputs(model: keras.Model) -> Any:
    """The model itself where it has symbolic inputs and outputs, else a functional model around it.

    Raises UnsupportedError where it was never called or built.
    """
    if isinstance(model, keras.Sequential) and not getattr(model, "inputs", None) and not model.built:
        raise UnsupportedError(
            f"Model {model.name!r} is a Sequential model without an input shape: add keras.Input(...) or call "
            "model.build(shape)."
        )
    if function_of(model) is not None:
        return model
    try:
        return _wrapped(model)
    except UsageError as error:
        raise UnsupportedError(str(error)) from error
    except Exception as error:  # the model's own code, which may raise anything
        raise UnsupportedError(
            f"Model {model.name!r} ({type(model).__name__}) cannot be called on symbolic inputs: {reason(error)}. Its "
            "call must return tensors, and be made of Keras layers and operations."
        ) from error


def function_of(operation: Any) -> Any:
    """The functional graph that calling `operation` runs, or None where it does something of its own."""
    if isinstance(operation, keras.Sequential) and type(operation).call is keras.Sequential.call:
        return operation._functional
    if isinstance(operation, Functional) and type(operation).call is Functional.call:
        return operation
    return None


def _wrapped(model: keras.Model) -> Any:
    """A functional model around a subclassed one; raises UsageError where that was never called."""
    if getattr(model, "inputs", None):
        inputs = tree.map_structure(lambda x: keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name), model.input)
        return keras.Model(inputs, model(inputs), name=model.name)
    named = {name: _symbolic(shape, name, model.compute_dtype) for name, shape in _build_shapes(model).items()}
    if len(named) == 1:
        (single,) = named.values()
        return keras.Model(single, model(single), name=model.name)
    return keras.Model(named, model(**named), name=model.name)


def _symbolic(shape: Any, name: str, dtype: str) -> Any:
    """Inputs of these shapes, nested alike; each of a list has a number, each of a dictionary its key for a name."""
    if isinstance(shape, dict):
        return {key: _symbolic(each, str(key), dtype) for key, each in shape.items()}
    if isinstance(shape, list | tuple) and any(isinstance(each, list | tuple | dict) for each in shape):
        return [_symbolic(each, f"{name}_{index}", dtype) for index, each in enumerate(shape)]
    return keras.Input(tuple(shape[1:]), dtype=dtype, name=name)


def input_ports(model: Any, input_layout: str | None, shapes: Shapes | None = None) -> tuple[Port, ...]:
    """The inputs in the order of `model.inputs`, those of rank 4 in the layout "nchw" or "nhwc"; None: in the model's.

    shapes: by input name what the file is to have otherwise than the model, in the file's layout; None is a free size.

    Raises UsageError for another layout or a shape that does not fit, UnsupportedError for strings.
    """
    check_layout(input_layout)
    own = channels_first(model)
    wanted = own if input_layout is None else input_layout == "nchw"
    ports = [_input_port(tensor, own, wanted) for tensor in model.inputs]
    if unknown := set(shapes or ()) - {port.name for port in ports}:
        raise UsageError(
            f"There is no input {', '.join(map(repr, sorted(unknown)))}; the model's are "
            f"{', '.join(repr(port.name) for port in ports)}."
        )
    return tuple(_reshaped(port, (shapes or {}).get(port.name, port.shape)) for port in ports)


def check_layout(input_layout: str | None) -> None:
    """Raises UsageError for a layout other than "nchw", "nhwc" and None."""
    if input_layout not in (None, "nchw", "nhwc"):
        raise UsageError(f"input_layout is {input_layout!r}; it must be 'nchw', 'nhwc' or None (as the model has it).")


def with_batch(model: Any, batch: int, shapes: Shapes | None = None, input_layout: str | None = None) -> Shapes:
    """The shapes, with this many examples in every input whose batch they, or the model, leave free.

    Raises UsageError where the model, or the shape given, has another batch.
    """
    found = {}
    for port in input_ports(model, input_layout, shapes):
        if port.shape[0] not in (None, batch):
            raise UsageError(
                f"Input {port.name!r} has a batch of {port.shape[0]}, where {batch} was asked for. Leave out the batch, or the "
                "shape of that input."
            )
        found[port.name] = (batch, *port.shape[1:])
    return found


def output_ports(model: Any, inputs: Sequence[Port] | None = None) -> tuple[Port, ...]:
    """The outputs in the order of `model.outputs`, in the model's layout; `inputs`: where they are not the model's own.

    Raises UsageError where the model does not take inputs of these shapes.
    """
    own = channels_first(model)
    shapes = [tuple(tensor.shape) for tensor in model.outputs]
    if inputs is not None and [port.own_shape for port in inputs] != [tuple(tensor.shape) for tensor in model.inputs]:
        shapes = _inferred(model, inputs)
    return tuple(Port(name, shape, own) for name, shape in zip(_output_names(model), shapes, strict=True))


def _output_names(model: Any) -> list[str]:
    """The keys, where the model returns a dict of tensors; else the names of the layers that made them."""
    returned = getattr(model, "_outputs_struct", None)
    if isinstance(returned, dict) and all(isinstance(tensor, keras.KerasTensor) for tensor in returned.values()):
        # In the order of model.outputs: sorted, but for an OrderedDict.
        return [str(path[0]) for path, _ in tree.flatten_with_path(returned)]
    return [_layer_name(tensor) for tensor in model.outputs]


def _inferred(model: Any, inputs: Sequence[Port]) -> list[Shape]:
    tensors = [
        keras.KerasTensor(port.own_shape, tensor.dtype) for port, tensor in zip(inputs, model.inputs, strict=True)
    ]
    try:
        outputs = model.compute_output_spec(pack_inputs(model, tensors))
    except Exception as error:  # the layers', which have no common base
        shapes = ", ".join(f"{port.name} {port.shape}" for port in inputs)
        raise UsageError(
            f"Model {model.name!r} does not take inputs of the shapes {shapes}: {reason(error)}."
        ) from error
    return [tuple(output.shape) for output in tree.flatten(outputs)]


def _reshaped(port: Port, shape: Sequence[int | None]) -> Port:
    if len(shape) != len(port.shape):
        raise UsageError(
            f"The shape {tuple(shape)} for input {port.name!r} has {len(shape)} axes; the model's {port.shape} has "
            f"{len(port.shape)}."
        )
    for wanted, size in zip(shape, port.shape, strict=True):
        if wanted is not None and (wanted < 1 or size not in (None, wanted)):
            raise UsageError(f"The shape {tuple(shape)} for input {port.name!r} does not fit the model's {port.shape}.")
    return replace(port, shape=tuple(shape))


def pack_inputs(model: Any, values: Sequence[Any]) -> Any:
    """The values, in the order of `model.inputs`, nested as the model takes them."""
    # A Sequential has no `input` until it was called.
    return values[0] if isinstance(model, keras.Sequential) else tree.pack_sequence_as(model.input, list(values))


def channels_first(model: Any) -> bool:
    """Whether the layers that have a data format agree on channels_first."""
    found = {layer.data_format for layer in model._flatten_layers() if hasattr(layer, "data_format")} - {None}
    return found == {"channels_first"}


def _input_port(tensor: Any, own: bool, wanted: bool) -> Port:
    name = _layer_name(tensor)
    if keras.backend.standardize_dtype(tensor.dtype) == "string":
        raise UnsupportedError(
            f"The input {name!r} holds strings, which the exported file cannot take. Cut the model after its text "
            "layers and export the part that takes numbers."
        )
    shape: Shape = tuple(tensor.shape)
    if len(shape) != 4 or own == wanted:
        return Port(name, shape, own)
    to_wanted, to_own = (TO_CHANNELS_FIRST, TO_CHANNELS_LAST) if wanted else (TO_CHANNELS_LAST, TO_CHANNELS_FIRST)
    return Port(name, tuple(shape[axis] for axis in to_wanted), wanted, to_own)


def _layer_name(tensor: Any) -> str:
    """The name of the layer that made a symbolic tensor: tensors of unnamed Inputs are called keras_tensor_20."""
    return str(tensor._keras_history.operation.name)


def _build_shapes(model: keras.Model) -> dict[str, Any]:
    """The shapes that a subclassed model was built with, by the argument of `call`."""
    config = (model.get_build_config() if model.built else None) or {}
    if "shapes_dict" in config:
        return {name.removesuffix("_shape"): shape for name, shape in config["shapes_dict"].items()}
    if config.get("input_shape") is not None:
        return {"input": config["input_shape"]}
    raise UsageError(
        f"The model {model.name!r} does not say what shape its inputs have. Call it once on data, or give it an "
        "Input layer, before the export."
    )


def _require_float32(model: keras.Model) -> None:
    # Models and input layers have a policy too, which nothing computes with.
    for layer in model._flatten_layers():
        if isinstance(layer, keras.Model | keras.layers.InputLayer):
            continue
        policy = layer.dtype_policy
        if getattr(policy, "quantization_mode", None) or {layer.compute_dtype, layer.variable_dtype} & _OTHER_FLOATS:
            raise UnsupportedError(
                f"The layer {layer.name!r} has the dtype policy {policy.name!r}; only float32 models convert. Make a "
                "copy of the model with the policy float32 and the same weights: lower precision is a step of its own, "
                "after the float32 file is proved."
            )
