"""From a Keras model to its graph: nested models inlined, built-in activations apart, only what is live.

`read` lists the calls of layers and operations that lead from a model's inputs to its outputs, in the order in which
they run. Nested functional and Sequential models are inlined: their layers stand in the list as if the outer model had
called them itself. So are layers and models whose `call` is made of Keras layers and operations alone (inlining.py). An old
Sequential keeps nodes of builds long gone, which are not listed.

The calls and their arguments are Keras' private graph (`_nodes_by_depth`, `arguments`, `_keras_history`), of which Keras
offers no public view. Seen on Keras 3.15.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import layers, ops, tree
from keras.src.backend import get_keras_mask

from .errors import UnsupportedError
from .graph import Graph, Layer, Node, Value
from .inlining import Inlined, inlined
from .model_ports import function_of, with_inputs
from .naming import unique
from .rules import rule_for
from .rules.kernel_rule import KernelRule
from .rules.rule import Shape, Weights


@dataclass(eq=False)
class KerasGraph(Graph):
    """The graph of a Keras model.

    Attributes:
        input_layers: the InputLayer of each input.
        input_structure, output_structure: the model's own nesting of inputs and outputs, a None for each tensor.
        output_names: the model's output names, in flattened order.
        kept_whole: for each layer without a rule that was not inlined, the reason.
    """

    input_layers: tuple[Any, ...] = ()
    input_structure: Any = None
    output_structure: Any = None
    output_names: tuple[str, ...] = ()
    kept_whole: Mapping[Any, str] = field(default_factory=dict)


def read(model: keras.Model) -> KerasGraph:
    """The graph of a functional or Sequential model, or of a subclassed one made of Keras layers and operations.

    Raises:
        UnsupportedError: the model is subclassed and cannot be read, or was never built.
    """
    function = function_of(with_inputs(model))
    # The model's own layers keep their names; those of nested models yield.
    reader = _Reader(names={operation: operation.name for operation in function.operations})
    inputs = tuple(Value(tuple(tensor.shape), tensor.dtype) for tensor in function.inputs)
    outputs = reader.inline(function, inputs)
    if model in reader.kept_whole:
        raise UnsupportedError(
            f"Model {model.name!r} is a subclass of keras.Model ({type(model).__name__}) whose graph of layers cannot be "
            f"read: {reader.kept_whole[model]}. Build it as keras.Model(inputs, outputs); `kbn export` takes it as it is."
        )
    return KerasGraph(
        name=model.name,
        inputs=inputs,
        nodes=_live(reader.nodes, outputs),
        outputs=outputs,
        input_layers=tuple(tensor._keras_history.operation for tensor in function.inputs),
        input_structure=tree.map_structure(lambda _: None, function._inputs_struct),
        output_structure=tree.map_structure(lambda _: None, function._outputs_struct),
        output_names=tuple(tensor._keras_history.operation.name for tensor in function.outputs),
        kept_whole=reader.kept_whole,
    )


def _live(nodes: Sequence[Node], outputs: Sequence[Value]) -> list[Node]:
    """The nodes that the outputs are computed from: of a nested model with several outputs not all may be used."""
    wanted, live = set(outputs), []
    for node in reversed(nodes):
        if wanted & set(node.outputs):
            wanted |= {*node.inputs, *node.masks}
            live.append(node)
    return live[::-1]


@dataclass
class _Reader:
    names: dict[Any, str]
    nodes: list[Node] = field(default_factory=list)
    layers: dict[Any, Layer] = field(default_factory=dict)
    kept_whole: dict[Any, str] = field(default_factory=dict)
    masked: set[Value] = field(default_factory=set)  # what may carry a mask when the model runs

    def inline(self, function: Any, inputs: Sequence[Value]) -> tuple[Value, ...]:
        """Appends the calls of `function` on these inputs to the nodes; returns its outputs, flattened."""
        values: dict[int, Any] = {id(tensor): value for tensor, value in zip(function.inputs, inputs, strict=True)}
        for depth in sorted(function._nodes_by_depth, reverse=True):
            for keras_node in function._nodes_by_depth[depth]:
                if keras_node.operation is None or isinstance(keras_node.operation, layers.InputLayer):
                    continue
                if any(id(tensor) not in values for tensor in keras_node.input_tensors):
                    continue  # It hangs on an input that the model does not have, so the model never runs it either.
                args, kwargs = keras_node.arguments.fill_in(values)
                outputs = self._call(keras_node.operation, args, kwargs, keras_node.outputs)
                values.update({id(tensor): value for tensor, value in zip(keras_node.outputs, outputs, strict=True)})
        return tuple(values[id(tensor)] for tensor in function.outputs)

    def _call(self, operation: Any, args: Any, kwargs: Any, tensors: list[Any]) -> tuple[Value, ...]:
        inner = function_of(operation)
        if inner is not None and _runs_plainly(inner, args, kwargs):
            return self.inline(inner, tuple(tree.flatten(args[0])))
        shapes = _shapes(operation, args, kwargs, tensors)
        if inner is None and isinstance(operation, layers.Layer) and not rule_for(type(operation)).types:
            found = inlined(operation, args, kwargs)
            if isinstance(found, Inlined):
                self.names.setdefault(operation, operation.name)
                return self.inline(found.function, found.inputs)
            self.kept_whole.setdefault(operation, found)
        outputs = tuple(Value(shape, tensor.dtype) for shape, tensor in zip(shapes, tensors, strict=True))
        layer = self._layer(operation)
        if kwargs.get("training"):
            layer.inner = None  # what is inside computes as in training
        masked = not self.masked.isdisjoint(leaf for leaf in tree.flatten((args, kwargs)) if isinstance(leaf, Value))
        if _gives_masks(operation, masked, tensors):
            self.masked.update(outputs)
        self.nodes.append(Node(layer, args, kwargs, outputs, masked))
        if layer.activation is not None:
            return self._activate(layer, layer.activation)
        return outputs

    def _activate(self, layer: Layer, activation: Layer) -> tuple[Value, ...]:
        """Puts the layer's activation behind its call, as a call of its own."""
        node = self.nodes[-1]
        (output,) = node.outputs
        node.outputs = (Value(output.shape, output.dtype),)
        self.nodes.append(Node(activation, node.outputs, {}, (output,), node.masked))
        return (output,)

    def _layer(self, operation: Any) -> Layer:
        if operation not in self.layers:
            self.layers[operation] = self._read_layer(operation)
        return self.layers[operation]

    def _read_layer(self, operation: Any) -> Layer:
        _check_activations(operation)
        rule = rule_for(type(operation))
        if operation not in self.names:
            # Numbered where an operation of another nested model has the name already.
            (self.names[operation],) = unique([operation.name], set(self.names.values()))
        config: dict[str, Any] = {}
        weights: dict[str, Any] = {}
        if rule.types and isinstance(operation, layers.Layer):
            config, weights = operation.get_config(), named_weights(operation)
        elif rule.types:
            config = {name: value for name, value in vars(operation).items() if not name.startswith("_")}
        layer = Layer(
            name=self.names[operation],
            type=type(operation),
            rule=rule,
            config=config,
            shapes={name: tuple(weight.shape) for name, weight in weights.items()},
            read=partial(_read_weights, weights),
            precision=_precision(operation),
            source=operation,
            trainable=getattr(operation, "trainable", True),
        )
        layer.inner = _read_inside(operation)
        if isinstance(rule, KernelRule) and config.get("activation") not in (None, "linear"):
            layer.activation = activation_of(layer)
            layer.config = {**config, "activation": "linear"}
        return layer


def _gives_masks(operation: Any, masked: bool, tensors: Sequence[Any]) -> bool:
    """Whether what a call returns carries a mask when the model runs: where it was passed on, or is made."""
    if not isinstance(operation, layers.Layer) or not operation.supports_masking:
        return False  # arithmetic returns new tensors, without
    return masked or any(get_keras_mask(tensor) is not None for tensor in tensors)


def _shapes(operation: Any, args: Any, kwargs: Mapping[str, Any], tensors: Sequence[Any]) -> list[Shape]:
    """The shapes of the call's outputs: those of `tensors`, which a nested model may have left dynamic, or sharper ones."""
    known = [tuple(tensor.shape) for tensor in tensors]
    given = [leaf for leaf in tree.flatten((list(args), dict(kwargs))) if isinstance(leaf, Value)]
    if all(None not in shape[1:] for shape in known) or any(None in value.shape[1:] for value in given):
        return known

    def symbolic(leaf: Any) -> Any:
        return keras.KerasTensor(leaf.shape, leaf.dtype) if isinstance(leaf, Value) else leaf

    filled = tree.map_structure(symbolic, (tuple(args), dict(kwargs)))
    try:
        return [tuple(spec.shape) for spec in tree.flatten(operation.compute_output_spec(*filled[0], **filled[1]))]
    except Exception:  # a layer's own code, which may raise anything
        return known


def _check_activations(operation: Any) -> None:
    """Raises UnsupportedError where the configuration would name another function than the layer applies."""
    for role in ("activation", "recurrent_activation"):
        function = getattr(operation, role, None)
        if not callable(function) or isinstance(function, layers.Layer):
            continue
        try:
            name = keras.activations.serialize(function)
            named = keras.activations.get(name) if isinstance(name, str) else function
            alike = named is function or np.array_equal(*(_values_of(each) for each in (named, function)))
        except Exception:  # a function that is not registered; copying the layer tells so
            continue
        if not alike:
            raise UnsupportedError(
                f"The {role} of layer {operation.name!r} is a function of your own that is saved as {name!r}, which is "
                "Keras' own. Give it another name, and register it with keras.saving.register_keras_serializable()."
            )


def _values_of(activation: Any) -> Any:
    return ops.convert_to_numpy(activation(ops.convert_to_tensor(np.linspace(-9.0, 9.0, 38).reshape(2, 19))))


def _read_inside(operation: Any) -> KerasGraph | None:
    """The graph of a model that runs on its own: one that is called with more than its inputs, or step by step."""
    held = operation.layer if type(operation) is layers.TimeDistributed else operation
    return read(held) if function_of(held) is not None else None


def activation_of(layer: Layer) -> Layer:
    """The layer's built-in activation as a layer."""
    config = {"activation": layer.config["activation"], "dtype": layer.config["dtype"]}
    rule = rule_for(layers.Activation)
    return Layer(f"{layer.name}_activation", layers.Activation, rule, config, {}, dict, layer.precision)


def named_weights(layer: Any) -> dict[str, Any]:
    """The layer's weights by name, with as much of their path as tells them apart: kernel, query/kernel."""
    paths = [weight.path.split("/") for weight in layer.weights]
    for length in range(1, max(map(len, paths), default=1) + 1):
        names = ["/".join(path[-length:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return dict(zip(names, layer.weights, strict=True)) if paths else {}


def _read_weights(weights: Mapping[str, Any]) -> Weights:
    return {name: ops.convert_to_numpy(weight).astype(np.float64) for name, weight in weights.items()}


def _precision(operation: Any) -> str:
    return str(operation.dtype_policy.name) if isinstance(operation, layers.Layer) else ""


def _runs_plainly(inner: Any, args: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether calling the nested model with these arguments only runs its layers, in inference, on what it is given.

    Keras sorts inputs that are named differently, casts their dtype and adjusts their rank before the first layer runs;
    a model that is called so stays whole.
    """
    if len(args) != 1 or kwargs.get("training") or any(isinstance(x, Value) for x in tree.flatten(dict(kwargs))):
        return False
    given, declared = tree.flatten(args[0]), inner.inputs
    try:
        # A single tensor may be given bare or in a list.
        if len(given) > 1:
            tree.assert_same_structure(tree.lists_to_tuples(args[0]), tree.lists_to_tuples(inner._inputs_struct))
    except ValueError:
        return False
    return len(given) == len(declared) and all(
        isinstance(value, Value) and value.dtype == tensor.dtype and len(value.shape) == len(tensor.shape)
        for value, tensor in zip(given, declared, strict=True)
    )
