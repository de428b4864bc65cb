"""What results depend on: versions, processor, GPU, threads, and the switches that change arithmetic."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = (
    *("numpy", "torch", "keras", "tensorflow", "jax"),
    *("onnx", "onnxruntime", "onnxruntime-gpu", "onnxruntime-ep-webgpu"),
)

SWITCHES = {
    "NVIDIA_TF32_OVERRIDE": "0 turns TF32 off in every library",
    "TF_ENABLE_ONEDNN_OPTS": "0 turns oneDNN off in TensorFlow",
    "OMP_NUM_THREADS": "threads of PyTorch and OpenMP",
    "KERAS_BACKEND": "set for each backend by the harness",
    "CUDA_VISIBLE_DEVICES": "the GPUs that are seen",
}


def describe() -> dict[str, Any]:
    """The environment, without importing any framework."""
    return {
        "versions": {"python": platform.python_version()}
        | {name: found for name in PACKAGES if (found := _installed_version(name))},
        "platform": platform.platform(),
        "processor": _processor(),
        "threads": os.cpu_count(),
        "gpu": gpu() or "none found (nvidia-smi)",
        "switches": {name: os.environ.get(name, f"unset ({meaning})") for name, meaning in SWITCHES.items()},
    }


def _installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def gpu() -> str | None:
    """The name and driver of each GPU, as NVIDIA's own tool tells them."""
    if not shutil.which("nvidia-smi"):
        return None
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return "; ".join(answer.stdout.split("\n")).strip("; ") or None
