"""The server: ONNX files behind the Open Inference Protocol v2, without Keras and TensorFlow.

    socket ──connection.py: slow clients──> middleware.py: id, token, log ──> app.py ──protocol.py: validate──> Batcher
                                                                                                          │ one run
    socket <──protocol.py: JSON, binary── slices <──────────────────────────── Model (onnxruntime) <──────┘

`registry.py` holds the models that are loaded and exchanges them when their files change; `repository.py` finds the files,
`verifying.py` looks into them before onnxruntime does, `server.py` runs it all and drains it. On a Ray cluster
`ray_engine.py` does so, and the same application runs in each `ray_replica.py`.
"""
