"""OnnxNetwork: an exported network, computed by ONNX Runtime; no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kanscan.registry import unknown

#: Device -> provider of ONNX Runtime.
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxNetwork:
    """An ONNX model that takes and gives arrays; see `kanscan.inference.network.Network`.

    Args:
        path: The model; weights in files beside it are found.
        stride: Every spatial size must be a multiple of it.
        device: auto (CUDA where ONNX Runtime has it, else the CPU), cpu, cuda or cuda:N.
        threads: Of the processor; None: all that this process may use.

    Raises:
        ValueError: ONNX Runtime is absent, cannot read the file, or has no such device.
    """

    def __init__(self, path: Path, stride: Sequence[int], *, device: str = "auto", threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise ValueError(
                f"{path} needs ONNX Runtime, which is not installed: pip install 'kanscan[onnx]'"
            ) from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; warnings are about how it optimizes
        options.intra_op_num_threads = threads or 0
        kind, _, number = _chosen(device, onnxruntime.get_available_providers()).partition(":")
        place = {"device_id": int(number or 0)} if kind == "cuda" else {}
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=[(_PROVIDERS[kind], place)])
        except Exception as error:  # its exceptions have no common base but this
            raise ValueError(f"{path} is no network that ONNX Runtime reads: {' '.join(str(error).split())}") from None
        (image,), (logits,) = self._session.get_inputs(), self._session.get_outputs()
        self._input, self._shape = image.name, image.shape
        self.device = kind if kind == "cpu" else f"{kind}:{number or 0}"
        self.in_channels, self.out_channels = int(image.shape[1]), int(logits.shape[1])
        self.spatial_dims, self.stride = len(image.shape) - 2, tuple(stride)

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits `(B, out_channels, *S)` of images `(B, in_channels, *S)`.

        Raises:
            ValueError: The network was exported for images of one size, and these have another.
        """
        fixed = self._shape[2:]
        if any(isinstance(n, int) and n != size for n, size in zip(fixed, x.shape[2:], strict=True)):
            wanted, came = (" x ".join(map(str, sizes)) for sizes in (fixed, x.shape[2:]))
            raise ValueError(f"the network was exported for images of {wanted}, got {came}; predict with the run")
        if isinstance(self._shape[0], int) and len(x) != self._shape[0]:
            return np.concatenate([self(one[None]) for one in x])
        (logits,) = self._session.run(None, {self._input: x})
        return np.asarray(logits, np.float32)


def _chosen(device: str, providers: Sequence[str]) -> str:
    if device == "auto":
        return "cuda" if _PROVIDERS["cuda"] in providers else "cpu"
    kind, colon, number = device.partition(":")
    if kind not in _PROVIDERS or (colon and (kind == "cpu" or not number.isdecimal())):
        raise ValueError(unknown("device", device, ("auto", "cpu", "cuda", "cuda:N")))
    if _PROVIDERS[kind] not in providers:
        raise ValueError(f"device {device} is not available: this ONNX Runtime has no {_PROVIDERS[kind]}; use cpu")
    return device
