"""The OpenAPI 3.1 description of the routes."""

from __future__ import annotations

from typing import Any

from kbn._version import __version__

from .datatypes import NUMPY

_TENSOR = {
    "name": {"type": "string"},
    "datatype": {"enum": list(NUMPY)},
    "shape": {"type": "array", "items": {"type": "integer"}},
}
_SIZE = {"type": "object", "properties": {"binary_data_size": {"type": "integer", "minimum": 0}}}
_ID = {"type": "string"}


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}


def _list(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


def _named(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _answer(description: str, schema: dict[str, Any], kind: str = "application/json") -> dict[str, Any]:
    return {"description": description, "content": {kind: {"schema": schema}}}


_SCHEMAS: dict[str, Any] = {
    "Error": _object({"error": {"type": "string"}}, ["error"]),
    "Tensor": _object(_TENSOR, list(_TENSOR)),
    "InferInput": _object({**_TENSOR, "parameters": _SIZE, "data": {"type": "array"}}, list(_TENSOR)),
    "WantedOutput": _object(
        {"name": _ID, "parameters": {"type": "object", "properties": {"binary_data": {"type": "boolean"}}}}, ["name"]
    ),
    "InferRequest": _object(
        {
            "id": _ID,
            "inputs": _list(_named("InferInput")),
            "outputs": _list(_named("WantedOutput")),
            "parameters": {
                "type": "object",
                "properties": {
                    "binary_data_output": {"type": "boolean"},
                    "timeout": {"type": "integer", "description": "Microseconds that the answer is worth waiting for."},
                },
            },
        },
        ["inputs"],
    ),
    "InferAnswer": _object(
        {"id": _ID, "model_name": _ID, "model_version": _ID, "outputs": _list(_named("InferInput"))},
        ["model_name", "model_version", "outputs"],
    ),
    "Model": _object(
        {
            "name": _ID,
            "versions": _list(_ID),
            "platform": _ID,
            "inputs": _list(_named("Tensor")),
            "outputs": _list(_named("Tensor")),
            "parameters": {
                "type": "object",
                "description": "SHA-256 of the file, what kbn's check and the ONNX checker found, whether requests are merged.",
            },
        },
        ["name", "versions", "platform", "inputs", "outputs"],
    ),
    "Prediction": _object(
        {
            "model_name": _ID,
            "model_version": _ID,
            "outputs": {"type": "object"},
            "top": _list(
                _list(_object({"class": {"type": "integer"}, "label": _ID, "score": {"type": "number"}}, ["class"]))
            ),
        },
        ["model_name", "model_version", "outputs"],
    ),
}
_ANY = {"type": "object"}
_INFER = {
    "summary": "Run the model on tensors, as JSON or with bytes behind the JSON",
    "parameters": [
        {
            "name": "Inference-Header-Content-Length",
            "in": "header",
            "schema": {"type": "integer", "minimum": 1},
            "description": "Length of the JSON in bytes, where the bytes of binary inputs follow it.",
        }
    ],
    "requestBody": {"required": True, "content": {"application/json": {"schema": _named("InferRequest")}}},
    "responses": {"200": _answer("The outputs", _named("InferAnswer"))},
}
_PREDICT = {
    "summary": "Run the model on an image or a .npy file",
    "parameters": [
        {
            "name": "range",
            "in": "query",
            "schema": {"type": "string", "default": "0,255"},
            "description": "The numbers that black and white stand for: 0,1 or -1,1.",
        }
    ],
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "description": "A file for each input, by name; any name for a single one.",
                    "additionalProperties": {"type": "string", "contentMediaType": "application/octet-stream"},
                }
            }
        },
    },
    "responses": {"200": _answer("The outputs, and the best classes", _named("Prediction"))},
}


def _get(summary: str, schema: dict[str, Any], kind: str = "application/json") -> dict[str, Any]:
    return {"get": {"summary": summary, "responses": {"200": _answer(summary, schema, kind)}}}


def document(guarded: bool) -> dict[str, Any]:
    """The description; `guarded` where a token is needed."""
    paths: dict[str, Any] = {
        "/v2/health/live": _get("Whether the server runs", _ANY),
        "/v2/health/ready": _get("Whether the server takes requests; 503 while it loads or stops", _ANY),
        "/v2": _get("The server", _ANY),
        "/metrics": _get("Metrics for Prometheus", {"type": "string"}, "text/plain"),
        "/state": _get("The models, their checks and their latency, as the page shows them", _ANY),
        "/predict": {"post": _PREDICT},
    }
    for path in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        paths[path] = _of_model(path, _get("A model", _named("Model")))
        paths[f"{path}/ready"] = _of_model(path, _get("Whether a model takes requests", _ANY))
        paths[f"{path}/infer"] = _of_model(path, {"post": _INFER})
    for path in ("/predict/{name}", "/predict/{name}/versions/{version}"):
        paths[path] = _of_model(path, {"post": _PREDICT})
    for item in paths.values():
        for method in item.values():
            if isinstance(method, dict):
                method["responses"]["default"] = _answer("A refusal", _named("Error"))
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "kbn: ONNX models behind the Open Inference Protocol v2", "version": __version__},
        "paths": paths,
        "components": {"schemas": _SCHEMAS},
    }
    if guarded:
        described["components"] = {
            **described["components"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        }
        described["security"] = [{"token": []}]
    return described


def _of_model(path: str, item: dict[str, Any]) -> dict[str, Any]:
    names = [name for name in ("name", "version") if f"{{{name}}}" in path]
    return {**item, "parameters": [{"name": name, "in": "path", "required": True, "schema": _ID} for name in names]}
