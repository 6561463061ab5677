"""The running service: generated designs and catalogue updates in, verdicts out. Folders are the way of the data."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reports its use to its maker unless told not to
