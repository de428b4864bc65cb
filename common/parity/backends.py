"""The backends that can be compared: which implementation, through which runtime, and what has to be installed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from shutil import which

from common.errors import TriptychError, Unavailable, argument, nearest
from common.onnx.adapters import find_adapters, require_adapter
from common.parity.environment import gpu
from common.parity.paths import THREADS, KernelPath, paths_of, with_variables


@dataclass(frozen=True)
class Backend:
    """One way to run a network."""

    name: str
    implementation: str
    """The package with `build`, `load_weights`, `export_onnx` and `backend.record`."""
    modules: tuple[str, ...]
    """The modules that it imports."""
    extra: str
    """The extra of the distribution that installs it."""
    through_onnx: bool = False
    """Whether the implementation's export is run by ONNX Runtime instead of the model itself."""
    compiled: bool = False
    """Whether the implementation's `compiled.record_compiled` is run instead of its `backend.record`."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables for its process."""
    path: KernelPath | None = None
    """The path of its kernels; None if no paths were asked for."""

    @property
    def label(self) -> str:
        """Its name, and its path if it has one."""
        return row_label(self.name, self.path_name)

    @property
    def path_name(self) -> str | None:
        return self.path.name if self.path else None

    def process_on(self, device: str) -> tuple[str, ...]:
        """What the process of a backend is known by: on the CPU a model and its export share one, and its weights."""
        if self.compiled or self.path or device != "cpu":
            return (self.name,)
        return (self.implementation, *self.environment.values())

    @property
    def missing(self) -> tuple[str, ...]:
        """The modules that are not installed, or the compiler."""
        modules = tuple(module for module in self.modules if find_spec(module) is None)
        compilers = [os.environ.get("CXX"), "g++", "clang++", "cl"]
        if self.compiled and not any(which(compiler) for compiler in compilers if compiler):
            return (*modules, "a C++ compiler")
        return modules

    @property
    def how_to_install(self) -> str:
        if self.missing == ("a C++ compiler",):
            return "a C++ compiler not installed, which torch.compile needs; install g++ or clang++"
        return f"{' and '.join(self.missing)} not installed; pip install -c constraints.txt -e '.[{self.extra}]'"

    def obstacle(self, device: str) -> str | None:
        """The reason why it cannot run on a device here; None if there is none."""
        if device == "webgpu" and not self.through_onnx:
            exports = ", ".join(backend.name for backend in BACKENDS.values() if backend.through_onnx)
            return f"{self.name} does not run on WebGPU; {exports} do, through ONNX Runtime"
        if self.missing:
            return self.how_to_install
        return self.path.lacking if self.path else None


def row_label(backend: str, path: str | None) -> str:
    """The label of a row of the report among those of its run."""
    return f"{backend} {path}" if path else backend


def _keras(backend: str) -> dict[str, str]:
    return {"KERAS_BACKEND": backend}


_ONNX = ("onnx", "onnxruntime")

BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend("torch", "torch_impl", ("torch",), "torch"),
        Backend("torch-compile", "torch_impl", ("torch",), "torch", compiled=True),
        Backend("keras-tensorflow", "keras_impl", ("keras", "tensorflow"), "keras", environment=_keras("tensorflow")),
        Backend("keras-jax", "keras_impl", ("keras", "jax"), "jax", environment=_keras("jax")),
        Backend("keras-torch", "keras_impl", ("keras", "torch"), "torch,keras", environment=_keras("torch")),
        # With Keras' variable, processes of TensorFlow 1 style are copies of the same template as those of Keras.
        Backend("tf1", "tf1_style_impl", ("tensorflow",), "tf1", environment=_keras("tensorflow")),
        Backend("onnx-torch", "torch_impl", ("torch", *_ONNX), "torch,onnx", through_onnx=True),
        Backend(
            "onnx-keras",
            "keras_impl",
            ("keras", "tensorflow", *_ONNX),
            "keras,onnx",
            through_onnx=True,
            environment=_keras("tensorflow"),
        ),
        Backend(
            "onnx-tf1",
            "tf1_style_impl",
            ("tensorflow", *_ONNX),
            "tf1,onnx",
            through_onnx=True,
            environment=_keras("tensorflow"),
        ),
    )
}


def select(names: Sequence[str] | None) -> list[Backend]:
    """The backends of these names, or all of them.

    Raises:
        TriptychError: a name is unknown.
    """
    for name in names or ():
        if name not in BACKENDS:
            raise TriptychError(f"there is no backend {name!r}; {nearest(name, BACKENDS)}")
    return [backend for backend in BACKENDS.values() if not names or backend.name in names]


def select_for(device: str, names: Sequence[str] | None) -> list[Backend]:
    """The backends of `select`. One that was named must be able to run on the device, even if it is not installed.

    Raises:
        TriptychError: a name is unknown, or its backend does not run there.
    """
    for backend in select(names) if names else ():
        if (obstacle := backend.obstacle(device)) and not backend.missing:
            raise TriptychError(f"{obstacle}; leave out {argument('backends', [backend.name])}")
    return select(names)


def on_every_path(backends: Sequence[Backend], device: str) -> list[Backend]:
    """Each backend once for every path of its kernels on a device, even if this machine cannot take it.

    Raises:
        TriptychError: there are none on that device.
    """
    found = [replace(backend, path=path) for backend in backends for path in paths_of(backend.name, device)]
    if not found:
        raise TriptychError(
            f"{argument('every_path')} switches kernels of the CPU and has none for {device}; leave out one of the two"
        )
    return found


def select_differentiable(names: Sequence[str] | None) -> list[Backend]:
    """The backends of `select` that have a backward pass.

    Raises:
        TriptychError: a name is unknown, or one that was given has none.
    """
    for backend in select(names) if names else ():
        if backend.through_onnx:
            raise TriptychError(f"{backend.name} cannot be differentiated; leave it out")
    return [backend for backend in select(names) if not backend.through_onnx]


def select_trainable(names: Sequence[str] | None) -> list[Backend]:
    """The backends of `select` that are installed and can train.

    Raises:
        TriptychError: a name is unknown, one that was given cannot be used, or nothing is installed.
    """
    trainable = []
    for backend in select(names):
        if backend.through_onnx or backend.compiled:
            reason = f"{backend.name} cannot train; leave it out"
        elif backend.missing:
            reason = f"{backend.name} needs {backend.how_to_install}"
        else:
            trainable.append(backend)
            continue
        if names:
            raise TriptychError(reason)
    if not trainable:
        raise TriptychError("no backend that can train is installed; see triptych doctor")
    return trainable


DEVICES = ("cpu", "cuda", "webgpu")


@dataclass(frozen=True)
class Hardware:
    """The device and the precision of backends."""

    device: str = "cpu"
    """`cpu`, `cuda` or `webgpu`."""
    precision: str = "fp32"
    """`fp32`, or `tf32`: convolutions and dense layers may shorten their factors to 11 significant bits."""
    threads: int | None = None
    """The threads of each backend's process on the CPU; its own default if None."""

    def __post_init__(self) -> None:
        if self.device not in DEVICES or self.precision not in ("fp32", "tf32"):
            raise TriptychError(
                f"cannot run on {self.device} in {self.precision}; choose {' or '.join(DEVICES)}, and fp32 or tf32"
            )
        if self.precision == "tf32" and self.device != "cuda":
            needs = f"{argument('precision', 'tf32')} needs {argument('device', 'cuda')}"
            raise TriptychError(f"TF32 is a mode of NVIDIA's GPUs; {needs}")

    @classmethod
    def shared(cls, processes: int, device: str = "cpu", precision: str = "fp32") -> Hardware:
        """For several processes at a time: each gets its share of the cores.

        Otherwise each would use all cores, and spend half of its time waiting for threads that do not run.
        """
        return cls(device, precision, max(1, (os.cpu_count() or 1) // processes))


def require(hardware: Hardware) -> None:
    """Check that a GPU is there, if one is asked for.

    Raises:
        Unavailable: NVIDIA's driver does not answer, or there is no adapter for WebGPU.
    """
    if hardware.device == "webgpu":
        require_adapter()
    if hardware.device == "cuda" and not gpu():
        leave_out = f"leave out {argument('device', 'cuda')}"
        raise Unavailable(f"there is no NVIDIA GPU here (nvidia-smi finds none); {leave_out}")


_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "GRPC_VERBOSITY": "ERROR", "PYTHONUNBUFFERED": "1"}

_MEMORY = {"TF_ONEDNN_USE_SYSTEM_ALLOCATOR": "1"}
"""oneDNN's own allocator in TensorFlow never gives memory back: 1.3 GB after VGG-11, and a new process is needed."""

_ON_CPU = {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}

_ON_CUDA = {
    # Take memory as it is needed, not all of it at once.
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    # The same bits from run to run.
    "TF_DETERMINISTIC_OPS": "1",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}

_CUDA_PRECISIONS = {
    "fp32": {
        "NVIDIA_TF32_OVERRIDE": "0",
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",
        # A search for the fastest kernel finds the Fourier transform, no sum of products; see common.parity.cudnn.
        "XLA_FLAGS": "--xla_gpu_deterministic_ops=true --xla_gpu_autotune_level=0",
    },
    "tf32": {
        "NVIDIA_TF32_OVERRIDE": "1",
        "JAX_DEFAULT_MATMUL_PRECISION": "tensorfloat32",
        "XLA_FLAGS": "--xla_gpu_deterministic_ops=true",
    },
}


def device_environment(hardware: Hardware) -> dict[str, str]:
    """The variables that choose the device and its switches. Frameworks read them at import."""
    if hardware.device == "webgpu":
        return {**_ON_CPU, **find_adapters().environment}  # the frameworks themselves stay on the CPU
    return _ON_CPU if hardware.device == "cpu" else _ON_CUDA | _CUDA_PRECISIONS[hardware.precision]


def process_environment(backend: Backend, hardware: Hardware = Hardware()) -> dict[str, str]:
    """The environment of a backend's process: the user's own, fewer messages, less memory, the device's switches."""
    threads = dict.fromkeys(THREADS, str(hardware.threads)) if hardware.threads else {}
    usual = {**_QUIET, **_MEMORY, **threads, **os.environ, **device_environment(hardware), **backend.environment}
    return with_variables(usual, backend.path.environment if backend.path else {})
