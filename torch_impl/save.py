"""Weights as PyTorch keeps them: a state dict, through `torch.save`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from torch_impl.backend import load_weights, read_weights

METADATA = "triptych"
"""The key of our own metadata, in that which PyTorch keeps for the whole model; `load_state_dict` passes over it."""


def save_weights(
    model: nn.Module,
    path: str | Path,
    *,
    metadata: Mapping[str, str] | None = None,
    names: Mapping[str, str] | None = None,
) -> None:
    """Write the model's state dict.

    Args:
        model: of this package.
        path: where to; an existing file is replaced.
        metadata: strings to keep with it.
        names: another implementation's name of each canonical parameter, such as torchvision's; ours if None.
    """
    state = model.state_dict() if names is None else _renamed(model, names)
    state._metadata[""] = {**state._metadata.get("", {}), METADATA: dict(metadata or {})}
    torch.save(state, path)


def _renamed(model: nn.Module, names: Mapping[str, str]) -> OrderedDict[str, torch.Tensor]:
    state = OrderedDict()
    state._metadata = OrderedDict()
    for name, array in read_weights(model).items():
        state[names[name]] = torch.from_numpy(array)
        if name.endswith("/variance"):
            state[f"{names[name].rpartition('.')[0]}.num_batches_tracked"] = torch.tensor(0)
    return state


def restore_weights(model: nn.Module, path: str | Path, *, names: Mapping[str, str] | None = None) -> None:
    """Load what `save_weights` wrote, by PyTorch's own means."""
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if names is None:
        model.load_state_dict(state)
    else:
        load_weights(model, {name: state[theirs].numpy() for name, theirs in names.items()})
