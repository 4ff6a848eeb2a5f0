"""onnxruntime sessions on the CPU: how they are made, in one place."""

from __future__ import annotations

from os import PathLike, fspath
from pathlib import Path
from typing import Any

import onnxruntime


def session(
    source: bytes | str | PathLike[str],
    *,
    optimised: bool = True,
    threads: int = 0,
    weights_folder: Path | None = None,
    entries: dict[str, str] | None = None,
    memory_pattern: bool = True,
) -> Any:
    """An InferenceSession that says nothing on the terminal but what is fatal; all else comes back as an exception.

    Args:
        source: a file, or the bytes of one.
        optimised: whether onnxruntime optimises the graph, as it does by default.
        threads: inside an operator; 0 leaves the number to onnxruntime.
        weights_folder: where weights that lie beside the file are, for bytes.
        entries: further session configuration.
        memory_pattern: whether onnxruntime keeps a memory plan for each shape of inputs it has seen.

    Raises whatever onnxruntime raises: its errors have no common base but Exception.
    """
    options, levels = onnxruntime.SessionOptions(), onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = memory_pattern
    # Not by its suffix, or its first bytes: what was looked at is an ONNX file, no .ort one.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    if weights_folder is not None:
        entries = {"session.model_external_initializers_file_folder_path": str(weights_folder), **(entries or {})}
    for key, value in (entries or {}).items():
        options.add_session_config_entry(key, value)
    model = source if isinstance(source, bytes) else fspath(source)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
