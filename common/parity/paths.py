"""The paths that a backend's kernels can take on a CPU: which switches there are, and what each of them turns.

Libraries choose their kernels by the CPU they find. A switch holds them to the kernels of another CPU, so that one
machine can run what others would. Whether a switch did anything is not taken on trust: `common.parity.evidence`
collects what the libraries themselves tell, and a path that cannot be told from another one counts for nothing.

To add a path is to add an entry to `PATHS`. One that names a `device` is taken on that device.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from common.parity.environment import INSTRUCTION_SETS, instruction_sets

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "NPROC")
"""The variables for the number of threads of a library (NPROC is XLA's). Values that the user has set are kept."""


@dataclass(frozen=True)
class KernelPath:
    """One way to choose a backend's kernels."""

    name: str
    """As in the report: `onednn=0`, `isa=avx2`, `threads=1`; `default` where nothing is switched."""
    backends: tuple[str, ...]
    """The backends that have the switch."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables for the backend's process. They replace the user's; but flags are added to the user's flags."""
    needs: str | None = None
    """One of `INSTRUCTION_SETS`: without it the CPU cannot take this path."""
    device: str = "cpu"

    @property
    def lacking(self) -> str | None:
        """Why this machine cannot take the path, in a sentence; None if it can."""
        found = instruction_sets()
        if self.needs is None or (found is not None and self.needs in found):
            return None
        if found is None:
            return f"whether this CPU has {INSTRUCTION_SETS[self.needs].title} cannot be told here"
        return f"this CPU has no {INSTRUCTION_SETS[self.needs].title}"


def with_variables(environment: Mapping[str, str], more: Mapping[str, str]) -> dict[str, str]:
    """An environment with more variables. `XLA_FLAGS` and similar ones are lists, which are extended."""
    together = dict(environment)
    for name, value in more.items():
        before = together.get(name) if name.endswith("_FLAGS") else None
        together[name] = f"{before} {value}" if before else value
    return together


_PYTORCH = ("torch", "torch-compile", "keras-torch")
_TENSORFLOW = ("keras-tensorflow", "tf1")
_ONNX = ("onnx-torch", "onnx-keras", "onnx-tf1")
_ALL = (*_PYTORCH, *_TENSORFLOW, "keras-jax", *_ONNX)

_ONEDNN = {"sse4.1": "SSE41", "avx2": "AVX2", "avx512": "AVX512_CORE"}
_ATEN = {"default": "default", "avx2": "avx2", "avx512": "avx512"}
_MKL = {"sse4.2": "SSE4_2", "avx2": "AVX2", "avx512": "AVX512"}
_XLA = {"sse4.2": "SSE4_2", "avx2": "AVX2", "avx512": "AVX512"}

_INDUCTOR_ANEW = {"TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
"""Inductor's cache of graphs does not record the vector length. Loops over 16 numbers would be run with 8."""

_SEVERAL = max(2, os.cpu_count() or 1)


def _threads(number: int) -> KernelPath:
    return KernelPath(f"threads={number}", _ALL, dict.fromkeys(THREADS, str(number)))


DEFAULT = "default"
"""The path without any switch."""

PATHS: tuple[KernelPath, ...] = (
    KernelPath(DEFAULT, _ALL),
    KernelPath("onednn=1", _TENSORFLOW, {"TF_ENABLE_ONEDNN_OPTS": "1"}),
    KernelPath("onednn=0", _TENSORFLOW, {"TF_ENABLE_ONEDNN_OPTS": "0"}),
    *(
        KernelPath(f"isa={name}", backends, {"ONEDNN_MAX_CPU_ISA": value} | on, name)
        for backends, on in (((*_PYTORCH, "keras-jax"), {}), (_TENSORFLOW, {"TF_ENABLE_ONEDNN_OPTS": "1"}))
        for name, value in _ONEDNN.items()
    ),
    *(  # what Eigen multiplies with is taken from oneDNN even where TensorFlow's own use of oneDNN is off
        KernelPath(
            f"onednn=0,isa={name}",
            _TENSORFLOW,
            {"TF_ENABLE_ONEDNN_OPTS": "0", "ONEDNN_MAX_CPU_ISA": value},
            name,
        )
        for name, value in _ONEDNN.items()
    ),
    *(
        KernelPath(
            f"aten={name}",
            _PYTORCH,
            {"ATEN_CPU_CAPABILITY": value, **_INDUCTOR_ANEW},
            None if name == "default" else name,
        )
        for name, value in _ATEN.items()
    ),
    *(KernelPath(f"mkl={name}", _PYTORCH, {"MKL_ENABLE_INSTRUCTIONS": value}, name) for name, value in _MKL.items()),
    *(
        KernelPath(f"xla={name}", ("keras-tensorflow", "keras-jax"), {"XLA_FLAGS": f"--xla_cpu_max_isa={value}"}, name)
        for name, value in _XLA.items()
    ),
    # On a CPU, --tf_xla_auto_jit=2 does nothing without the second flag.
    KernelPath("xla=auto", ("tf1",), {"TF_XLA_FLAGS": "--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit"}),
    _threads(1),
    _threads(_SEVERAL),
)


def paths_of(backend: str, device: str = "cpu") -> list[KernelPath]:
    """The paths of a backend on a device, the default first."""
    return [path for path in PATHS if backend in path.backends and path.device == device]
