"""Networks of the catalogue, one after the other, in every backend: what `triptych parity` runs, for Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from common.cluster import require_dask
from common.errors import TriptychError, argument
from common.parity.backends import (
    Backend,
    Hardware,
    on_every_path,
    require,
    select_differentiable,
    select_for,
)
from common.parity.gradients import USUAL_FOR_GRADIENTS, check_differentiable
from common.parity.journal import Journal
from common.parity.processes import Workers
from common.parity.results import Plan, Run, compared_with_cpu
from common.parity.runner import run_networks, run_parity
from common.probes import PROBES, USUAL
from common.specs import get_spec
from common.specs.photographs import read_photograph
from common.weights import read_weights_file


def plan_for(
    names: Sequence[str],
    *,
    backends: Sequence[str] | None = None,
    probes: Sequence[str] | None = None,
    weights: Path | None = None,
    device: str = "cpu",
    every_path: bool = False,
    precision: str = "fp32",
    batch: int | None = None,
    seed: int = 0,
    jobs: int | None = None,
    timeout: float = 600,
    gradients: bool = False,
    dask: str | None = None,
) -> Plan:
    """The plan for some networks.

    Args:
        names: of the networks.
        backends: by name; all that are installed by default.
        probes: exact, random, photo (the default); tiny, huge, subnormal; deployed; or a file with an image.
        weights: canonical safetensors for the random and the photo probe.
        device: cpu, cuda or webgpu.
        every_path: run each backend once with every set of kernels that this CPU can run.
        precision: fp32 or, on a GPU, tf32.
        batch: the number of images; by default 2, and 1 in a backward pass on any probe but exact.
        seed: of the probes and of the weights.
        jobs: how many backends run at the same time, each with its share of the cores; by default 2, and with `dask` 1
            in each of its workers.
        timeout: seconds that a backend may take for one probe.
        gradients: the backward pass instead.
        dask: the address of a Dask scheduler, whose workers run it in place of this machine. Files are read here, but
            for images, which they read too.

    Raises:
        TriptychError: there is no such backend, probe, image, file or device, or they do not go together.
    """
    if dask is not None:
        require_dask()
        probes = [name if name in PROBES else str(Path(name).resolve()) for name in probes or ()]
    for name in probes or ():
        if name not in PROBES and not Path(name).is_file():
            raise TriptychError(f"{name!r} is neither a probe nor an image file; probes are {', '.join(PROBES)}")
        if name not in PROBES:
            read_photograph(name)
        if gradients:
            check_differentiable(name)
    if weights and len(names) > 1:
        belongs = f"{argument('weights', str(weights))} belongs to one network"
        raise TriptychError(f"{belongs}, but there are {len(names)}; name one network")
    if gradients and device == "webgpu":
        leave_out = f"leave out {argument('gradients')} or {argument('device')}"
        raise TriptychError(f"WebGPU runs exports, which have no backward pass; {leave_out}")
    if gradients and precision != "fp32":
        leave_out = f"leave out {argument('precision')}"
        raise TriptychError(f"gradients are judged by the bounds of fp32, not of {precision}; {leave_out}")
    jobs = jobs or (2 if dask is None else 1)
    chosen = select_differentiable(backends) if gradients else select_for(device, backends)
    return Plan(
        backends=on_every_path(chosen, device) if every_path else chosen,
        probes=probes or (USUAL_FOR_GRADIENTS if gradients else USUAL),
        gradients=gradients,
        weights=read_weights_file(weights) if weights else None,
        seed=seed,
        batch=batch,
        hardware=Hardware.shared(jobs, device, precision),
        jobs=jobs,
        timeout=timeout,
        required=bool(backends),
        dask=dask,
    )


def prove_networks(
    names: Sequence[str],
    plan: Plan,
    journal: Journal | None = None,
    *,
    on_result: Callable[[str], None] = lambda done: None,
    on_network: Callable[[list[Run]], None] = lambda runs: None,
) -> list[Run]:
    """Prove some networks. On a GPU, each is also run on the CPU, and each backend is compared with itself.

    Args:
        names: of the networks.
        plan: the plan.
        journal: keeps finished results, and knows earlier ones.
        on_result: called when a backend has finished a probe.
        on_network: called with the runs of a network when they are finished.

    Raises:
        TriptychError: there is no such device, or the weights do not fit.
    """
    on_cpu = _on_cpu(plan)
    if plan.dask is not None:
        from common.parity.on_cluster import prove_on_cluster

        def both(found: list[list[Run]]) -> list[Run]:
            runs = found[0]
            if on_cpu:
                runs = [compared_with_cpu(run, before) for run, before in zip(*found, strict=True)]
            on_network(runs)
            return runs

        plans = [plan, on_cpu] if on_cpu else [plan]
        return prove_on_cluster(names, plans, journal, on_result=on_result, on_network=both)
    require(plan.hardware)
    runs: list[Run] = []
    told = lambda *what: on_result(" ".join(what))  # noqa: E731
    with (
        Workers(plan.hardware, plan.backends) as workers,
        Workers(Hardware.shared(plan.jobs)) as workers_on_cpu,
        closing(run_networks(map(get_spec, names), plan, told, workers, journal)) as networks,
    ):
        for name, found in zip(names, networks, strict=True):
            if on_cpu:
                before = run_parity(get_spec(name), on_cpu, partial(told, name), workers_on_cpu)
                found = [compared_with_cpu(run, on_it) for run, on_it in zip(found, before, strict=True)]
            runs += found
            on_network(found)
    return runs


def _on_cpu(plan: Plan) -> Plan | None:
    """The plan for the CPU that belongs to one for a GPU."""
    if plan.hardware.device == "cpu":
        return None
    able: list[Backend] = [
        backend for backend in plan.backends if plan.dask is not None or not backend.obstacle(plan.hardware.device)
    ]
    return replace(plan, backends=able, hardware=Hardware.shared(plan.jobs))


def number_of_results(names: Sequence[str], plan: Plan) -> int:
    """How often `prove_networks` reports a result."""
    twice = 1 if plan.hardware.device == "cpu" else 2
    return twice * sum(len(plan.runs(get_spec(name))) for name in names) * len(plan.backends)
