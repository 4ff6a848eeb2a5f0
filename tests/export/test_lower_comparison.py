"""compare_lowered and its report: numbers by hand, overflow named, JSON without NaN."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kbn.export.errors import BrokenModelError, CheckFailedError, UsageError
from kbn.export.half_precision import to_float16
from kbn.export.int8 import to_int8
from kbn.export.lower_comparison import compare_lowered
from kbn.export.lower_report import LayerNoise, LowerReport, OutputNoise, signal_to_noise


def model_of(*nodes: Any, outputs: dict[str, int] | None = None, **weights: Any) -> onnx.ModelProto:
    """A graph from x, (n, 2), to y."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [
            helper.make_tensor_value_info(name, kind, None)
            for name, kind in (outputs or {"y": TensorProto.FLOAT}).items()
        ],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def shifted(shift: list[float]) -> onnx.ModelProto:
    """y = relu(x + shift)."""
    return model_of(
        helper.make_node("Add", ["x", "b"], ["first/Add"], "first/Add"),
        helper.make_node("Relu", ["first/Add"], ["y"], "block/second/Relu"),
        b=np.array(shift, np.float32),
    )


def batch(*rows: list[float]) -> dict[str, Any]:
    return {"x": np.array(rows, np.float32)}


def test_numbers_by_hand():
    # y = 3 4 | 6 8 | 1 0, y' = 3 4.5 | 6 8.5 | 1 0.5 and then 1 0.5 is still of the first column; 0.25 / 3 per element.
    report = compare_lowered(
        shifted([0, 0]), shifted([0, 0.5]), [batch([3, 4], [6, 8]), batch([1, 0], [0.25, 0])], "int8", "m.onnx"
    )
    (output,) = report.outputs
    signal, noise = 9 + 16 + 36 + 64 + 1 + 0.0625, 4 * 0.25
    assert output.output == "y"
    assert output.largest == 8
    assert output.max_error == 0.5 / 8
    assert output.mean_error == 4 * 0.5 / 8 / 8
    assert output.snr == pytest.approx(10 * math.log10(signal / noise), abs=1e-9)
    assert output.top1 == 3 / 4
    assert [(layer.layer, layer.tensor) for layer in report.layers] == [("first", "first/Add"), ("block/second", "y")]
    assert report.layers[1].snr == pytest.approx(10 * math.log10(signal / noise), abs=1e-9)


def test_equal_files_have_no_noise_and_valid_json():
    report = compare_lowered(shifted([1, 2]), shifted([1, 2]), [batch([3, 4])], "float16", "m.onnx")
    assert report.outputs == [OutputNoise("y", 6.0, 0.0, 0.0, None, 1.0)]
    found = json.loads(report.to_json())
    assert found["schema"] == "kbn.lower/1"
    assert found["outputs"][0]["snr"] is None
    assert [layer["snr"] for layer in found["layers"]] == [None, None]
    assert found["path"] == "m.onnx"
    assert found["bytes"] == {"before": shifted([1, 2]).ByteSize(), "after": shifted([1, 2]).ByteSize()}


def test_signal_to_noise():
    assert signal_to_noise(100.0, 1.0) == pytest.approx(20)
    assert signal_to_noise(1.0, 1e4) == pytest.approx(-40)
    assert signal_to_noise(0.0, 0.0) is None
    dead = signal_to_noise(0.0, 1.0)
    assert dead is not None
    assert -3100 < dead < -3000


def test_tables_show_twenty_layers_and_how_many_more():
    layers = [LayerNoise(f"l{i}", f"l{i}/Conv", float(40 - i)) for i in range(25)]
    layers.insert(3, LayerNoise("exact", "exact/Relu", None))
    report = LowerReport("int8", Path("m.onnx"), 4096, 1024, [OutputNoise("y", 1, 0.1, 0.01, 30.0, 0.5)], layers)
    assert report.worst[0].layer == "l24"
    assert report.worst[-1].layer == "exact"
    outputs, table = report.tables()
    assert outputs.rows == [("y", "1", "0.1", "0.01", "30.0", "50.00%")]
    assert "4 KiB in float32, 1 KiB in int8" in outputs.note
    assert [row[0] for row in table.rows] == [f"l{i}" for i in range(24, 4, -1)]
    assert table.note.startswith("6 more layers")
    assert len(report.to_dict()["layers"]) == 26


@pytest.mark.parametrize("hidden", [False, True])
def test_overflow_of_an_activation_names_the_layer(hidden):
    # 100 * 1.5 * 1000 is past 65504; a sigmoid at the end hides it from the output.
    end = "late/Mul" if hidden else "y"
    nodes = [
        helper.make_node("Mul", ["x", "one"], ["early/Mul"], "early/Mul"),
        helper.make_node("Mul", ["early/Mul", "big"], [end], "block/late/Mul"),
        *([helper.make_node("Sigmoid", [end], ["y"], "head/Sigmoid")] if hidden else []),
    ]
    proto = model_of(*nodes, one=np.float32(1.5), big=np.float32(1000))
    lowered = to_float16(proto)
    where = "a layer's values" if hidden else "output 'y'"
    with pytest.raises(CheckFailedError, match=rf"float16 .*{where}.*'block/late'.*65504"):
        compare_lowered(proto, lowered, [batch([1, 2]), batch([100, 2])], "float16", "m.onnx")
    assert compare_lowered(proto, lowered, [batch([1, 2])], "float16", "m.onnx").outputs[0].max_error < 1e-3


def test_what_is_not_finite_in_float32_is_left_out():
    division = [helper.make_node("Div", ["x", "zero"], ["y"], "d/Div")]
    proto = model_of(*division, zero=np.array([0, 1], np.float32))
    (output,) = compare_lowered(proto, proto, [batch([1, 2], [0, 3])], "int8", "m.onnx").outputs
    assert output.largest == 3
    assert output.snr is None


def test_layers_are_compared_after_their_quantisation():
    proto = model_of(
        helper.make_node("MatMul", ["x", "k"], ["d/MatMul"], "d/MatMul"),
        helper.make_node("Relu", ["d/MatMul"], ["a/Relu"], "a/Relu"),
        helper.make_node("MatMul", ["a/Relu", "k2"], ["y"], "e/MatMul"),
        k=np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32),
        k2=np.random.default_rng(1).normal(size=(5, 2)).astype(np.float32),
    )
    batches = [{"x": np.random.default_rng(i).normal(size=(8, 2)).astype(np.float32)} for i in range(3)]
    lowered = to_int8(proto, batches)
    report = compare_lowered(proto, lowered, batches, "int8", "m.onnx")
    found = {layer.layer: layer.snr for layer in report.layers}
    assert {"a", "e"} <= set(found)
    assert all(snr is not None and 25 < snr < 60 for snr in found.values())
    # float16 keeps every tensor, with 11 bits where int8 has 7.
    half = compare_lowered(proto, to_float16(proto), batches, "float16", "m.onnx")
    assert [layer.layer for layer in half.layers] == ["d", "a", "e"]
    assert all(layer.snr is not None and layer.snr > 60 for layer in half.layers)


def test_integer_outputs_are_compared_as_numbers():
    proto = model_of(helper.make_node("ArgMax", ["x"], ["y"], "top/ArgMax", axis=1), outputs={"y": TensorProto.INT64})
    (output,) = compare_lowered(proto, proto, [batch([1, 2], [4, 3])], "int8", "m.onnx").outputs
    assert output == OutputNoise("y", 1.0, 0.0, 0.0, None, None)


def test_no_data_and_data_that_do_not_fit():
    proto = shifted([0, 0])
    with pytest.raises(UsageError, match="Without data"):
        compare_lowered(proto, proto, [], "int8", "m.onnx")
    with pytest.raises(BrokenModelError, match="cannot run the int8 file"):
        compare_lowered(proto, proto, [{"x": np.zeros((1, 3), np.float32)}], "int8", "m.onnx")
