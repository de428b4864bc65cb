"""The gradients of a PyTorch model with respect to every parameter, every layer's output and the image."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn

from common.parity.cudnn import direct_sums
from common.specs.architecture import IMAGE
from torch_impl.backend import named_parameters, read_weights
from torch_impl.graph import hooked
from torch_impl.train import losses_of, training_mode

Arrays = Mapping[str, np.ndarray]


@direct_sums()
def record_gradients(
    model: nn.Module, image: np.ndarray, *, injected: Arrays, drives: Arrays, labels: np.ndarray | None, training: bool
) -> dict[str, dict[str, np.ndarray]]:
    """Differentiate Σ drive · output over the layers in `drives`, plus the training loss where there are labels.

    Args:
        model: with weights.
        image: float32, (N, C, H, W).
        injected: values that replace a layer's output for the layers after it, and let no gradient through.
        drives: the gradient that a layer's own output is given, by canonical layer name.
        labels: int64, (N,).
        training: whether batch normalisation uses the batch; dropout is off in any case.

    Returns:
        `outputs`, each layer's own; `gradients` with respect to what the layers after each were given, and to `image`;
        `parameters`, the gradients with respect to each; `weights`, as they are afterwards.
    """
    device = next(model.parameters()).device
    outputs: dict[str, np.ndarray] = {}
    given: dict[str, torch.Tensor] = {IMAGE: torch.from_numpy(image).to(device).requires_grad_()}
    terms = []

    def hook(name: str) -> Callable:
        def keep(module: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
            outputs[name] = output.detach().cpu().numpy().copy()
            if name in drives:
                terms.append((output * torch.from_numpy(drives[name]).to(device)).sum())
            if name in injected:
                output = torch.from_numpy(injected[name]).to(device).requires_grad_()
            else:
                output.retain_grad()
            given[name] = output
            return output

        return keep

    training_mode(model, dropout=False) if training else model.eval()
    model.zero_grad(set_to_none=True)
    with hooked(model, hook):
        heads = model(given[IMAGE])
    if labels is not None:
        terms.append(losses_of(heads, torch.from_numpy(labels).to(device))[1])
    torch.stack(terms).sum().backward()
    model.eval()
    return {
        "outputs": outputs,
        "gradients": {name: t.grad.cpu().numpy().copy() for name, t in given.items() if t.grad is not None},
        "parameters": {
            name: parameter.grad.cpu().numpy().copy()
            for name, parameter in named_parameters(model).items()
            if parameter.grad is not None
        },
        "weights": read_weights(model),
    }
