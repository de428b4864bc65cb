"""Build, load, read and record: what the project asks of every framework, here of PyTorch."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from common.errors import Unavailable
from common.operations import Shape
from common.operations.names import TORCH_BATCH_NORM, canonical_from_torch, layer_of, torch_layer
from common.parity.cudnn import direct_sums
from common.specs import get_spec
from common.specs.calls import named_calls
from common.specs.recording import Recording, Unnamed
from common.training.recipe import kernel_factors
from common.weights import Weights, check_weights
from torch_impl.catalogue import BUILDERS
from torch_impl.graph import FLATTENED, every_head, first_output, hooked, named_outputs, spec_of, traced, wiring
from torch_impl.unnamed import unnamed_operations

__all__ = [
    "FLATTENED",
    "arrays",
    "build",
    "build_float64",
    "kernels",
    "load_weights",
    "named_parameters",
    "on_device",
    "predict",
    "predict_heads",
    "read_weights",
    "record",
    "release",
    "run",
    "structure",
    "uninitialised",
    "unnamed_operations",
    "wiring",
]


def build(
    architecture: str,
    *,
    num_classes: int | None = None,
    image_size: tuple[int, int] | None = None,
    softmax: bool = False,
) -> nn.Module:
    """A model in evaluation mode, with PyTorch's own initialisation, but for what `kernel_factors` says.

    Args:
        architecture: a name that `common.list_architectures` gives.
        num_classes: the number of logits; the paper's where it is not given.
        image_size: (height, width); checked here, since PyTorch's modules take any size until they are run.
        softmax: whether it ends in probabilities, of a layer `softmax`, instead of logits; auxiliary heads do then too.

    Raises:
        TriptychError: the architecture is unknown or does not take these options.
    """
    spec = get_spec(architecture, num_classes=num_classes, image_size=image_size)
    options = {} if num_classes is None else {"num_classes": num_classes}
    model = BUILDERS[spec.name](**options).eval()
    model.architecture, model.image_shape = spec.name, spec.input_shape
    parameters = named_parameters(model)
    with torch.no_grad():
        for name, factor in kernel_factors(spec, parameters).items():
            parameters[name] *= factor
    if softmax:
        for layer in spec.outputs.values():
            # The last module of a Sequential; where there are branches, it has its place in `forward`.
            model.get_submodule(torch_layer(layer_of(layer))).softmax = nn.Softmax(dim=1)
    return model


def build_float64(
    architecture: str, *, num_classes: int | None = None, image_size: tuple[int, int] | None = None
) -> nn.Module:
    """`build`, in float64."""
    return build(architecture, num_classes=num_classes, image_size=image_size).double()


_DRAWING = nn.init.kaiming_uniform_, nn.init.uniform_, nn.init.normal_, torch.Tensor.uniform_, torch.Tensor.normal_


class _Undrawn(TorchFunctionMode):
    def __torch_function__(
        self, function: Callable, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function in _DRAWING:
            tensor = args[0] if args else kwargs["tensor"]
            tensor.detach().zero_()
            return tensor
        return function(*args, **kwargs)


def uninitialised() -> TorchFunctionMode:
    """Models that are built in this context hold zeros where PyTorch draws numbers: for whoever loads weights next."""
    return _Undrawn()


_BATCH_NORM = {theirs: ours for ours, theirs in TORCH_BATCH_NORM.items()}


def named_parameters(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and stored statistic by canonical name; PyTorch's layout is the canonical one."""
    parameters = {}
    for path, module in model.named_modules():
        normalises = isinstance(module, nn.BatchNorm2d)
        own = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
        for name, tensor in own.items():
            if name != "num_batches_tracked":
                parameters[f"{canonical_from_torch(path)}/{_BATCH_NORM[name] if normalises else name}"] = tensor
    return parameters


def load_weights(model: nn.Module, weights: Weights, *, skip: Collection[str] = ()) -> None:
    """Copy canonical weights into the model, but for the layers in `skip`, which keep what they hold.

    Raises:
        TriptychError: the weights do not fit; nothing has been changed then.
    """
    parameters = named_parameters(model)
    check_weights({name: tuple(tensor.shape) for name, tensor in parameters.items()}, weights, skip=skip)
    with torch.no_grad():
        for name, tensor in parameters.items():
            if layer_of(name) not in skip:
                # PyTorch warns of arrays that it may not write to, such as those of a mapped file.
                tensor.copy_(torch.from_numpy(np.require(weights[name], requirements=("C", "W"))))


def read_weights(model: nn.Module) -> dict[str, np.ndarray]:
    """A copy of the model's weights, float32, in the canonical layout."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in named_parameters(model).items()}


def structure(model: nn.Module) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """The shape of every layer's output for one image, and of every parameter, by canonical name.

    Where the numbers of the model do not fit together, the layers from the first that cannot be computed are missing.
    """
    calls, shapes = traced(model)
    parameters = {name: tuple(tensor.shape) for name, tensor in named_parameters(model).items()}
    return dict(zip(named_calls(calls, spec_of(model)), shapes, strict=True)), parameters


def record(
    model: nn.Module, image: np.ndarray, injected: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Run the model and return every layer's output by canonical name, (N, C, H, W) or (N, features).

    A layer's own output is recorded; the layers after it read what `injected` has in its place.
    """
    return dict(run(model, image, injected).layers)


@direct_sums()
@torch.no_grad()
def run(
    model: nn.Module,
    image: np.ndarray,
    injected: Mapping[str, np.ndarray] | None = None,
    unnamed: Unnamed = MappingProxyType({}),
) -> Recording:
    """As `record`, with what the model returns, and what the layers in `unnamed` were given."""
    recorded: dict[str, np.ndarray] = {}
    given: dict[str, np.ndarray] = {}

    def hook(name: str) -> Callable:
        def keep(module: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor | None:
            recorded[name] = output.cpu().numpy().copy()
            if not injected or name not in injected:
                return None
            # A copy: a layer that works in place must not change what was given.
            return torch.from_numpy(injected[name]).to(output, copy=True)

        return keep

    def hook_before(name: str) -> Callable:
        def keep(module: nn.Module, inputs: tuple) -> None:
            if name in unnamed and len(inputs) == 1:
                given[name] = inputs[0].cpu().numpy().copy()  # the layer may work in place

        return keep

    pixels = torch.from_numpy(image).to(next(model.parameters()).device)
    with hooked(model, hook, hook_before):
        returned = named_outputs(model(pixels))
        alone = {}
        if len(returned) > 1:
            with every_head(model, wanted=False):
                alone = named_outputs(model(pixels))
    return Recording(recorded, arrays(returned), arrays(alone), given)


def arrays(tensors: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.cpu().numpy().copy() for name, tensor in tensors.items()}


@torch.inference_mode()
def predict(model: nn.Module, image: np.ndarray) -> dict[str, np.ndarray]:
    """The logits as the model is deployed: nothing is recorded on the way. (N, classes) by the output's name."""
    device = next(model.parameters()).device
    found = model(torch.from_numpy(image).to(device))
    return arrays({first_output(model): found} if isinstance(found, torch.Tensor) else found)


@torch.inference_mode()
def predict_heads(model: nn.Module, image: np.ndarray) -> dict[str, np.ndarray]:
    """As `predict`, every output of a model that ends in logits: what it returns is called that, whatever it is."""
    device = next(model.parameters()).device
    with every_head(model):
        return arrays(named_outputs(model(torch.from_numpy(image).to(device))))


def on_device(model: nn.Module, device: str, precision: str) -> nn.Module:
    """Move a model to `cpu` or `cuda`; let the process shorten factors to TF32 only if that is the `precision`.

    Of the processes that `torchrun` starts, each has a GPU of its own.

    Raises:
        Unavailable: PyTorch sees no GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise Unavailable("PyTorch sees no GPU; install a CUDA build of it (see the README)")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.deterministic = True
    return model.to(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if device == "cuda" else device)


def kernels() -> dict[str, str]:
    """What PyTorch tells of the kernels that it uses: its own, by instruction set, and of how many threads."""
    return {"ATen": torch.backends.cpu.get_cpu_capability(), "threads": str(torch.get_num_threads())}


def release() -> None:
    """Give back the memory of models that nobody holds any more."""
    gc.collect()
