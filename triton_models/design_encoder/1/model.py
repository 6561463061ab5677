"""Triton's Python backend for the design encoder: many requests, one call of ONNX Runtime.

Runs in Triton's own environment and imports nothing of this project. Never raises from `execute` (an exception there
takes the whole batch with it and leaks shared memory): every request gets its answer or its own error.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

DOMAINS = 2  # catalog, generated
WARM_UP = (1, 8)


class TritonPythonModel:
    """One instance: one ONNX session."""

    def initialize(self, args):
        """Refuse what would answer wrongly, load the model, and run it once so that the first request is not the slow one."""
        if int(np.__version__.split(".")[0]) >= 2:
            raise pb_utils.TritonModelException(
                f"NumPy {np.__version__}: this Python backend answers wrongly, without an error, under NumPy 2; install numpy<2"
            )
        path = Path(__file__).with_name("model.onnx")
        self.version = hashlib.sha256(path.read_bytes()).hexdigest()[:16].encode()
        config = json.loads(args["model_config"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(config["parameters"]["intra_op_threads"]["string_value"])
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        provider, settings = "CPUExecutionProvider", {}
        if args["model_instance_kind"] == "GPU":
            provider, settings = "CUDAExecutionProvider", {"device_id": int(args["model_instance_device_id"])}
        self.session = onnxruntime.InferenceSession(str(path), options, providers=[(provider, settings)])
        if self.session.get_providers()[0] != provider:
            raise pb_utils.TritonModelException(f"{provider} is not available in this environment")
        self.pixels_shape = tuple(self.session.get_inputs()[0].shape[1:])
        for batch in WARM_UP:
            self._embed(np.zeros((batch, *self.pixels_shape), np.uint8), np.zeros((batch, 1), np.int32))

    def execute(self, requests):
        """One response for each request, in order."""
        responses = [None] * len(requests)
        good = []  # (place, pixels, domain)
        for place, request in enumerate(requests):
            try:
                good.append((place, *self._inputs(request)))
            except Exception as error:
                responses[place] = _refusal(f"bad request: {error}")
        if not good:
            return responses
        try:
            vectors = self._embed(
                np.concatenate([pixels for _, pixels, _ in good]), np.concatenate([domain for _, _, domain in good])
            )
        except Exception as error:
            for place, *_ in good:
                responses[place] = _refusal(f"the model failed: {error}")
            return responses
        start = 0
        for place, pixels, _ in good:
            end = start + len(pixels)
            responses[place] = pb_utils.InferenceResponse(
                output_tensors=[
                    pb_utils.Tensor("embedding", np.ascontiguousarray(vectors[start:end])),
                    pb_utils.Tensor("version", np.full((end - start, 1), self.version, dtype=object)),
                ]
            )
            start = end
        return responses

    def _inputs(self, request):
        pixels = pb_utils.get_input_tensor_by_name(request, "pixels").as_numpy()
        domain = pb_utils.get_input_tensor_by_name(request, "domain").as_numpy()
        if pixels.dtype != np.uint8 or pixels.shape[1:] != self.pixels_shape:
            raise ValueError(f"pixels are {pixels.dtype} {pixels.shape}, expected uint8 (batch, {self.pixels_shape})")
        if domain.dtype != np.int32 or domain.shape != (len(pixels), 1):
            raise ValueError(f"domain is {domain.dtype} {domain.shape}, expected int32 ({len(pixels)}, 1)")
        if len(domain) and not (0 <= domain.min() and domain.max() < DOMAINS):
            raise ValueError(f"domain must be 0 to {DOMAINS - 1}")
        return pixels, domain

    def _embed(self, pixels, domain):
        """Shape: (batch, 224, 224, 3) uint8 and (batch, 1) int32 -> (batch, dim) float32."""
        return self.session.run(["embedding"], {"pixels": pixels, "domain": domain})[0]


def _refusal(message):
    return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(message))
