"""A model that is ready to be proved: its graph, and its runtimes."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from common.errors import TriptychError
from common.graphs import Graph, read_graph
from common.graphs.onnx_reader import fill_shapes, inputs_of, read_model, state_shape, state_shapes
from common.parity.backends import DEVICES
from common.prove.array_files import write_arrays
from common.prove.keras_layers import layer_of
from common.prove.litert import LITERT, record_file
from common.prove.optimised import record_optimised
from common.prove.runtimes import (
    FILE_RUNTIMES,
    ONNX_RUNTIMES,
    Here,
    Process,
    Recorded,
    Runtime,
    record,
    runtimes_of_file,
)
from common.prove.torch_export import OFFICIAL, SPECIFICATION

if TYPE_CHECKING:
    import onnx

TORCH_RUNTIMES = (Runtime("torch", optimise=False), Runtime("torch-compile", optimise=True))
EXPORT = Runtime("export", optimise=True)
FIRST = ("torch", "keras-torch")
"""The most informative runtime of a model that is not a file; it need not compile."""
KERAS_RUNTIMES = (
    Runtime("keras-torch", optimise=False),
    Runtime("keras-tensorflow", optimise=True, needs="tensorflow"),
    Runtime("keras-jax", optimise=True, needs="jax"),
)

Example: TypeAlias = "Sequence[np.ndarray]"
Inputs: TypeAlias = "Mapping[str, np.ndarray]"
Shapes: TypeAlias = "Mapping[str, Sequence[int]]"


def refuse_quantised(text: str, model: onnx.ModelProto) -> None:
    """Check that a model computes in float32.

    Raises:
        TriptychError: it is quantised. No bound follows from the arithmetic then.
    """
    kinds = (node.op_type for node in model.graph.node)
    kind = next((kind for kind in kinds if "Quantize" in kind or "QLinear" in kind or kind.endswith("Integer")), None)
    if kind:
        raise TriptychError(f"{text} is quantised: it holds {kind}; prove the float32 model that it was made from")


@dataclass(frozen=True)
class InMemory:
    """A PyTorch module in the user's own program."""

    model: Any

    @property
    def text(self) -> str:
        return type(self.model).__name__


class Subject:
    """An ONNX file."""

    runtimes: tuple[Runtime, ...] = FILE_RUNTIMES
    never_deployed = frozenset({ONNX_RUNTIMES[0].name})

    @classmethod
    def runtimes_on(cls, device: str) -> tuple[Runtime, ...]:
        """Its runtimes on a device."""
        return cls.runtimes if device == "cpu" else runtimes_of_file(device)

    def __init__(
        self,
        text: str,
        path: Path,
        folder: Path,
        shape: Sequence[int] | None = None,
        example: Example | None = None,
        inputs: Inputs | None = None,
        shapes: Shapes | None = None,
    ) -> None:
        self.text, self.path, self.folder = text, path, folder
        self.inputs_by_name: dict[str, str] = {}
        """The graph's inputs by the user's names, if the exporter gave them others."""
        self.model: onnx.ModelProto = read_model(path)
        refuse_quantised(text, self.model)
        if shape:
            state_shape(self.model, shape, path)
        state_shapes(self.model, shapes or {}, path)
        given = dict(inputs or {})
        given |= dict(zip((value.name for value in inputs_of(self.model)), example or (), strict=False))
        fill_shapes(self.model, {name: array.shape for name, array in given.items()})
        self.graph: Graph = replace(read_graph(path, self.model), name=text)

    def record(self, runtime: Runtime, feeds: Inputs, only: Sequence[str] | None = None) -> Recorded:
        """Record every value that a runtime makes, by its name in the graph.

        Args:
            runtime: how.
            feeds: the inputs, by name.
            only: the values that are asked for beside the outputs, if not all; it may lack some of them. If there are
                none, the model itself runs, as it is deployed.
        """
        return record(runtime, self.path, feeds, self.folder, only)

    def optimised(self, feeds: Inputs) -> Recorded:
        """Record the values of the graph that ONNX Runtime makes of what is deployed."""
        return record_optimised(self.path, self.model, self.graph, feeds, self.folder)

    @property
    def deployed(self) -> list[Runtime]:
        """The runtimes in which it is deployed."""
        return [runtime for runtime in self.runtimes if runtime.name not in self.never_deployed]


class TorchSubject(Subject):
    """A PyTorch module: eager, compiled, its specification in ONNX Runtime, and its official export."""

    runtimes: tuple[Runtime, ...] = (*TORCH_RUNTIMES, *FILE_RUNTIMES, EXPORT)
    never_deployed = frozenset(  # the export is
        runtime.name for runtime in (*ONNX_RUNTIMES, *map(ONNX_RUNTIMES[0].on, DEVICES))
    )

    @classmethod
    def runtimes_on(cls, device: str) -> tuple[Runtime, ...]:
        """Its runtimes on a device. On a GPU these are ONNX Runtime's, for its specification and its export."""
        return cls.runtimes if device == "cpu" else (*runtimes_of_file(device), EXPORT.on(device))

    def __init__(self, text: str, process: Process | Here, folder: Path) -> None:
        super().__init__(text, folder / SPECIFICATION, folder)
        self.process = process
        self.own: str | None = None
        """The file of its own variables, if they were replaced."""
        self.refused: str | None = None
        """The reason why its framework cannot export it, if so."""

    def record(self, runtime: Runtime, feeds: Inputs, only: Sequence[str] | None = None) -> Recorded:
        if runtime in TORCH_RUNTIMES or runtime == KERAS_RUNTIMES[0]:
            job = {"compile": runtime.optimise, "inputs": list(self.graph.inputs)}
            return self.process.record(job | self._asked(only), feeds, self.folder)
        is_export = runtime in (EXPORT, EXPORT.on(runtime.device))
        if is_export or (only is not None and runtime not in ONNX_RUNTIMES):
            return self._of_export(feeds, lambda _, given: record(runtime, self._official, given, self.folder, only))
        return super().record(runtime, feeds, only)

    def optimised(self, feeds: Inputs) -> Recorded:
        def run(export: Graph, given: Inputs) -> Recorded:
            return record_optimised(self._official, read_model(self._official), export, given, self.folder)

        return self._of_export(feeds, run)

    def _asked(self, only: Sequence[str] | None) -> dict[str, Any]:
        return {} if only is None else {"only": list(only), "outputs": list(self.graph.outputs)}

    @property
    def _official(self) -> Path:
        return self.folder / OFFICIAL

    def _of_export(self, feeds: Inputs, run: Callable[[Graph, Inputs], Recorded]) -> Recorded:
        """The values of the official export. Its inputs and outputs may have other names, but have the same order."""
        if self.refused:
            return Recorded(error=f"PyTorch cannot export it: {self.refused}", skipped=True)
        export = read_graph(self._official)
        found = run(export, dict(zip(export.inputs, (feeds[name] for name in self.graph.inputs), strict=True)))
        if not found.error:
            outputs = zip(self.graph.outputs, export.outputs, strict=True)
            found.values = {**found.values, **{ours: found.values[theirs] for ours, theirs in outputs}}
        return found


class KerasSubject(TorchSubject):
    """A Keras model: on PyTorch value by value, on its other backends layer by layer."""

    runtimes: tuple[Runtime, ...] = (
        *KERAS_RUNTIMES,
        TORCH_RUNTIMES[1],
        *FILE_RUNTIMES,
        *([LITERT] if LITERT.is_there else []),
        EXPORT,
    )

    def __init__(
        self, called: str, text: str, process: Process | Here, folder: Path, shape: Any, names: Sequence[str] = ()
    ) -> None:
        super().__init__(text, process, folder)
        self.called, self.shape = called, shape
        self.inputs_by_name = dict(zip(names, self.graph.inputs, strict=True)) if names else {}
        self.layers: dict[str, str] | None = None
        """The value that each call of a layer makes."""

    def record(self, runtime: Runtime, feeds: Inputs, only: Sequence[str] | None = None) -> Recorded:
        if self.layers is None:
            self._find_layers(feeds)
        assert self.layers is not None
        if runtime == LITERT:
            return self._in_litert(feeds, deployed=only is not None)
        if runtime not in KERAS_RUNTIMES[1:]:
            return super().record(runtime, feeds, only)
        if runtime.needs and importlib.util.find_spec(runtime.needs) is None:
            return Recorded(error=f"{runtime.needs} is not installed; pip install {runtime.needs}", skipped=True)
        variables = {"KERAS_BACKEND": runtime.name.removeprefix("keras-"), "JAX_PLATFORMS": "cpu"}
        calls = None if only is None else [call for call, value in self.layers.items() if value in only]
        with Process("common.prove.keras_run", variables) as process:
            found = process.record(self._job | self._asked(calls), feeds, self.folder)
        called = self.layers if only is None else self.layers | {name: name for name in self.graph.outputs}
        return replace(found, values={called[call]: v for call, v in found.values.items() if call in called})

    @property
    def _job(self) -> dict[str, Any]:
        """The description of the model for another backend."""
        told = {"load": self.called, "shape": self.shape, "weights": self._weights}
        return told | {"inputs": list(self.graph.inputs)}

    def _in_litert(self, feeds: Inputs, *, deployed: bool) -> Recorded:
        """The values of the model's export in LiteRT, which is made on TensorFlow."""
        known = super().record(ONNX_RUNTIMES[0], feeds)
        file, given = self.folder / "export.tflite", self.folder / "layers.safetensors"
        with Process("common.prove.keras_run", {"KERAS_BACKEND": "tensorflow"}) as process:
            answer = process.ask(self._job | {"export": str(file), "feeds": str(given)})
        if "error" in answer or known.error:
            return Recorded(error=answer.get("error") or known.error)
        known_values = {**feeds, **known.values}
        return record_file(file, self.text, self.graph, known_values, self.folder, deployed=deployed)

    @property
    def _weights(self) -> str:
        return str(self.folder / "weights.npz")

    def _find_layers(self, feeds: Mapping[str, np.ndarray]) -> None:
        """Ask which value each layer makes, and give the nodes the names of their layers."""
        file = str(self.folder / "layers.safetensors")
        write_arrays(feeds, file)
        among = [node.output for node in self.graph.nodes]
        job = {"among": among, "feeds": file, "inputs": list(self.graph.inputs), "weights": self._weights}
        answer = self.process.ask(job)
        if "error" in answer:
            raise TriptychError(f"the layers of {self.text} cannot be recorded: {answer['error']}")
        self.layers = answer["called"]
        self.graph = with_sources(self.graph, {value: layer_of(call) for call, value in self.layers.items()})


def with_sources(graph: Graph, sources: Mapping[str, str]) -> Graph:
    """A graph in which each node has the name of the layer that it belongs to.

    Args:
        graph: the graph.
        sources: for each value, the layer that makes it.
    """
    of_value = dict(sources)
    nodes = []
    for node in reversed(graph.nodes):
        source = of_value.get(node.output)
        nodes.append(replace(node, source=source or node.source))
        if source:
            for name in node.reads:
                of_value.setdefault(name, source)
    return replace(graph, nodes=tuple(reversed(nodes)))
