"""Which devices there are, and which models are proved on a GPU."""

from __future__ import annotations

from collections.abc import Sequence

from common.errors import TriptychError, argument
from common.onnx.session import execution_providers
from common.parity.backends import DEVICES, Hardware, require
from common.prove.models import ModelName
from common.prove.subject import InMemory


def check_device(device: str, names: Sequence[ModelName | InMemory], *, paired: bool) -> None:
    """Check that models can be proved on a GPU.

    Args:
        device: the GPU.
        names: of the models.
        paired: whether they are two networks.

    Raises:
        TriptychError: it is not here, or these models do not run there.
    """
    leave_out = f"leave out {argument('device', device)}"
    if paired:
        raise TriptychError(f"two networks are compared on the CPU; {leave_out}, or prove each by itself")
    if file := next((name.text for name in names if isinstance(name, ModelName) and name.is_tflite), None):
        raise TriptychError(f"{file} is run by LiteRT, on the CPU; {leave_out}, or the file")
    require_device(device)


def require_device(device: str) -> None:
    """Check that a device is here, and that ONNX Runtime can use it.

    Raises:
        TriptychError: there is no such device, or not here.
    """
    if device not in DEVICES:
        raise TriptychError(f"there is no device {device!r}; choose {', '.join(DEVICES)}")
    require(Hardware(device))
    if device == "cuda":
        execution_providers(device, "fp32")
