"""Which kernels the installed libraries choose on this machine, found out by running the smallest network in each."""

from __future__ import annotations

from common.parity.backends import Hardware, on_every_path, select
from common.parity.paths import DEFAULT
from common.parity.results import Plan
from common.parity.runner import run_parity
from common.specs import get_spec

_ONE_OF_EACH = ["torch", "tf1", "keras-jax", "onnx-torch"]
"""Backends that between them have every library."""


def kernels_by_default() -> dict[str, str]:
    """For each backend, the versions, instructions and kernels of its libraries; or why it does not run."""
    backends = [
        backend
        for backend in on_every_path(select(_ONE_OF_EACH), "cpu")
        if backend.path_name == DEFAULT and not backend.missing
    ]
    (run,) = run_parity(get_spec("lenet_caffe"), Plan(backends, probes=("exact",), hardware=Hardware.shared(2)))
    return {result.backend: result.evidence or result.reason or "nothing told" for result in run.backends}
