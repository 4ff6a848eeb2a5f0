"""Triton's own schema of config.pbtxt, as its client has it."""

from __future__ import annotations

import importlib.util
import sys
from importlib.metadata import files
from typing import Any

from google.protobuf import text_format


def parsed(text: str) -> Any:
    """An inference.ModelConfig; raises ParseError where the text is none."""
    name = "model_config_pb2"
    if name not in sys.modules:
        # By its path: the package around it needs grpc.
        path = next(file for file in files("tritonclient") or () if file.name == f"{name}.py").locate()
        spec = importlib.util.spec_from_file_location(name, str(path))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return text_format.Parse(text, sys.modules[name].ModelConfig())
