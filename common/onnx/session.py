"""Runs an ONNX file with ONNX Runtime: with every layer recorded, or as it is deployed."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import TriptychError, Unavailable, one_line
from common.onnx import webgpu
from common.specs.architecture import IMAGE
from common.specs.recording import Recording

if TYPE_CHECKING:
    import onnx
    import onnxruntime


Providers = Sequence[tuple[str, dict[str, str]]]
"""ONNX Runtime's execution providers with their options, in order of preference."""

CPU: Providers = (("CPUExecutionProvider", {}),)


class Session:
    """A model in ONNX Runtime, with the places where its nodes ran.

    If ONNX Runtime has no GPU kernel for a node, it silently runs the node on the CPU. Its profile of the first run
    tells where each kernel ran.

    Args:
        path: the name of the model in messages.
        model: the path of the model, or the model itself.
        providers: where to run it; see `execution_providers`.
        options: ONNX Runtime's, if not the usual ones.

    Raises:
        Unavailable: ONNX Runtime cannot use the first provider.
        TriptychError: it refuses the model.
    """

    def __init__(
        self,
        path: str | Path,
        model: str | bytes,
        providers: Providers = CPU,
        options: onnxruntime.SessionOptions | None = None,
    ) -> None:
        import onnxruntime

        self.path = path
        self.places: dict[str, str] = {}
        """`cpu` or `gpu` for each node, after the first run. A node that was optimised away is absent."""
        options = options or session_options()
        first, on_cpu = providers[0][0], providers[0] == CPU[0]
        given = None if first == webgpu.PROVIDER else list(providers)
        self.profiles = None if on_cpu else tempfile.TemporaryDirectory(prefix="triptych-", ignore_cleanup_errors=True)
        if self.profiles:
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(self.profiles.name) / "profile")
        self.note: str | None = None
        try:
            if first == webgpu.PROVIDER:
                wrong = webgpu.computed_wrongly_in_nhwc(_graph(model))
                if wrong:
                    self.note = webgpu.in_nchw(wrong)
                layout = {"preferredLayout": "NCHW"} if wrong else {}
                options.add_provider_for_devices(webgpu.ep_devices()[:1], layout)
            # Left to itself, ONNX Runtime falls back to the CPU where a provider fails.
            self.session = onnxruntime.InferenceSession(model, options, providers=given, enable_fallback=0)
        except Unavailable:
            raise
        except Exception as error:  # ONNX Runtime's exceptions have no common base class
            raise TriptychError(f"ONNX Runtime cannot load {path}: {one_line(error)}") from None
        if self.session.get_providers()[0] != first:
            raise Unavailable(f"ONNX Runtime could not use its {first}; see its messages above")

    def run(self, names: list[str], feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The values of these names.

        Raises:
            TriptychError: ONNX Runtime cannot run the model on these.
        """
        try:
            outputs: list[Any] = self.session.run(names, feeds)
        except Exception as error:
            raise TriptychError(f"ONNX Runtime cannot run {self.path}: {one_line(error)}") from None
        if self.profiles:
            self.places = _places(Path(self.session.end_profiling()))
            self.profiles.cleanup()
            self.profiles = None
        return outputs

    @property
    def kernels(self) -> dict[str, str]:
        """ONNX Runtime's version and threads. It chooses its kernels by the CPU, and has no switch for that."""
        import onnxruntime

        threads = self.session.get_session_options().intra_op_num_threads
        return {"ONNX Runtime": onnxruntime.__version__, "threads": str(threads or os.cpu_count())}


def _graph(model: str | bytes) -> onnx.GraphProto:
    """The graph of a model or of its file, without weights in other files."""
    import onnx

    if isinstance(model, bytes):
        return onnx.load_model_from_string(model).graph
    return onnx.load(model, load_external_data=False).graph


def _places(profile: Path) -> dict[str, str]:
    """Where each node ran: on the CPU if any of its kernels did.

    A node that was moved to another layout has a number after its name: `conv1_token_7`. Copies and transpositions that
    ONNX Runtime inserts are no nodes of the model.
    """
    places: dict[str, str] = {}
    for event in json.loads(profile.read_text(encoding="utf-8")):
        name, kernel = event["name"], "_kernel_time"
        if event["cat"] == "Node" and name.endswith(kernel) and not event["args"]["op_name"].startswith("Memcpy"):
            node = re.sub(r"(_token_\d+)+$", "", name.removesuffix(kernel))
            place = "cpu" if event["args"]["provider"] == CPU[0][0] else "gpu"
            places[node] = min(place, places.get(node, place))
    return places


class RecordingSession:
    """A file of `GraphBuilder`, loaded so that every layer's output is returned.

    On a CPU, ONNX Runtime has no kernels for bfloat16 and few for float16. Without one it computes in float32, but
    rounds only the outputs of the graph. So a file of either type is run with each operator in float32, and after each
    a cast to the type and back. Then every value between layers is rounded.

    Args:
        path: the file.
        injected: the layers whose output `record` replaces for the layers after them.
        providers: where to run it; see `execution_providers`.

    Raises:
        TriptychError: ONNX Runtime refuses the file.
    """

    def __init__(self, path: str | Path, injected: Collection[str] = (), providers: Providers = CPU) -> None:
        import onnx
        import onnxruntime

        self.path = path
        model = onnx.load(path, load_external_data=False)
        graph = model.graph
        element = graph.input[0].type.tensor_type.elem_type
        self.dtype = onnx.helper.tensor_dtype_to_np_dtype(element)
        self.layers = _layers(graph)
        self.values = {node.name: node.output[0] for node in graph.node if self.layers[node.name] == node.name}
        inlets = {self.values[name]: f"{name}/injected" for name in injected}
        self.returned = {output.name: inlets.get(output.name, output.name) for output in graph.output}
        for node in graph.node:
            node.input[:] = [inlets.get(value, value) for value in node.input]
        # ONNX Runtime reads these in place: they must outlive the session.
        self.arrays = _take_initializers(model, Path(path).parent)
        if element != onnx.TensorProto.FLOAT:
            self._compute_in_float32(graph, element)
        del graph.output[:]
        graph.output.extend(_float_values(self.values.values()))
        graph.input.extend(_float_values(inlets.values()))
        options = session_options()
        options.add_external_initializers(
            list(self.arrays), [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in self.arrays.values()]
        )
        self.session = Session(path, model.SerializeToString(), providers, options)

    def record(self, image: np.ndarray, injected: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """Every layer's output by its node's name, float32, (N, C, H, W) or (N, features).

        Args:
            image: float32, (N, C, H, W).
            injected: values for the layers named at the start.

        Raises:
            TriptychError: ONNX Runtime cannot run the file on this image.
        """
        return dict(self.run(image, injected).layers)

    def run(self, image: np.ndarray, injected: Mapping[str, np.ndarray] | None = None) -> Recording:
        """As `record`, with the outputs of the graph."""
        feeds = {IMAGE: image} | {f"{name}/injected": array for name, array in (injected or {}).items()}
        if self.dtype != np.float32:
            feeds = {name: array.astype(self.dtype).astype(np.float32) for name, array in feeds.items()}
        outputs = self.session.run(list(self.values.values()), feeds)
        of_values = dict(zip(self.values.values(), outputs, strict=True)) | feeds
        returned = {name: of_values[value] for name, value in self.returned.items()}
        return Recording(dict(zip(self.values, outputs, strict=True)), returned)

    @property
    def note(self) -> str | None:
        """What is special about this session."""
        return self.session.note

    @property
    def places(self) -> dict[str, str]:
        """Where each layer ran in the first run: on the CPU if any of its nodes did. Empty if the CPU was asked for."""
        places: dict[str, str] = {}
        for node, place in self.session.places.items():
            if node in self.layers:
                places[self.layers[node]] = min(place, places.get(self.layers[node], place))
        return places

    def _compute_in_float32(self, graph: onnx.GraphProto, element: int) -> None:
        """Make a graph of a shorter type a float32 one in which every node's output is rounded to that type."""
        from onnx import TensorProto, helper

        for tensor in graph.initializer:
            if tensor.data_type == element:
                tensor.data_type = TensorProto.FLOAT
                self.arrays[tensor.name] = self.arrays[tensor.name].astype(np.float32)
        del graph.value_info[:]
        graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
        nodes = list(graph.node)
        del graph.node[:]
        for node in nodes:
            exact, value = f"{node.name}/float32", node.output[0]
            node.output[0] = exact
            rounded = helper.make_node("Cast", [exact], [f"{node.name}/rounded"], to=element)
            back = helper.make_node("Cast", rounded.output, [value], to=TensorProto.FLOAT)
            graph.node.extend([node, rounded, back])


def execution_providers(device: str, precision: str) -> list[tuple[str, dict[str, str]]]:
    """ONNX Runtime's providers for a device. The CPU's comes after the GPU's, for nodes without a GPU kernel.

    Raises:
        Unavailable: the installed ONNX Runtime cannot use the device.
    """
    import onnxruntime

    cpu: tuple[str, dict[str, str]] = ("CPUExecutionProvider", {})
    if device == "cpu":
        return [cpu]
    if device == "webgpu":
        return [(webgpu.PROVIDER, {}), cpu]
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise Unavailable("ONNX Runtime has no CUDA provider; install onnxruntime-gpu in place of onnxruntime")
    # cuDNN's default algorithm sums products; a search for the fastest can find the Fourier transform.
    options = {"use_tf32": "1" if precision == "tf32" else "0", "cudnn_conv_algo_search": "DEFAULT"}
    return [("CUDAExecutionProvider", options), cpu]


def record(
    path: str | Path, image: np.ndarray, injected: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Run a file once and return every layer's output; see `RecordingSession`."""
    return RecordingSession(path, injected or ()).record(image, injected)


class DeployedSession:
    """A file as it is, loaded with all of ONNX Runtime's optimisations and without recording layers.

    Raises:
        TriptychError: ONNX Runtime cannot load the file.
    """

    def __init__(self, path: str | Path, providers: Providers = CPU) -> None:
        self.session = Session(path, str(path), providers)
        self.names = [output.name for output in self.session.session.get_outputs()]

    def run(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs by name.

        Raises:
            TriptychError: ONNX Runtime cannot run the file on this image.
        """
        return dict(zip(self.names, self.session.run(self.names, {IMAGE: image}), strict=True))

    @property
    def note(self) -> str | None:
        """What is special about this session."""
        return self.session.note

    @property
    def place(self) -> str | None:
        """Where it ran: on the CPU if any part of it did. None if the CPU was asked for."""
        return min(self.session.places.values(), default=None)


def run_as_deployed(path: str | Path, image: np.ndarray) -> dict[str, np.ndarray]:
    """Run a file on the CPU as it is deployed; the outputs by name. See `DeployedSession`."""
    return DeployedSession(path).run(image)


def session_options() -> onnxruntime.SessionOptions:
    """Options without messages, and with the same number of threads as the other libraries."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", 0))
    return options


def _layers(graph: onnx.GraphProto) -> dict[str, str]:
    """The layer of each node. If a layer has several nodes, the last one has its name (see `GraphBuilder`)."""
    names = {node.name for node in graph.node}
    return {
        name: next((whole for whole in accumulate(name.split("/"), "{}/{}".format) if whole in names), name)
        for name in names
    }


def _float_values(names: Iterable[str]) -> list[onnx.ValueInfoProto]:
    from onnx import TensorProto, helper

    return [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]


def _take_initializers(model: onnx.ModelProto, folder: Path) -> dict[str, np.ndarray]:
    """Replace the initializers' data by a reference to data beside the model, and return it.

    To serialise a model with its weights for ONNX Runtime takes longer than to run it. Data in a file beside the model
    are mapped into memory. Integers stay, since shapes depend on their values.
    """
    from onnx import TensorProto, external_data_helper, helper, numpy_helper

    arrays: dict[str, np.ndarray] = {}
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.INT64:
            continue
        if external_data_helper.uses_external_data(tensor):
            where = external_data_helper.ExternalDataInfo(tensor)
            dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
            mapped = np.memmap(folder / where.location, dtype, "c", where.offset or 0, tuple(tensor.dims))
            arrays[tensor.name] = np.asarray(mapped)
        else:
            arrays[tensor.name] = numpy_helper.to_array(tensor)
        tensor.ClearField("raw_data")
        del tensor.external_data[:]
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="beside")
    return arrays
