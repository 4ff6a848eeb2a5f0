"""LSTM and GRU become ONE node each, of either direction, with the activations that ONNX names.

                     Keras                       ONNX
    gates of LSTM    i f c o                     i o f c
    gates of GRU     z r h                       z r h; `linear_before_reset` is Keras' `reset_after`
    sequences        (N, T, U)                   (T, 1, N, U)
    kernel, bias     (F, gates U), (gates U)     (1, gates U, F), (1, 2 gates U): input's, then recurrent

`go_backwards` is `direction="reverse"`, whose sequence Keras has in the order of processing. Traced as they stand both are
loops, of which tf2onnx knows the LSTM with its default activations. What has a mask,
other activations, `recurrent_dropout` or `use_cudnn=False` is traced as Keras' loop, as before.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tf2onnx import utils

from .markers import Marked, mark

_ACTIVATIONS = (
    (keras.activations.sigmoid, "Sigmoid"),
    (keras.activations.tanh, "Tanh"),
    (keras.activations.relu, "Relu"),
    (keras.activations.hard_sigmoid, "HardSigmoid"),
    (keras.activations.softsign, "Softsign"),
    (keras.activations.softplus, "Softplus"),
)
_GATES = {"LSTM": (0, 3, 1, 2), "GRU": (0, 1, 2)}


def _lstm(
    inputs: Any,
    initial_state_h: Any,
    initial_state_c: Any,
    mask: Any,
    kernel: Any,
    recurrent_kernel: Any,
    bias: Any,
    activation: Any,
    recurrent_activation: Any,
    return_sequences: bool = False,
    go_backwards: bool = False,
    unroll: bool = False,
    time_major: bool = False,
) -> Any:
    activations = _names(mask, time_major, recurrent_activation, activation, activation)
    bias = None if bias is None else tf.concat([_by_gate(bias, "LSTM"), tf.zeros_like(bias)], 0)
    node = _Node("LSTM", inputs, kernel, recurrent_kernel, bias, [initial_state_h, initial_state_c])
    node.settings = {"reverse": go_backwards, "activations": activations}
    last = node.output("last")
    return last, node.sequence() if return_sequences else last[:, None], [last, node.output("cell")]


def _gru(
    inputs: Any,
    initial_state: Any,
    mask: Any,
    kernel: Any,
    recurrent_kernel: Any,
    bias: Any,
    activation: Any,
    recurrent_activation: Any,
    return_sequences: bool = False,
    go_backwards: bool = False,
    unroll: bool = False,
    time_major: bool = False,
    reset_after: bool = True,
) -> Any:
    activations = _names(mask, time_major, recurrent_activation, activation)
    if bias is not None:
        bias = tf.reshape(bias, [-1]) if reset_after else tf.concat([bias, tf.zeros_like(bias)], 0)
    node = _Node("GRU", inputs, kernel, recurrent_kernel, bias, [initial_state])
    node.settings = {"reverse": go_backwards, "activations": activations, "linear_before_reset": int(reset_after)}
    last = node.output("last")
    return last, node.sequence() if return_sequences else last[:, None], [last]


def _names(mask: Any, time_major: bool, *activations: Any) -> list[str]:
    """The names of the activations; NotImplementedError, on which Keras takes its loop, where ONNX has no such node."""
    names = [name for activation in activations for function, name in _ACTIVATIONS if function is activation]
    if mask is not None or time_major or len(names) != len(activations):
        raise NotImplementedError
    return names


class _Node:
    """The operands of one LSTM or GRU, as ONNX has them; each output is a marker of its own, and the nodes become one."""

    settings: dict[str, Any]

    def __init__(self, kind: str, x: Any, kernel: Any, recurrent: Any, bias: Any, states: list[Any]) -> None:
        self.kind, self.x = kind, tf.convert_to_tensor(x)
        kernel, recurrent = (tf.convert_to_tensor(each) for each in (kernel, recurrent))
        self.units = int(recurrent.shape[0])
        matrices = [tf.transpose(_by_gate(each, kind))[None] for each in (kernel, recurrent)]
        states = [] if all(map(_is_zero, states)) else [state[None] for state in states]
        self.operands = (tf.transpose(self.x, [1, 0, 2]), *matrices, *([] if bias is None else [bias[None]]), *states)
        self.has = {"bias": bias is not None, "states": len(states)}

    def output(self, which: str) -> Any:
        shape = [tf.shape(self.x)[0], self.units]
        if which == "sequence":
            shape.insert(1, tf.shape(self.x)[1])
        like = tf.ensure_shape(tf.zeros(shape, self.x.dtype), [*self.x.shape[: len(shape) - 1], self.units])
        return mark(self.kind, like, self.operands, output=which, units=self.units, **self.has, **self.settings)

    def sequence(self) -> Any:
        sequence = self.output("sequence")
        return tf.reverse(sequence, [1]) if self.settings["reverse"] else sequence


def _by_gate(weight: Any, kind: str) -> Any:
    """Keras' order of the gates on the last axis to ONNX'."""
    order = _GATES[kind]
    if order == tuple(sorted(order)):
        return weight
    units = weight.shape[-1] // len(order)
    # Slices, as a Split of a constant is not folded.
    return tf.concat([weight[..., gate * units : (gate + 1) * units] for gate in order], -1)


def _is_zero(state: Any) -> bool:
    """Whether a state is what `zeros` made: ONNX' own initial state."""
    if state.op.type not in ("Fill", "ZerosLike"):
        return False
    value = tf.get_static_value(state.op.inputs[1]) if state.op.type == "Fill" else 0
    return value is not None and float(value) == 0.0


def _write(ctx: Any, node: Any, settings: dict[str, Any]) -> None:
    kind, output = settings["kind"], node.output[0]
    shape, dtype = ctx.get_shape(output), ctx.get_dtype(output)
    _, x, kernel, recurrent, *rest = node.input
    bias = rest.pop(0) if settings["bias"] else utils.ONNX_EMPTY_INPUT
    inputs = [x, kernel, recurrent, bias, utils.ONNX_EMPTY_INPUT, *rest]
    while inputs[-1] == utils.ONNX_EMPTY_INPUT:
        inputs.pop()
    attributes = {
        "hidden_size": settings["units"],
        "direction": "reverse" if settings["reverse"] else "forward",
        "activations": settings["activations"],
    }
    if "HardSigmoid" in settings["activations"]:
        # One number for each activation that takes any, in their order.
        count = settings["activations"].count("HardSigmoid")
        attributes |= {"activation_alpha": [1 / 6] * count, "activation_beta": [0.5] * count}
    if kind == "GRU":
        attributes["linear_before_reset"] = settings["linear_before_reset"]
    ctx.remove_node(node.name)
    made = ctx.make_node(kind, inputs, attributes, output_count=2 + (kind == "LSTM"), op_name_scope=node.name)
    index = ("sequence", "last", "cell").index(settings["output"])
    axis = ctx.make_const(utils.make_name("axis"), np.array([0 if index else 1], np.int64)).output[0]
    outputs = {"outputs": [output], "shapes": [shape], "dtypes": [dtype]}
    if index:
        ctx.make_node("Squeeze", [made.output[index], axis], name=node.name, **outputs)
        return
    squeezed = ctx.make_node("Squeeze", [made.output[0], axis], op_name_scope=node.name).output[0]
    ctx.make_node("Transpose", [squeezed], {"perm": [1, 0, 2]}, name=node.name, **outputs)


def _write_lstm(ctx: Any, node: Any, settings: dict[str, Any]) -> None:
    _write(ctx, node, {"kind": "LSTM", **settings})


def _write_gru(ctx: Any, node: Any, settings: dict[str, Any]) -> None:
    _write(ctx, node, {"kind": "GRU", **settings})


LSTM = Marked("LSTM", ((keras.src.backend, "lstm", _lstm),), _write_lstm)
GRU = Marked("GRU", ((keras.src.backend, "gru", _gru),), _write_gru)
