"""Running an ONNX file with ONNX Runtime: every layer recorded, or as it is deployed."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import TriptychError, Unavailable
from common.specs.architecture import IMAGE

if TYPE_CHECKING:
    import onnx
    import onnxruntime


Providers = Sequence[tuple[str, dict[str, str]]]
"""ONNX Runtime's execution providers with their options, in order of preference."""

CPU: Providers = (("CPUExecutionProvider", {}),)


class RecordingSession:
    """A file that `common.onnx_graph` wrote, loaded so that every layer's output comes back.

    On a CPU, ONNX Runtime has no kernels for bfloat16 and few for float16; where it has none for that, it computes in
    float32, but rounds only the values that leave the graph. A file of either type is therefore run with each operator
    in float32 and a cast there and back behind it, so that all that passes from layer to layer is rounded.

    Args:
        path: the file.
        injected: the layers whose output `record` replaces for the layers behind them.
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
        self.values = {node.name: node.output[0] for node in graph.node}
        inlets = {self.values[name]: f"{name}/injected" for name in injected}
        for node in graph.node:
            node.input[:] = [inlets.get(value, value) for value in node.input]
        # ONNX Runtime reads these in place: they must outlive the session.
        self.arrays = _take_initializers(model, Path(path).parent)
        if element != onnx.TensorProto.FLOAT:
            self._compute_in_float32(graph, element)
        del graph.output[:]
        graph.output.extend(_float_values(self.values.values()))
        graph.input.extend(_float_values(inlets.values()))
        options = _options()
        options.add_external_initializers(
            list(self.arrays), [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in self.arrays.values()]
        )
        self.session = _session(path, model.SerializeToString(), options, providers)
        if self.session.get_providers()[0] != providers[0][0]:
            raise Unavailable(f"ONNX Runtime could not use its {providers[0][0]}; see its messages above")

    def record(self, image: np.ndarray, injected: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """Every layer's output by its node's name, float32, (N, C, H, W) or (N, features).

        Args:
            image: float32, (N, C, H, W).
            injected: values for the layers named at the start.

        Raises:
            TriptychError: ONNX Runtime cannot run the file on this image.
        """
        feeds = {IMAGE: image} | {f"{name}/injected": array for name, array in (injected or {}).items()}
        if self.dtype != np.float32:
            feeds = {name: array.astype(self.dtype).astype(np.float32) for name, array in feeds.items()}
        outputs = _run(self.path, self.session, list(self.values.values()), feeds)
        return dict(zip(self.values, outputs, strict=True))

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
    """ONNX Runtime's providers for a device, the CPU's behind the GPU's for what that does not have.

    Raises:
        Unavailable: the installed ONNX Runtime cannot use the device.
    """
    import onnxruntime

    cpu: tuple[str, dict[str, str]] = ("CPUExecutionProvider", {})
    if device == "cpu":
        return [cpu]
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


def run_as_deployed(path: str | Path, image: np.ndarray, providers: Providers = CPU) -> dict[str, np.ndarray]:
    """Run a file as it is, with all of ONNX Runtime's optimisations and no layer tapped; the outputs by name.

    Raises:
        TriptychError: ONNX Runtime cannot load or run the file.
    """
    session = _session(path, str(path), _options(), providers)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, _run(path, session, names, {IMAGE: image}), strict=True))


def _options() -> onnxruntime.SessionOptions:
    """Quiet, and with as many threads as the other libraries are told to use."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", 0))
    return options


def _session(
    path: str | Path, model: str | bytes, options: onnxruntime.SessionOptions, providers: Providers
) -> onnxruntime.InferenceSession:
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(model, options, providers=list(providers))
    except Exception as error:  # ONNX Runtime's exceptions have no common base class
        raise TriptychError(f"ONNX Runtime cannot load {path}: {error}") from None


def _run(
    path: str | Path, session: onnxruntime.InferenceSession, names: list[str], feeds: Mapping[str, np.ndarray]
) -> list[np.ndarray]:
    try:
        outputs: list[Any] = session.run(names, feeds)
    except Exception as error:
        raise TriptychError(f"ONNX Runtime cannot run {path}: {error}") from None
    return outputs


def _float_values(names: Iterable[str]) -> list[onnx.ValueInfoProto]:
    from onnx import TensorProto, helper

    return [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]


def _take_initializers(model: onnx.ModelProto, folder: Path) -> dict[str, np.ndarray]:
    """Replace the initializers' data by a reference to data beside the model, and return it.

    Serialising a model with its weights, only for ONNX Runtime to parse it again, takes longer than running it. What
    lies in a file beside the model already is mapped into memory.
    """
    from onnx import TensorProto, external_data_helper, helper, numpy_helper

    arrays: dict[str, np.ndarray] = {}
    for tensor in model.graph.initializer:
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
