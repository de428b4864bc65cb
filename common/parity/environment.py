"""What results depend on: versions, processor, GPU, threads, and the switches that change arithmetic."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    *("numpy", "torch", "keras", "tensorflow", "jax"),
    *("onnx", "onnxruntime", "onnxruntime-gpu", "onnxruntime-ep-webgpu"),
)

_CPUINFO = Path("/proc/cpuinfo")
"""Linux' description of the CPU."""

SWITCHES = {
    "NVIDIA_TF32_OVERRIDE": "0 turns TF32 off in every library",
    "TF_ENABLE_ONEDNN_OPTS": "0 turns oneDNN off in TensorFlow",
    "ONEDNN_MAX_CPU_ISA": "the instructions that oneDNN may use in TensorFlow and PyTorch",
    "ATEN_CPU_CAPABILITY": "the instructions that PyTorch's own kernels use",
    "MKL_ENABLE_INSTRUCTIONS": "the instructions that MKL may use in PyTorch",
    "XLA_FLAGS": "flags of XLA, in JAX and in TensorFlow",
    "TF_XLA_FLAGS": "whether TensorFlow compiles with XLA",
    "OMP_NUM_THREADS": "threads of PyTorch and OpenMP",
    "KERAS_BACKEND": "set for each backend by the harness",
    "CUDA_VISIBLE_DEVICES": "the GPUs that are seen",
}


def describe() -> dict[str, Any]:
    """The environment, without importing any framework but NumPy."""
    return {
        "versions": {"python": platform.python_version()}
        | {name: found for name in PACKAGES if (found := _installed_version(name))},
        "platform": platform.platform(),
        "processor": _processor(),
        "instruction sets": _instruction_sets_as_text(),
        "threads": os.cpu_count(),
        "gpu": gpu() or "none found (nvidia-smi)",
        "oneDNN in TensorFlow": onednn_in_tensorflow(),
        "BLAS in NumPy": _blas(),
        "switches": {name: os.environ.get(name, f"unset ({meaning})") for name, meaning in SWITCHES.items()},
    }


def _installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        with _CPUINFO.open(encoding="utf-8") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _blas() -> str:
    """The library that NumPy multiplies matrices with, its version, and the kind of processor that it detects."""
    import numpy  # noqa: F401  # loads it
    from threadpoolctl import threadpool_info

    names = ("internal_api", "version", "architecture")
    found = [library for library in threadpool_info() if library["user_api"] == "blas"]
    return ", ".join(dict.fromkeys(" ".join(str(each[n]) for n in names if each.get(n)) for each in found)) or "unknown"


@dataclass(frozen=True)
class InstructionSet:
    """An instruction set, by which libraries choose kernels."""

    title: str
    flags: tuple[str, ...]
    """The flags that the CPU must have, all of them, by Linux' names."""
    on_macos: tuple[str, ...] = ()
    """The same by macOS' names, in lower case, if they differ."""


INSTRUCTION_SETS = {
    "sse4.1": InstructionSet("SSE4.1", ("sse4_1",), ("sse4.1",)),
    "sse4.2": InstructionSet("SSE4.2", ("sse4_2",), ("sse4.2",)),
    "avx2": InstructionSet("AVX2", ("avx2", "fma")),
    "avx512": InstructionSet("AVX-512", ("avx512f", "avx512bw", "avx512dq", "avx512vl")),
    "avx_vnni": InstructionSet("AVX VNNI", ("avx_vnni",)),
    "avx512_vnni": InstructionSet("AVX-512 VNNI", ("avx512_vnni",), ("avx512vnni",)),
    "avx512_bf16": InstructionSet("AVX-512 bfloat16", ("avx512_bf16",), ("avx512bf16",)),
    "amx": InstructionSet("AMX", ("amx_tile",)),
    "neon": InstructionSet("NEON", ("asimd",), ("neon",)),
    "sve": InstructionSet("SVE", ("sve",)),
}


@cache
def instruction_sets() -> frozenset[str] | None:
    """The members of `INSTRUCTION_SETS` that this CPU has; None if the system does not tell."""
    flags = _flags()
    if flags is None:
        return None
    return frozenset(
        name
        for name, each in INSTRUCTION_SETS.items()
        if flags.issuperset((each.on_macos if sys.platform == "darwin" else ()) or each.flags)
    )


def _flags() -> set[str] | None:
    """The flags of the CPU, by Linux' and macOS' names."""
    if sys.platform == "darwin":
        if platform.machine() == "arm64":
            return {"neon"}
        names = ["machdep.cpu.features", "machdep.cpu.leaf7_features"]
        try:
            answer = subprocess.run(["sysctl", "-n", *names], capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return set(answer.stdout.lower().split())
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    told = [line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))]
    return set(told[0]) if told else None


def _instruction_sets_as_text() -> str:
    found = instruction_sets()
    if found is None:
        return "unknown: this system does not tell"
    return ", ".join(each.title for name, each in INSTRUCTION_SETS.items() if name in found)


def onednn_in_tensorflow() -> str:
    """Whether TensorFlow uses oneDNN, and why.

    This is the rule of `IsMklEnabled` in TensorFlow's sources (tensorflow/core/util/port.cc). If the variable is 0,
    false, 1 or true, it decides; else, on Linux, the CPU. Among ARM's processors it is on for Neoverse V1 only, which
    the flags do not name.
    """
    wanted = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "")
    if wanted.lower() in ("0", "false", "1", "true"):
        return f"{'on' if wanted.lower() in ('1', 'true') else 'off'}: TF_ENABLE_ONEDNN_OPTS is {wanted}"
    if sys.platform != "linux":
        return "off: it is on by default on Linux only"
    found = instruction_sets()
    if found is None or "neon" in found:
        return "unknown: it depends on the CPU, which the system does not describe well enough"
    decisive = ("avx512_vnni", "avx512_bf16", "avx_vnni", "amx")
    titles = [INSTRUCTION_SETS[name].title for name in decisive if name in found]
    return f"on: the CPU has {titles[0]}" if titles else "off: the CPU has neither AVX-512 VNNI nor what came after it"


def gpu() -> str | None:
    """The name and driver of each GPU, from NVIDIA's own tool."""
    if not shutil.which("nvidia-smi"):
        return None
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return "; ".join(answer.stdout.split("\n")).strip("; ") or None
