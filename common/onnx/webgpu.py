"""WebGPU as a provider of ONNX Runtime: its devices, and the convolutions that it computes wrongly.

ONNX Runtime's plug-in (`onnxruntime-ep-webgpu`) reaches Vulkan, Metal and Direct3D through Dawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from common.errors import Unavailable

if TYPE_CHECKING:
    import onnx
    import onnxruntime

PROVIDER = "WebGpuExecutionProvider"


def computed_wrongly_in_nhwc(graph: onnx.GraphProto) -> list[str]:
    """The convolutions that onnxruntime-ep-webgpu 0.4.0 computes wrongly in the layout it prefers, NHWC.

    In NCHW it reads and writes channels one by one, and is right. In NHWC it takes several at once:

    - Where the input's channels are a multiple of three but not of four, and the output's of four, it reads them in
      threes, and finds the place of a three by dividing by four: right for three channels, wrong for six.
    - In groups of four channels of the output or more, it writes four at once, or two, if the number of all channels
      is a multiple of that: wrong where the number of a group's is not.
    - Where each group of a transposed convolution makes one channel of two, four, …, it is wrong.
    """
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    wrong = []
    for node in graph.node:
        shape = shapes.get(node.input[1], ()) if node.op_type in ("Conv", "ConvTranspose") else ()
        groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
        if len(shape) not in (3, 4):
            continue
        if node.op_type == "ConvTranspose":
            is_wrong = groups > 1 and shape[1] == 1 and shape[0] // groups % 2 == 0
        elif groups > 1:
            own = shape[0] // groups
            at_once = next(count for count in (4, 2, 1) if shape[0] % count == 0)
            is_wrong = own >= 4 and own % at_once > 0
        else:
            filters, channels, *_ = shape
            is_wrong = channels > 3 and channels % 3 == 0 and channels % 4 > 0 and filters % 4 == 0
        if is_wrong:
            wrong.append(node.name)
    return wrong


def in_nchw(layers: Sequence[str]) -> str:
    """A note about a network that was run in NCHW because of these layers."""
    named = ", ".join(layers[:3]) + (f" and {len(layers) - 3} more" if len(layers) > 3 else "")
    return (
        f"run with preferredLayout=NCHW: in the layout that it prefers, onnxruntime-ep-webgpu computes {named} wrongly "
        f"(docs/devices.md)"
    )


@cache
def ep_devices() -> list[onnxruntime.OrtEpDevice]:
    """The plug-in's devices, with the one to use first. The plug-in is loaded into this process at the first call.

    Raises:
        Unavailable: it is not installed, or offers none here.
    """
    import onnxruntime

    try:
        import onnxruntime_ep_webgpu
    except ImportError:
        raise Unavailable("onnxruntime-ep-webgpu is not installed") from None
    onnxruntime.register_execution_provider_library("webgpu", onnxruntime_ep_webgpu.get_library_path())
    found = [device for device in onnxruntime.get_ep_devices() if device.ep_name == PROVIDER]
    if not found:
        raise Unavailable("ONNX Runtime offers no WebGPU device here")
    return found
