"""The variables of a PyTorch module, or of a Keras model on PyTorch, and the layout of its input. Runs in their
process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.prove.models import ModelName


def variables_of(model: Any) -> dict[str, np.ndarray]:
    """The float32 variables of a PyTorch module or a Keras model on PyTorch."""
    return {name: np.asarray(value.detach().cpu().numpy(), order="C") for name, value in _tensors(model).items()}


def put(model: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """Set its variables."""
    import torch

    tensors = _tensors(model)
    with torch.no_grad():
        for name, array in arrays.items():
            tensors[name].copy_(torch.from_numpy(array))


def save(model: Any, file: str) -> None:
    """Write the model's own checkpoint, in the format of the file's suffix."""
    if hasattr(model, "get_layer"):
        (model.save if file.endswith(".keras") else model.save_weights)(file)
        return
    import torch

    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    if file.endswith(".safetensors"):
        from safetensors.torch import save as bytes_of

        Path(file).write_bytes(bytes_of(state))  # `save_file` makes a file that nobody else may read
    else:
        torch.save(state, file)


def load_weights(model: Any, file: str) -> None:
    """Read a checkpoint of `save` into a model. Both must have the same tensors."""
    if hasattr(model, "get_layer"):
        model.load_weights(file)
        return
    import torch

    if file.endswith(".safetensors"):
        from safetensors.torch import load_file

        state = load_file(file)
    else:
        state = torch.load(file, map_location="cpu", weights_only=True)
    model.load_state_dict(state, strict=True)


def _tensors(model: Any) -> dict[str, Any]:
    if not hasattr(model, "get_layer"):
        found = model.state_dict()
    else:
        found = {}
        for number, variable in enumerate(model.variables):
            name = variable.path if variable.path not in found else f"{variable.path} ({number})"
            found[name] = variable.value
    return {name: value for name, value in found.items() if str(value.dtype) == "torch.float32" and value.numel()}


def turned_shape(name: ModelName, shape: Sequence[int] | None) -> Sequence[int] | None:
    """An input's shape in a library's layout: in Keras the channels are last."""
    if (
        name.home in ("keras.applications", "keras_impl")
        and shape
        and len(shape) == 4
        and shape[1] in (1, 3)
        and shape[3] > 3
    ):
        return [shape[0], *shape[2:], shape[1]]
    return shape


def turn_for(model: Any, shape: Sequence[int]) -> tuple[int, ...]:
    """The transposition of an image for a model whose channels may be on another axis."""
    if len(shape) != 4:
        return tuple(range(len(shape)))
    stated = getattr(model, "input_shape", None)
    last = hasattr(model, "get_layer")
    if isinstance(stated, tuple) and len(stated) == 4 and stated[1] != stated[3]:
        last = stated[3] is not None and (stated[1] is None or stated[3] < stated[1])
    elif last:
        import keras

        last = keras.config.image_data_format() == "channels_last"
    if last and shape[1] < shape[3]:
        return 0, 2, 3, 1
    return (0, 3, 1, 2) if not last and shape[3] < shape[1] else (0, 1, 2, 3)
