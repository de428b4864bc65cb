"""Build, load, read and record: what the project asks of every framework, here of PyTorch."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from itertools import cycle
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn

from common.calls import IMAGE_CALL, Call, named_calls, wired
from common.cudnn import direct_sums
from common.errors import TriptychError, Unavailable
from common.names import TORCH_BATCH_NORM, canonical_from_torch, layer_of, torch_layer
from common.operations import Shape
from common.recording import Recording, Unnamed
from common.specs import get_spec
from common.specs.architecture import Architecture
from common.training.recipe import kernel_factors
from common.weights import Weights, check_weights
from torch_impl.catalogue import BUILDERS


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


FLATTENED = "C, H, W"
"""The order in which PyTorch flattens maps."""


def structure(model: nn.Module) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """The shape of every layer's output for one image, and of every parameter, by canonical name.

    Where the numbers of the model do not fit together, the layers from the first that cannot be computed are missing.
    """
    calls, shapes = _traced(model)
    parameters = {name: tuple(tensor.shape) for name, tensor in named_parameters(model).items()}
    return dict(zip(named_calls(calls, _spec_of(model)), shapes, strict=True)), parameters


def wiring(model: nn.Module) -> dict[str, list[str]]:
    """The layers that each layer depends on directly, by canonical name; `image` is one. Not all are known."""
    calls, _ = _traced(model)
    return wired(calls, named_calls(calls, _spec_of(model)), _spec_of(model))


def names_of_calls(model: nn.Module) -> dict[str, list[str]]:
    """For each module, by its path, the canonical name of each of its calls; a module may stand at several places."""
    calls, _ = _traced(model)
    names: dict[str, list[str]] = {}
    for call, name in zip(calls, named_calls(calls, _spec_of(model)), strict=True):
        names.setdefault(torch_layer(call.name), []).append(name)
    return names


def _spec_of(model: nn.Module) -> Architecture | None:
    architecture = getattr(model, "architecture", None)
    return get_spec(architecture, image_size=model.image_shape[1:]) if architecture else None


def _traced(model: nn.Module) -> tuple[list[Call], list[Shape]]:
    """`_trace`, once for the same layers."""
    key = [(path, id(module)) for path, module in _layers_of(model)]
    known, traced = model.__dict__.get("_traced", (None, None))
    if known != key or traced is None:
        traced = _trace(model)
        model.__dict__["_traced"] = key, traced
    return traced


@torch.no_grad()
def _trace(model: nn.Module) -> tuple[list[Call], list[Shape]]:
    """Every call of a layer, in order, and its output's shape for one image, up to the first that cannot be computed.

    Only shapes are computed: on the meta device a tensor has no content. A tensor is known by its identity and by how
    often it was changed in place, so that what is added to one in between is not overlooked.
    """
    calls: list[Call] = []
    shapes: list[Shape] = []
    image = torch.empty(1, *model.image_shape, device="meta")
    made = {_identity(image): IMAGE_CALL}
    alive = [image]  # so that no other tensor gets the identity of one that is gone
    state = {name: tensor.to("meta") for name, tensor in model.state_dict().items()}

    def before(name: str) -> Callable:
        def note(module: nn.Module, inputs: tuple) -> None:
            tensors = [t for given in inputs for t in (given if isinstance(given, list | tuple) else [given])]
            calls.append(Call(name, tuple(made.get(_identity(tensor)) for tensor in tensors)))

        return note

    def behind(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        made[_identity(output)] = len(calls) - 1
        shapes.append(tuple(output.shape[1:]))
        alive.append(output)

    with ExitStack() as hooks, every_head(model), suppress(RuntimeError):
        for path, module in _layers_of(model):
            hooks.callback(module.register_forward_pre_hook(before(canonical_from_torch(path))).remove)
            hooks.callback(module.register_forward_hook(behind).remove)
        torch.func.functional_call(model, state, image)
    return calls[: len(shapes)], shapes


def _identity(tensor: torch.Tensor) -> tuple[int, int]:
    return id(tensor), tensor._version


def _layers_of(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(path, module) for path, module in model.named_modules() if not any(module.children())]


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


def named_outputs(returned: Any) -> dict[str, Any]:
    """What a model returns, by the name of the output: tensors, or the nodes of a trace.

    Raises:
        TriptychError: it returns something else than a tensor, or a dict of some.
    """
    if isinstance(returned, list | tuple):
        raise TriptychError(
            f"the model returns a {type(returned).__name__}; several outputs come back in a dict, by name"
        )
    return returned if isinstance(returned, dict) else {"logits": returned}


def arrays(tensors: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.cpu().numpy().copy() for name, tensor in tensors.items()}


@torch.inference_mode()
def predict(model: nn.Module, image: np.ndarray) -> dict[str, np.ndarray]:
    """The logits as the model is deployed: nothing is recorded on the way. (N, classes) by the output's name."""
    device = next(model.parameters()).device
    found = model(torch.from_numpy(image).to(device))
    return arrays({first_output(model): found} if isinstance(found, torch.Tensor) else found)


def first_output(model: nn.Module) -> str:
    """The name of what a model gives in evaluation mode: `logits`, or `probabilities` after a softmax."""
    return "probabilities" if getattr(model, "softmax", None) else "logits"


@torch.inference_mode()
def predict_heads(model: nn.Module, image: np.ndarray) -> dict[str, np.ndarray]:
    """As `predict`, every output of a model that ends in logits: what it returns is called that, whatever it is."""
    device = next(model.parameters()).device
    with every_head(model):
        return arrays(named_outputs(model(torch.from_numpy(image).to(device))))


@contextmanager
def hooked(
    model: nn.Module, hook: Callable[[str], Callable], hook_before: Callable[[str], Callable] | None = None
) -> Iterator[None]:
    """Call `hook(canonical name)` after every call of a layer, `hook_before` before it, auxiliary heads included."""
    of_calls = names_of_calls(model) if hasattr(model, "image_shape") else {}
    with ExitStack() as hooks, every_head(model):
        for path, module in _layers_of(model):
            names = of_calls.get(path, [canonical_from_torch(path)])
            hooks.callback(module.register_forward_hook(_in_turn([hook(name) for name in names])).remove)
            if hook_before:
                before = _in_turn([hook_before(name) for name in names])
                hooks.callback(module.register_forward_pre_hook(before).remove)
        yield


def _in_turn(hooks: list[Callable]) -> Callable:
    """A hook that is another one for each call of a module; a model that is run again begins with the first again."""
    turns = cycle(hooks)
    return lambda *call: next(turns)(*call)


@contextmanager
def every_head(model: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Have a model with auxiliary heads return them too, as it does while training; or not, if they are not wanted."""
    before = getattr(model, "auxiliary", None)
    if before is not None:
        model.auxiliary = wanted
    try:
        yield
    finally:
        if before is not None:
            model.auxiliary = before


def unnamed_operations(model: nn.Module) -> dict[str, list[str]]:
    """See `common.recording.Unnamed`."""
    from torch_impl.unnamed import unnamed_operations

    return unnamed_operations(model)


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
