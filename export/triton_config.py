"""The configuration of a model for the Triton Inference Server, in protobuf's text format.

    field: value        message { field: value ... }        list: [ value, ... ]        list [ { ... }, { ... } ]

(protobuf.dev/reference/protobuf/textformat-spec; inference.ModelConfig in triton-inference-server/common,
protobuf/model_config.proto)
"""

from __future__ import annotations

from collections.abc import Sequence

from .class_labels import has_classes
from .errors import UnsupportedError
from .serve.datatypes import BYTES
from .serve.model import Model
from .serve.ports import Port
from .wording import quote

MAX_BATCH = 16  # examples that Triton runs together, as `kbn serve` does by default
LABELS_FILE = "labels.txt"


def config_of(name: str, model: Model, batches: bool) -> str:
    """The text of config.pbtxt.

    Args:
        name: of the model, which is that of its folder.
        batches: whether the first axis of all inputs and outputs is a batch whose examples Triton may merge.

    Raises:
        UnsupportedError: Triton has no way to declare an input or output.
    """
    labelled = {port.name for port in model.outputs if _is_labelled(port, model.file.labels)}
    lines = [
        f"name: {_string(name)}",
        'backend: "onnxruntime"',
        'platform: "onnxruntime_onnx"',
        f"max_batch_size: {MAX_BATCH if batches else 0}",
        *_ports("input", model.inputs, batches, frozenset()),
        *_ports("output", model.outputs, batches, labelled),
    ]
    if batches:
        lines.append("dynamic_batching { }")
    return "\n".join([*lines, ""])


def has_labels(model: Model) -> bool:
    """Whether an output is of one number for each class that the file names."""
    return any(_is_labelled(port, model.file.labels) for port in model.outputs)


def _is_labelled(port: Port, labels: Sequence[str]) -> bool:
    return bool(labels) and has_classes(port.shape, port.dtype, labels)


def _ports(field: str, ports: Sequence[Port], batches: bool, labelled: frozenset[str] | set[str]) -> list[str]:
    items = []
    for port in ports:
        if 0 in port.shape:
            raise UnsupportedError(
                f"{field} {quote(port.name)} has the shape {list(port.shape)}, and Triton takes no size of 0. Export the model "
                "with another size, or leave --triton out."
            )
        shape = port.shape[1:] if batches else port.shape
        lines = [
            f"name: {_string(port.name)}",
            f"data_type: TYPE_{'STRING' if port.datatype == BYTES else port.datatype}",
            # Triton has no empty shape: one number for each example, or, without batches, a scalar.
            f"dims: [ {', '.join(map(str, shape or (1,)))} ]",
            *(["reshape { shape: [ ] }"] if batches and not shape else []),
        ]
        if port.name in labelled:
            lines.append(f"label_filename: {_string(LABELS_FILE)}")
        items.append("  {\n" + "".join(f"    {line}\n" for line in lines) + "  }")
    return [f"{field} [", ",\n".join(items), "]"]


def _string(text: str) -> str:
    """A literal: UTF-8, of which only what is printable ASCII stands for itself."""
    escaped = {ord('"'): '\\"', ord("\\"): "\\\\"}
    return (
        '"'
        + "".join(escaped.get(byte, chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}") for byte in text.encode())
        + '"'
    )
