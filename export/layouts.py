"""Where images have their channels: NHWC as Keras has them by default, or NCHW as ONNX has them inside."""

from __future__ import annotations

# (N, H, W, C) to (N, C, H, W), and back.
TO_CHANNELS_FIRST = (0, 3, 1, 2)
TO_CHANNELS_LAST = (0, 2, 3, 1)

# The metadata entry of a file whose images lie otherwise than its Keras model has them: "nchw" or "nhwc".
LAYOUT_KEY = "kbn.input_layout"

# From the axes of the Keras model to those of a file with this entry.
FROM_MODEL = {"nchw": TO_CHANNELS_FIRST, "nhwc": TO_CHANNELS_LAST}
