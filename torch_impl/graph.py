"""What a model's graph says: its layers under canonical names, what each reads, what the model returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import cycle
from typing import Any

import torch
from torch import nn

from common.errors import TriptychError
from common.operations import Shape
from common.operations.names import canonical_from_torch, torch_layer
from common.specs import get_spec
from common.specs.architecture import Architecture
from common.specs.calls import IMAGE_CALL, Call, named_calls, wired

FLATTENED = "C, H, W"
"""The order in which PyTorch flattens maps."""


def wiring(model: nn.Module) -> dict[str, list[str]]:
    """The layers that each layer depends on directly, by canonical name; `image` is one. Not all are known."""
    calls, _ = traced(model)
    return wired(calls, named_calls(calls, spec_of(model)), spec_of(model))


def names_of_calls(model: nn.Module) -> dict[str, list[str]]:
    """For each module, by its path, the canonical name of each of its calls; a module may stand at several places."""
    calls, _ = traced(model)
    names: dict[str, list[str]] = {}
    for call, name in zip(calls, named_calls(calls, spec_of(model)), strict=True):
        names.setdefault(torch_layer(call.name), []).append(name)
    return names


def spec_of(model: nn.Module) -> Architecture | None:
    architecture = getattr(model, "architecture", None)
    return get_spec(architecture, image_size=model.image_shape[1:]) if architecture else None


def traced(model: nn.Module) -> tuple[list[Call], list[Shape]]:
    """The calls of a model's layers and the shapes of their outputs for one image, found once for the same layers."""
    key = [(path, id(module)) for path, module in _layers_of(model)]
    known, traced = model.__dict__.get("_traced", (None, None))
    if known != key or traced is None:
        traced = _trace(model)
        model.__dict__["_traced"] = key, traced
    return traced


@torch.no_grad()
def _trace(model: nn.Module) -> tuple[list[Call], list[Shape]]:
    """Every call of a layer, in order, and its output's shape for one image, up to the first that cannot be computed.

    A tensor is known by its identity and by how often it was changed in place, so that what is added to one in between
    is not overlooked.
    """
    calls: list[Call] = []
    shapes: list[Shape] = []
    made: dict[tuple[int, int], int] = {}
    alive = []  # so that no other tensor gets the identity of one that is gone

    def before(name: str) -> Callable:
        def note(module: nn.Module, inputs: tuple) -> None:
            tensors = [t for given in inputs for t in (given if isinstance(given, list | tuple) else [given])]
            calls.append(Call(name, tuple(made.get(_identity(tensor)) for tensor in tensors)))

        return note

    def behind(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        made[_identity(output)] = len(calls) - 1
        shapes.append(tuple(output.shape[1:]))
        alive.append(output)

    with ExitStack() as hooks, every_head(model):
        for path, module in _layers_of(model):
            hooks.callback(module.register_forward_pre_hook(before(canonical_from_torch(path))).remove)
            hooks.callback(module.register_forward_hook(behind).remove)
        for image, run in dry_runs(model):
            calls.clear()
            shapes.clear()
            alive.append(image)
            made[_identity(image)] = IMAGE_CALL
            with suppress(RuntimeError):
                run()
                break
    return calls[: len(shapes)], shapes


def dry_runs(model: nn.Module) -> Iterator[tuple[torch.Tensor, Callable[[], Any]]]:
    """Runs that compute shapes alone, the image of each first: of no images, then of one on the meta device.

    The meta device takes more models, but for it PyTorch imports its compiler, which takes longer than a small network.
    The model stays as it is.
    """
    tensors = model.state_dict()
    devices = {tensor.device for tensor in tensors.values()} - {torch.device("meta")}
    if len(devices) == 1:
        image = torch.empty(0, *model.image_shape, device=devices.pop())
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        yield image, partial(torch.func.functional_call, model, buffers, image)
    image = torch.empty(1, *model.image_shape, device="meta")
    state = {name: tensor.to("meta") for name, tensor in tensors.items()}
    yield image, partial(torch.func.functional_call, model, state, image)


def _identity(tensor: torch.Tensor) -> tuple[int, int]:
    return id(tensor), tensor._version


def _layers_of(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(path, module) for path, module in model.named_modules() if not any(module.children())]


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


def first_output(model: nn.Module) -> str:
    """The name of what a model gives in evaluation mode: `logits`, or `probabilities` after a softmax."""
    return "probabilities" if getattr(model, "softmax", None) else "logits"
