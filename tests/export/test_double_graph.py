"""Graphs in float64: every place that names a narrower float, and what stays."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from kbn.export.double_graph import in_double

FLOAT = TensorProto.FLOAT
X = np.linspace(-2, 2, 12).reshape(3, 4)


def model(*nodes, constants=None, opset=18):
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", FLOAT, [3, 4])],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def branch(value):
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.array([value], np.float32)))
    return helper.make_graph([constant], "b", [], [helper.make_tensor_value_info("c", FLOAT, [1])])


THIRD = np.float32(1 / 3)
# Each gives x plus something; a narrower float on the way would show, as float32 or as an error of the evaluator.
GRAPHS = {
    "initializer": (model(helper.make_node("Add", ["x", "c"], ["y"]), constants={"c": THIRD}), X + float(THIRD)),
    "half initializer": (
        model(helper.make_node("Add", ["x", "c"], ["y"]), constants={"c": np.float16(1 / 3)}),
        X + float(np.float16(1 / 3)),
    ),
    "constant": (
        model(
            helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.array([THIRD]))),
            helper.make_node("Add", ["x", "c"], ["y"]),
        ),
        X + float(THIRD),
    ),
    "constant as a float": (
        model(
            helper.make_node("Constant", [], ["c"], value_float=1 / 3),
            helper.make_node("Constant", [], ["d"], value_floats=[1.0]),
            helper.make_node("Sum", ["x", "c", "d"], ["y"]),
        ),
        X + float(THIRD) + 1,
    ),
    "cast": (
        model(
            helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
            helper.make_node("Cast", ["h"], ["y"], to=FLOAT),
        ),
        X,
    ),
    "filled": (
        model(
            helper.make_node("Shape", ["x"], ["s"]),
            helper.make_node("ConstantOfShape", ["s"], ["c"]),
            helper.make_node("Add", ["x", "c"], ["y"]),
        ),
        X,
    ),
    "branch": (
        model(
            helper.make_node("If", ["which"], ["c"], then_branch=branch(THIRD), else_branch=branch(0)),
            helper.make_node("Add", ["x", "c"], ["y"]),
            constants={"which": np.array(True)},
        ),
        X + float(THIRD),
    ),
    "LayerNormalization": (
        model(
            helper.make_node("LayerNormalization", ["x", "c"], ["y"], epsilon=1e-12),
            constants={"c": np.ones(4, np.float32)},
        ),
        (X - X.mean(1, keepdims=True)) / np.sqrt(X.var(1, keepdims=True) + float(np.float32(1e-12))),
    ),
    "RMSNormalization": (
        model(
            helper.make_node("RMSNormalization", ["x", "c"], ["y"]), constants={"c": np.ones(4, np.float32)}, opset=23
        ),
        X / np.sqrt((X * X).mean(1, keepdims=True) + float(np.float32(1e-5))),
    ),
}


@pytest.mark.parametrize("kind", GRAPHS)
def test_what_names_a_narrower_float_is_widened(kind):
    proto, expected = GRAPHS[kind]
    before = proto.SerializeToString()
    (found,) = ReferenceEvaluator(in_double(proto)).run(None, {"x": X})
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)
    assert proto.SerializeToString() == before


def test_group_normalization_is_not_stashed_in_float32():
    proto = model(
        helper.make_node("GroupNormalization", ["x", "c", "c"], ["y"], num_groups=2),
        constants={"c": np.ones(4, np.float32)},
        opset=21,
    )
    x = np.random.default_rng(0).normal(size=(2, 4, 5))
    (found,) = ReferenceEvaluator(in_double(proto)).run(None, {"x": x})
    groups = x.reshape(2, 2, 10)
    deviation = np.sqrt(groups.var(2, keepdims=True) + float(np.float32(1e-5)))
    expected = ((groups - groups.mean(2, keepdims=True)) / deviation).reshape(x.shape) + 1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


def test_integers_stay_and_types_are_double():
    proto = model(helper.make_node("Gather", ["x", "i"], ["y"]), constants={"i": np.array([1, 0])})
    wide = in_double(proto)
    assert wide.graph.initializer[0].data_type == TensorProto.INT64
    assert [v.type.tensor_type.elem_type for v in (*wide.graph.input, *wide.graph.output)] == [TensorProto.DOUBLE] * 2


def test_functions_of_the_models_own():
    body = [
        helper.make_node("Constant", [], ["c"], value_float=1 / 3),
        helper.make_node("Add", ["a", "c"], ["b"]),
    ]
    function = helper.make_function("own", "Shift", ["a"], ["b"], body, [helper.make_opsetid("", 18)])
    proto = model(helper.make_node("Shift", ["x"], ["y"], domain="own"))
    proto.functions.append(function)
    proto.opset_import.append(helper.make_opsetid("own", 1))
    (found,) = ReferenceEvaluator(in_double(proto)).run(None, {"x": X})
    np.testing.assert_allclose(found, X + float(THIRD), rtol=0, atol=1e-14)
