"""The outcome of a parity run, for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from common.onnx.adapters import find_adapters
from common.parity.environment import describe
from common.parity.paths import DEFAULT
from common.parity.results import BackendResult, Run, machines_of, worst


def as_json(runs: Sequence[Run]) -> dict[str, Any]:
    """The report for programs.

    `environment`, the overall `verdict`, and `runs`: one for each network and probe, with a row for each backend, which
    has an entry for each layer (see `LayerVerdict`). In a backward pass there is a run for each mode too, `gradients`,
    and the layers come from the loss backwards. Numbers that are not finite are null. Of what ran on a cluster, each
    row names its `machine`, and `machines` has the environment of each; `environment` is that of whoever asked.
    """
    return {
        "environment": environment_on(*_devices_here(runs)) | {"kernels": _kernels(runs)},
        **machines_of(row for run in runs for row in run.backends),
        "verdict": worst([run.verdict for run in runs]),
        "runs": [
            {
                "architecture": run.architecture,
                "probe": run.probe,
                "gradients": run.gradients,
                "device": run.device,
                "precision": run.precision,
                "verdict": run.verdict,
                "published": run.published,
                "unpublished": run.unpublished,
                "batch": run.batch,
                "bounded": run.bounded,
                "comparisons": [dict(vars(comparison)) for comparison in run.comparisons],
                "across_devices": [dict(vars(comparison)) for comparison in run.across_devices],
                "backends": [_backend_as_json(result) for result in run.backends],
            }
            for run in runs
        ],
    }


def environment_on(*devices: str) -> dict[str, Any]:
    """The environment of this machine, with WebGPU's adapter if that is one of the devices."""
    chosen = find_adapters().chosen if "webgpu" in devices else None
    return describe() | ({"webgpu": asdict(chosen)} if chosen else {})


def _devices_here(runs: Sequence[Run]) -> set[str]:
    """Those of this machine that something ran on."""
    return {run.device for run in runs if any(not row.machine for row in run.backends)}


def _kernels(runs: Sequence[Run]) -> dict[str, str]:
    """The kernels that each backend's libraries choose by default, as they tell."""
    results = [result for run in runs for result in run.backends if result.path in (None, DEFAULT)]
    return {result.backend: result.evidence for result in reversed(results) if result.evidence}


def _backend_as_json(result: BackendResult) -> dict[str, Any]:
    # `asdict` would copy the outputs, and every element of all layers of all networks.
    row = {name: value for name, value in vars(result).items() if name not in ("timing", "outputs")}
    row["layers"] = [dict(vars(layer)) for layer in result.layers]
    row["timing"] = {name: round(seconds, 3) for name, seconds in result.timing.items()}
    row["seconds"] = round(result.seconds, 3)
    if result.machine:
        row["machine"] = result.machine.name
    else:
        del row["machine"]
    return row
