"""The Einsum of an attention becomes one MatMul between Transposes.

    abcd,aecd->acbe        scores: a the batch, c the heads, d is summed over
    A to (a, c, b, d), B to (a, c, d, e), A B is (a, c, b, e)

tf2onnx makes some fifteen nodes of it, which work out shapes at each run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Any

from tf2onnx.onnx_opset.math import Einsum


@dataclass(frozen=True)
class Contraction:
    """One MatMul.

    left, right: which of the two operands stands where.
    left_axes, right_axes, result_axes: the orders of the Transposes in front of it, and behind it.
    """

    left: int
    right: int
    left_axes: tuple[int, ...]
    right_axes: tuple[int, ...]
    result_axes: tuple[int, ...]


def contraction(equation: str) -> Contraction | None:
    """The one MatMul that an equation such as `abcd,aecd->acbe` is; None where it is none.

    It is one where each operand has one axis of its own, they share one that the output has not, and the rest is in all three.
    """
    terms, arrow, output = equation.replace(" ", "").partition("->")
    operands = terms.split(",")
    if not arrow or len(operands) != 2 or not f"{terms}{output}".replace(",", "").isalpha():
        return None
    if any(len(set(term)) != len(term) for term in (*operands, output)):
        return None
    first, second, kept = (set(term) for term in (*operands, output))
    summed = "".join((first & second) - kept)
    own = "".join((first & kept) - second), "".join((second & kept) - first)
    if len(summed) != 1 or any(len(letters) != 1 for letters in own) or first | second != kept | set(summed):
        return None
    # The operand whose own axis comes first in the output stands on the left.
    left = 0 if output.index(own[0]) < output.index(own[1]) else 1
    right = 1 - left
    batch = [letter for letter in output if letter in first & second]
    result = [*batch, own[left], own[right]]
    return Contraction(
        left,
        right,
        tuple(operands[left].index(letter) for letter in (*batch, own[left], summed)),
        tuple(operands[right].index(letter) for letter in (*batch, summed, own[right])),
        tuple(result.index(letter) for letter in output),
    )


def spelled_out(equation: str, shapes: Sequence[Sequence[int]]) -> str:
    """The equation with letters for the axes that `...` stands for, from the shapes of the operands.

    Left as it is where these are not equally many in each operand that has them, or there is no output.
    """
    equation = equation.replace(" ", "")
    terms, arrow, _ = equation.partition("->")
    operands = terms.split(",")
    if "..." not in equation or not arrow:
        return equation
    hidden = []
    for term, shape in zip(operands, shapes, strict=True):
        before, _, after = term.partition("...")
        if "..." in term:
            hidden.append(len(shape) - len(before) - len(after))
    if len(set(hidden)) != 1:
        return equation
    free = [letter for letter in ascii_lowercase if letter not in equation]
    return equation.replace("...", "".join(free[: hidden[0]]))


def _broadcasts(equation: str, shapes: Sequence[Sequence[int]]) -> bool:
    """Whether a letter stands for axes of different sizes, of which one is 1; a free size, -1, is taken for equal."""
    operands = equation.partition("->")[0].split(",")
    found: dict[str, set[int]] = {}
    for term, shape in zip(operands, shapes, strict=True):
        for letter, size in zip(term, shape, strict=False):
            found.setdefault(letter, set()).add(size)
    return any(len(sizes - {-1}) > 1 for sizes in found.values())


def handle_einsum(ctx: Any, node: Any, _name: str, _args: Any) -> None:
    """tf2onnx handler: the MatMul, or tf2onnx's own where it is none."""
    equation = node.get_attr_value("equation")
    equation = equation.decode() if isinstance(equation, bytes) else equation
    shapes = [ctx.get_shape(value) for value in node.input]
    spelled = spelled_out(equation, shapes)
    found = contraction(spelled)  # whose MatMul broadcasts as the ellipsis does
    if found is None:
        if "..." in spelled or _broadcasts(spelled, shapes):
            raise ValueError(f"the einsum {equation} broadcasts along axes of its ellipsis, which ONNX has no form of")
        node.set_attr("equation", spelled)
        Einsum.version_12(ctx, node)
        return
    inputs, output = list(node.input), node.output[0]
    shape, dtype = ctx.get_shape(output), ctx.get_dtype(output)
    ctx.remove_node(node.name)

    def transposed(value: str, axes: tuple[int, ...], **outputs: Any) -> str:
        if axes == tuple(range(len(axes))) and not outputs:
            return value
        return str(ctx.make_node("Transpose", [value], {"perm": axes}, op_name_scope=node.name, **outputs).output[0])

    left = transposed(inputs[found.left], found.left_axes)
    right = transposed(inputs[found.right], found.right_axes)
    outputs = {"outputs": [output], "shapes": [shape], "dtypes": [dtype]}
    if found.result_axes == tuple(range(len(found.result_axes))):
        ctx.make_node("MatMul", [left, right], name=node.name, **outputs)
        return
    product = ctx.make_node("MatMul", [left, right], op_name_scope=node.name).output[0]
    transposed(product, found.result_axes, **outputs)
