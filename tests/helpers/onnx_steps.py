"""Small ONNX graphs in text form, and what a step does to them: the operators it leaves, and the same numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort


def parsed(body: str, opset: int = 18, **initializers: np.ndarray) -> ir.Model:
    """A model of one graph in ONNX's text form, with these initializers."""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g {body}')
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in initializers.items())
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))


def run(model: ir.Model, *arrays: np.ndarray) -> list[np.ndarray]:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options)
    return session.run(None, {value.name: array for value, array in zip(proto.graph.input, arrays, strict=True)})


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def assert_step(
    model: ir.Model, step: Callable[[ir.Model], None], after: list[str], *arrays: np.ndarray, exact: bool = True
) -> None:
    """The step leaves these operators, after what became unused is gone, and the same numbers."""
    before = run(model, *arrays)
    step(model)
    ir.passes.common.RemoveUnusedNodesPass()(model)
    assert [operator for operator in operators(model) if operator != "Constant"] == after
    for a, b in zip(run(model, *arrays), before, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=0 if exact else 1e-6 * np.abs(b).max())
