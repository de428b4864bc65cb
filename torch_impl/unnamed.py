"""What stands between the layers of a model: the functions that its `forward` calls, and modules of other names."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from common.specs import get_spec
from torch_impl.graph import dry_runs, hooked, named_outputs


@torch.no_grad()
def unnamed_operations(model: nn.Module) -> dict[str, list[str]]:
    """See `common.specs.recording.Unnamed`: functions as `mul (lenet.py, line 40)`, modules as `extra (Softmax)`.

    Only shapes are computed; from the first layer of which that cannot be done, nothing is known.
    """
    layers = {layer.name for layer in get_spec(model.architecture).layers}
    trail = _Trail()
    found: dict[str, list[str]] = {}

    def before(name: str) -> Callable:
        def note(module: nn.Module, inputs: tuple) -> None:
            trail.inside += 1
            if name in layers and (operations := trail.to(inputs)):
                found[name] = operations

        return note

    def behind(name: str) -> Callable:
        def note(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
            trail.inside -= 1
            own = [] if name in layers else [*trail.to(inputs), f"{name} ({type(module).__name__})"]
            trail.leave(output, own)

        return note

    with hooked(model, behind, before):
        for _, run in dry_runs(model):
            found.clear()
            trail.begin()
            with suppress(RuntimeError), trail:
                for name, tensor in named_outputs(run()).items():
                    if operations := trail.to([tensor]):
                        found[name] = operations
                break
    return found


class _Trail(TorchFunctionMode):
    """Remembers of each tensor which functions it went through since it left a layer.

    A tensor is known by its identity and by how often it was changed in place.
    """

    def __init__(self) -> None:
        super().__init__()
        self.begin()

    def begin(self) -> None:
        """Forget a run that failed."""
        self.inside = 0
        """How many layers are being run: what they call is their own."""
        self.operations: dict[tuple[int, int], list[str]] = {}
        self.alive: list[torch.Tensor] = []
        """So that no other tensor gets the identity of one that is gone."""

    def leave(self, tensor: torch.Tensor, operations: list[str]) -> None:
        self.operations[id(tensor), tensor._version] = operations
        self.alive.append(tensor)

    def to(self, arguments: Any) -> list[str]:
        """The operations that lead to some arguments, each once."""
        tensors = [tensor for tensor in _flat(arguments) if isinstance(tensor, torch.Tensor)]
        found = (self.operations.get((id(tensor), tensor._version), []) for tensor in tensors)
        return list(dict.fromkeys(operation for operations in found for operation in operations))

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: Mapping | None = None
    ) -> Any:
        before = [] if self.inside else self.to([*args, *(kwargs or {}).values()])
        result = function(*args, **(kwargs or {}))
        if not self.inside:
            operation = f"{getattr(function, '__name__', function)} ({_place()})"
            for tensor in _flat([result]):
                if isinstance(tensor, torch.Tensor):
                    self.leave(tensor, [*before, operation])
        return result


def _flat(values: Any) -> list:
    """The values, and what is in lists and tuples among them."""
    return [inner for value in values for inner in (_flat(value) if isinstance(value, list | tuple) else [value])]


def _place() -> str:
    """The file and line of the model's own code that called a function."""
    frame = sys._getframe(2)
    library = str(Path(torch.__file__).parent)
    while frame.f_back and (frame.f_code.co_filename.startswith(library) or frame.f_code.co_filename == __file__):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}, line {frame.f_lineno}"
