"""How an image becomes a vector: preprocessing shared with the service, synthetic images, training, export."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reports its use to its maker unless told not to
