"""Ask a running `kbn serve` for what its models take, and run one on random numbers; numpy is all that is needed.

    python examples/ask_server.py [URL] [--model NAME] [--token TOKEN]

The request is of the Open Inference Protocol v2: JSON, whose length a header tells, and the bytes of the inputs behind it.
"""

import argparse
import json
import time
import urllib.error
import urllib.request

import numpy as np

NUMPY = {"BOOL": "bool", "FP16": "f2", "FP32": "f4", "FP64": "f8"}


def numpy_type(datatype):
    return np.dtype(NUMPY.get(datatype, datatype.lower()))


def ask(url, token, body=None, **headers):
    """The answer's bytes and headers."""
    if token:
        headers["Authorization"] = f"Bearer {token}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60) as answer:
            return answer.read(), answer.headers
    except urllib.error.HTTPError as refusal:
        raise SystemExit(f"{refusal.code}: {json.loads(refusal.read())['error']}") from None


def drawn(port):
    """A random array for an input; free sizes are 1 for the batch, else 32."""
    shape = [size if size >= 0 else 32 if axis else 1 for axis, size in enumerate(port["shape"])]
    return np.random.default_rng().integers(0, 2, shape).astype(numpy_type(port["datatype"]))


def infer(url, token, model):
    """The outputs by name."""
    arrays = [drawn(port) for port in model["inputs"]]
    inputs = [
        {**port, "shape": array.shape, "parameters": {"binary_data_size": array.nbytes}}
        for port, array in zip(model["inputs"], arrays, strict=True)
    ]
    header = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    body = header + b"".join(array.tobytes() for array in arrays)
    length = {"Inference-Header-Content-Length": str(len(header)), "Content-Type": "application/octet-stream"}
    content, headers = ask(f"{url}/v2/models/{model['name']}/infer", token, body, **length)
    position, outputs = int(headers["Inference-Header-Content-Length"]), {}
    for output in json.loads(content[:position])["outputs"]:
        size = output["parameters"]["binary_data_size"]
        array = np.frombuffer(content[position : position + size], numpy_type(output["datatype"]))
        outputs[output["name"]] = array.reshape(output["shape"])
        position += size
    return outputs


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8080")
    parser.add_argument("--model", help="the first by name, by default")
    parser.add_argument("--token")
    options = parser.parse_args()
    url = options.url.rstrip("/")
    names = json.loads(ask(f"{url}/v2", options.token)[0])["models"]
    name = options.model or names[0]
    model = json.loads(ask(f"{url}/v2/models/{name}", options.token)[0])
    print(f"{name}, versions {', '.join(model['versions'])}, check at export: {model['parameters']['check']}")
    for way in ("inputs", "outputs"):
        for port in model[way]:
            print(f"  {way[:-1]} {port['name']}: {port['datatype']} {port['shape']}")
    started = time.perf_counter()
    for output, array in infer(url, options.token, model).items():
        print(f"{output} of shape {array.shape}, first values {array.ravel()[:5]}")
    print(f"{(time.perf_counter() - started) * 1e3:.1f} ms, with a new connection")


if __name__ == "__main__":
    main()
