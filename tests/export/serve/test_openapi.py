"""The description of the routes is valid, and describes the routes there are."""

import json

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from kbn.export.serve.openapi import document
from serving import request, rows_request, serving, weights, write_rows


@pytest.mark.parametrize("guarded", [True, False])
def test_it_is_valid(guarded):
    validate(document(guarded))
    assert ("security" in document(guarded)) == guarded


def test_every_route_is_there_and_answers_as_described(tmp_path):
    with serving(write_rows(tmp_path / "rows.onnx")) as address:
        status, described = address.get("/openapi.json")
        assert status == 200
        for template, item in described["paths"].items():
            path = template.replace("{name}", "rows").replace("{version}", "1")
            method = next(key for key in item if key != "parameters").upper()
            body = json.dumps(rows_request(weights().T[:1])).encode() if method == "POST" else None
            status, headers, answer = address.raw(request(method, path, body))
            if "predict" in path:
                assert status == 400  # which is no file
                schema = {"$ref": "#/components/schemas/Error"}
            else:
                assert status == 200, path
                ((kind, content),) = item[method.lower()]["responses"]["200"]["content"].items()
                assert headers["content-type"].startswith(kind)
                schema = content["schema"]
            if headers["content-type"] == "application/json":
                whole = {**schema, "components": described["components"]}
                Draft202012Validator(whole).validate(json.loads(answer))
