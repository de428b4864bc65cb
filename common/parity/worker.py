"""Backends in a process of their own: `python -m common.parity.worker BACKEND DEVICE PRECISION`.

On a CPU the process of a model is that of its export too: both need the same model, with the same weights.

Reads one JSON request a line from standard input and answers each with one JSON line on standard output:

- `{"backend": BACKEND, "build": ARCHITECTURE, "num_classes": CLASSES, "image_size": [HEIGHT, WIDTH]}`: build that
  network, unless it is there already; the shapes of the model, what stands between its layers, which layers each
  depends on directly, and in which order it flattens maps.
- `{"backend": BACKEND, "weights": FILE, "image": FILE, "injected": {LAYER: FILE}, "deployed": BOOL, "output": FOLDER}`:
  run it. Arrays travel as files: the weights as safetensors, the others as npy, which the other side maps into memory;
  the answer names one for every layer's output, and for all that the network returns. As deployed, nothing else is
  recorded.
- The same with `"drives": {LAYER: FILE}, "labels": FILE, "training": BOOL`: run it back as well, and record all that
  `record_gradients` does.
- `{"backend": BACKEND, "weights": FILE, "same_as": [FILE, ...]}`: export it with these weights; the file, or which of
  those it is the same as.
- `{"release": true}`: forget the network; how many bytes the process still holds.

An answer with `error` says why there is no other. The process ends when its standard input is closed, whatever it is
doing, so that none is left behind.
"""

from __future__ import annotations

import ctypes
import importlib
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import TriptychError, Unavailable, one_line
from common.layouts import in_one_piece
from common.onnx.files import same_export
from common.onnx.options import ExportOptions
from common.onnx.session import DeployedSession, RecordingSession, execution_providers
from common.parity.backends import BACKENDS, Backend, Hardware
from common.parity.evidence import Witness, catch_what_is_printed
from common.process import answering, requests
from common.process.sparing import spare_imports
from common.specs import get_spec
from common.weights import map_weights_file

_LRN_FORMS = {"webgpu": "nodes", "cuda": "node"}
"""For each device where it matters: WebGPU has no kernel for the one node, and CUDA may shorten the squares to TF32 in
several nodes."""

Arrays = Mapping[str, np.ndarray]
Recorded = Mapping[str, Arrays]
"""By kind and name: the `outputs` of layers, what is `returned`, also `alone`, what layers were `given`; in a backward
pass `outputs`, `gradients`, `parameters` and `weights`."""


class Worker:
    """Backends with one network."""

    def __init__(self, backend: Backend, hardware: Hardware) -> None:
        started = time.perf_counter()
        self.witness = Witness()
        self.backend = backend
        self.hardware = hardware
        self.implementation = importlib.import_module(backend.implementation)
        self.module = importlib.import_module(f"{backend.implementation}.backend")
        self.runner, self.kernels = self.module.run, self.module.kernels
        self.predictors = self.module.predict, self.module.predict_heads
        if backend.compiled:
            compiled = importlib.import_module(f"{backend.implementation}.compiled")
            self.runner, self.kernels = compiled.run_compiled, compiled.kernels
            self.predictors = compiled.predict_compiled, compiled.predict_heads_compiled
        self.importing = time.perf_counter() - started
        self.loading = 0.0
        self._forget()

    def _forget(self) -> None:
        self.architecture: str | None = None
        self.options: dict[str, Any] = {}
        """The options of the network, besides its name."""
        self.model: Any = None
        self.structures: dict[str, dict[str, Any]] = {}
        """What was told of it, by backend."""
        self.loaded: str | None = None
        self.exported: Path | None = None
        """The export with the loaded weights, or another backend's that is the same."""
        self.sessions: dict[frozenset[str] | None, RecordingSession | DeployedSession] = {}
        """Sessions with the loaded weights, by the layers with an injection; None: as deployed."""

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out one request; see the module's description."""
        self.backend = BACKENDS[request.get("backend", self.backend.name)]
        if "build" in request:
            sizes = {"num_classes": request["num_classes"], "image_size": tuple(request["image_size"])}
            return self._build(request["build"], sizes)
        if "release" in request:
            return self._release()
        if "same_as" in request:
            return self._export(request["weights"], [Path(other) for other in request["same_as"]])
        return self._run(request)

    def _build(self, architecture: str, options: dict[str, Any]) -> dict[str, Any]:
        if (architecture, options) != (self.architecture, self.options):
            self._forget()
            device = "cpu" if self.backend.through_onnx else self.hardware.device
            with getattr(self.module, "uninitialised", nullcontext)():  # its weights are loaded before it is run
                model = self.implementation.build(architecture, **options)
            self.model = self.module.on_device(model, device, self.hardware.precision)
            self.architecture, self.options = architecture, options
        if self.backend.name not in self.structures:
            shapes, parameter_shapes = self.module.structure(self.model)
            # An export is written layer by layer, in the canonical layout, and refused where anything stands between.
            exported = self.backend.through_onnx
            self.structures[self.backend.name] = {
                "shapes": shapes,
                "parameter_shapes": parameter_shapes,
                "unnamed": {} if exported else self.module.unnamed_operations(self.model),
                "order": "C, H, W" if exported else self.module.FLATTENED,
                "reads": {} if exported else self.module.wiring(self.model),
            }
        return self.structures[self.backend.name]

    def _run(self, request: Mapping[str, Any]) -> dict[str, Any]:
        folder = Path(request["output"])
        self._load(request["weights"])
        image = np.load(request["image"])
        injected, drives = (_arrays(request.get(kind, {})) for kind in ("injected", "drives"))
        if "drives" in request:
            labels = np.load(request["labels"]) if request["labels"] else None
            record: Callable[[np.ndarray], Recorded] = partial(
                self._differentiate, injected=injected, drives=drives, labels=labels, training=request["training"]
            )
        else:
            record = self._predict if request["deployed"] else partial(self._record, injected=injected)
        self.witness.begin()
        started = time.perf_counter()
        recorded = record(image)
        layers = recorded.get("outputs") or get_spec(self.architecture or "").outputs.values()
        places = self._places(layers, None if request["deployed"] else frozenset(injected))
        running = time.perf_counter() - started
        evidence = self._evidence(None if request["deployed"] else frozenset(injected))
        repeatable = None
        if self.hardware.device != "cpu":
            self._load(request["weights"])  # a pass in training mode changes what is stored
            again = record(image)
            repeatable = all(
                array.tobytes() == again[kind][name].tobytes()
                for kind, arrays in recorded.items()
                for name, array in arrays.items()
            )
        files: dict[str, dict[str, str]] = {}
        for kind, arrays in recorded.items():
            (folder / kind).mkdir()
            files[kind] = {name: str(folder / kind / f"{number}.npy") for number, name in enumerate(arrays)}
            for name, path in files[kind].items():
                np.save(path, in_one_piece(arrays[name]))
        return {
            "recorded": files,
            "places": places,
            "evidence": evidence,
            "timing": {**self._waited(), "run": running},
            "memory": _peak_bytes(),
            "repeatable": repeatable,
            "note": self._note(),
        }

    def _evidence(self, injected: frozenset[str] | None) -> dict[str, str]:
        """The kernels that have run, by library, as the library says."""
        if self.backend.through_onnx:
            return self._session(injected).session.kernels
        return {**self.kernels(), **self.witness.tell()}

    def _waited(self) -> dict[str, float]:
        """Seconds, told once, by the backend that had to wait for it."""
        importing, loading = self.importing, self.loading
        self.importing = self.loading = 0.0
        return {"import": importing, "load": loading}

    def _load(self, path: str, unless: Path | None = None) -> None:
        started = time.perf_counter()
        if path != self.loaded:
            self.sessions.clear()
            self.exported = None
            self.implementation.load_weights(self.model, map_weights_file(Path(path)))
            self.loaded = path
        if self.backend.through_onnx and self.exported is None:
            outputs = tuple(get_spec(self.architecture or "").outputs)
            weights = Path(path)
            exported = weights.with_name(f"{self.backend.name}-{weights.stem}") / "network.onnx"
            exported.parent.mkdir(exist_ok=True)
            # Beside the model, the weights can be mapped into memory.
            lrn = _LRN_FORMS.get(self.hardware.device)
            options = ExportOptions(outputs, external_data=True, lrn=lrn, unless=unless)
            self.implementation.export_onnx(self.model, exported, options)
            self.exported = exported if exported.exists() else unless
        self.loading += time.perf_counter() - started

    def _export(self, weights: str, others: Sequence[Path]) -> dict[str, Any]:
        self._load(weights, unless=next(iter(others), None))
        exported = self.exported
        assert exported
        same = next((str(other) for other in others if other == exported or same_export(other, exported)), None)
        return {"export": str(exported), "same_as": same, "timing": self._waited(), "memory": _peak_bytes()}

    def _record(self, image: np.ndarray, injected: Arrays) -> Recorded:
        if self.backend.through_onnx:
            found = self._session(frozenset(injected)).run(image, injected)
        else:
            found = self.runner(self.model, image, injected, self.structures[self.backend.name]["unnamed"])
        return {"outputs": found.layers, "returned": found.returned, "alone": found.alone, "given": found.given}

    def _predict(self, image: np.ndarray) -> Recorded:
        if self.backend.through_onnx:
            return {"returned": self._session(None).run(image)}
        predict, predict_heads = self.predictors
        found = {"returned": predict_heads(self.model, image)}
        if len(get_spec(self.architecture or "").outputs) > 1:
            found["alone"] = predict(self.model, image)
        return found

    def _session(self, injected: frozenset[str] | None) -> Any:
        if injected not in self.sessions:
            assert self.exported
            providers = execution_providers(self.hardware.device, self.hardware.precision)
            self.sessions[injected] = (
                DeployedSession(self.exported, providers)
                if injected is None
                else RecordingSession(self.exported, injected, providers)
            )
        return self.sessions[injected]

    def _places(self, layers: Iterable[str], injected: frozenset[str] | None) -> dict[str, str | None]:
        """Where each layer ran, `cpu` or `gpu`; None if that is not known.

        PyTorch and JAX refuse an operation without a GPU kernel. TensorFlow moves it to the CPU.

        Raises:
            Unavailable: a GPU was asked for, and all layers ran on the CPU.
        """
        if self.hardware.device == "cpu":
            return dict.fromkeys(layers, "cpu")
        if not self.backend.through_onnx:
            return dict.fromkeys(layers, None if "tensorflow" in self.backend.modules else "gpu")
        session = self._session(injected)
        if "gpu" not in session.session.places.values():
            raise Unavailable(f"ONNX Runtime ran none of {self.architecture} on {self.hardware.device}")
        found = dict.fromkeys(layers, session.place) if injected is None else session.places
        return {layer: found.get(layer) for layer in layers}

    def _note(self) -> str | None:
        """A note about the sessions of a network."""
        return next((session.note for session in self.sessions.values()), None) if self.backend.through_onnx else None

    def _differentiate(self, image: np.ndarray, *, training: bool, **given: Any) -> Recorded:
        compiled = self.backend.compiled
        module = importlib.import_module(f"{self.backend.implementation}.{'compiled' if compiled else 'gradients'}")
        differentiate = module.record_gradients_compiled if compiled else module.record_gradients
        recorded: Recorded = differentiate(self.model, image, training=training, **given)
        if training:
            self.loaded = None  # what is stored has changed
        return recorded

    def _release(self) -> dict[str, Any]:
        self._forget()
        self.module.release()
        with suppress(OSError, AttributeError):  # another C library has its own ways
            ctypes.CDLL(None).malloc_trim(0)  # freed memory back to the system
        return {"resident": _resident_bytes()}


def _arrays(files: Mapping[str, str]) -> dict[str, np.ndarray]:
    return {name: np.load(path) for name, path in files.items()}


def _resident_bytes() -> int:
    """The memory of this process, without shared libraries; its peak if the system does not tell."""
    try:
        _, resident, shared, *_ = Path("/proc/self/statm").read_text().split()
        return (int(resident) - int(shared)) * resource.getpagesize()
    except OSError:
        return _peak_bytes()


def _peak_bytes() -> int:
    """The peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Answer requests until standard input ends."""
    answer, asked = answering(), requests()
    catch_what_is_printed()
    spare_imports()
    worker: Worker | None = None
    try:
        name, device, precision = sys.argv[1:]
        # The framework is imported before anything is asked.
        worker = Worker(BACKENDS[name], Hardware(device, precision))
    except Exception as error:
        failure = describe_error(error)
    for request in asked:
        if worker is None:
            answer({"error": failure})
            continue
        try:
            found = worker.answer(request)
        except Exception as error:  # a framework's own failure is a row in the report, not the end of it
            found = {"error": describe_error(error), "unavailable": isinstance(error, Unavailable)}
            if not isinstance(error, TriptychError):
                found["traceback"] = "".join(traceback.format_exception(error))
        answer(found)


def describe_error(error: Exception) -> str:
    """One line for the report; the traceback goes to the log."""
    if not isinstance(error, TriptychError):
        traceback.print_exception(error)
    return one_line(error)


if __name__ == "__main__":
    main()
