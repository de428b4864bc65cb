"""WebGPU's adapters: which exist, which one computes, and which variables a process needs to use it.

If there is no GPU, SwiftShader computes the same shaders on the CPU. It comes with Chromium. It is slow, and every
report says that it is software.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from glob import glob
from importlib.util import find_spec
from typing import Any

from common.errors import Unavailable, argument
from common.onnx import vulkan
from common.onnx.session import Session, execution_providers
from common.onnx.webgpu import ep_devices
from common.process import ProcessFailure, answering, ask, requests

SOFTWARE_ALLOWED = {"ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER": "1"}
"""Without it, ONNX Runtime offers WebGPU only if it finds a GPU."""

SWIFTSHADER = (
    "/usr/lib/chromium*/vk_swiftshader_icd.json",  # Debian's chromium
    "/usr/lib64/chromium*/vk_swiftshader_icd.json",
    "/opt/google/chrome*/vk_swiftshader_icd.json",
    "/usr/share/vulkan/icd.d/*swiftshader*.json",
    "~/.cache/ms-playwright/chromium-*/chrome-linux*/vk_swiftshader_icd.json",
)
"""The places where the description of its Vulkan driver may be."""

HOW_TO_GET_ONE = (
    "install a GPU's Vulkan driver and the Vulkan loader (Debian: libvulkan1), or, to compute in software, Debian's "
    "package chromium, which brings SwiftShader; where that lies elsewhere, set ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER=1 "
    "and VK_ICD_FILENAMES=…/vk_swiftshader_icd.json"
)


@dataclass(frozen=True)
class Adapter:
    """A device that WebGPU can compute on."""

    name: str
    driver: str
    """Its name and version; empty if the system does not tell."""
    software: bool
    """Whether it is software on the CPU instead of a GPU."""

    def __str__(self) -> str:
        driver = f", driver {self.driver}" if self.driver else ""
        return f"{self.name}{driver}{', in software' if self.software else ''}"


@dataclass(frozen=True)
class Found:
    """The adapters of this machine."""

    adapters: tuple[Adapter, ...] = ()
    """All adapters, also those that ONNX Runtime refuses."""
    chosen: Adapter | None = None
    """The adapter that ONNX Runtime computes on."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """The environment variables with which a process gets it."""


def require_adapter() -> Found:
    """The adapters, of which one was chosen.

    Raises:
        Unavailable: there is none, or the plug-in is not installed.
    """
    if find_spec("onnxruntime_ep_webgpu") is None:
        how = "pip install -c constraints.txt -e '.[webgpu]'"
        raise Unavailable(f"WebGPU needs ONNX Runtime's plug-in onnxruntime-ep-webgpu, which is not installed; {how}")
    found = find_adapters()
    if found.chosen is None:
        refused = f" that ONNX Runtime computes on (it refuses {found.adapters[0].name})" if found.adapters else ""
        raise Unavailable(
            f"there is no WebGPU adapter here{refused}; {HOW_TO_GET_ONE}; or leave out {argument('device', 'webgpu')}"
        )
    return found


def describe_adapters() -> dict[str, str]:
    """For each adapter by name, what it is and whether ONNX Runtime computes on it; or how to get one."""
    try:
        found = require_adapter()
    except Unavailable as error:
        return {**{str(adapter): "refused" for adapter in find_adapters().adapters}, "missing": str(error)}
    return {str(adapter): "ready" if adapter == found.chosen else "not used" for adapter in found.adapters}


@cache
def find_adapters() -> Found:
    """Look for adapters, GPUs before software. Each is tried by computing on it in a process of its own."""
    drivers = sorted(path for pattern in SWIFTSHADER for path in glob(os.path.expanduser(pattern)))
    ways: list[dict[str, str]] = [{}, SOFTWARE_ALLOWED]
    ways += [{**SOFTWARE_ALLOWED, "VK_ICD_FILENAMES": path} for path in drivers[:1]]
    seen: dict[Adapter, None] = {}
    for environment in ways:
        adapters, computes = _look(environment)
        seen |= dict.fromkeys(adapters)
        if computes:
            unknown = Adapter("an adapter without a name", "", software=False)
            return Found(tuple(seen), next(iter(adapters), unknown), environment)
    return Found(tuple(seen))


def _look(environment: Mapping[str, str]) -> tuple[list[Adapter], bool]:
    """The adapters that a process with these variables sees, with the one that it would take first; and whether it
    computes there."""
    try:
        found = ask("common.onnx.adapters", {}, timeout=120, variables=environment)
    except (OSError, ProcessFailure):  # a driver may take the process down with it
        return [], False
    return [Adapter(**adapter) for adapter in found["adapters"]], found["computes"]


def _adapters() -> list[Adapter]:
    """The adapters that this process sees, in Dawn's order of preference for speed.

    On Linux Dawn uses Vulkan's devices. Elsewhere the provider says what it knows about a GPU.
    """
    if sys.platform in ("win32", "darwin"):
        described = (device.device for device in ep_devices())
        names = (device.metadata.get("Description") or f"a GPU of {device.vendor}" for device in described)
        return [Adapter(name, "", software=False) for name in names]
    order = ("discrete", "integrated", "virtual", "other", "software")
    found = sorted(vulkan.devices() or (), key=lambda device: order.index(device.kind))
    return [Adapter(device.name, device.driver, device.kind == "software") for device in found]


def _computes() -> bool:
    """Whether ONNX Runtime runs a node on WebGPU in this process, and says so."""
    import numpy as np
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"], name="sum")], "sum", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    session = Session("a sum", model.SerializeToString(), execution_providers("webgpu", "fp32"))
    (doubled,) = session.run(["y"], {"x": np.array([1, 2], np.float32)})
    return doubled.tolist() == [2, 4] and set(session.places.values()) == {"gpu"}


def main() -> None:
    """Answer with the adapters that this process sees."""
    answer, _ = answering(), next(requests())
    found: dict[str, Any] = {"adapters": [], "computes": False}
    try:
        found["adapters"] = [asdict(adapter) for adapter in _adapters()]
        found["computes"] = _computes()
    except Exception as error:  # whatever it is, this process cannot compute there
        print(error, file=sys.stderr)
    answer(found)


if __name__ == "__main__":
    main()
