"""What a parity run is asked for, and what it finds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from common.cluster.work import Machine
from common.parity.backends import Backend, Hardware, row_label
from common.parity.comparison import Comparison, compare_all
from common.parity.gradients import modes
from common.parity.verdicts import CERTIFIED, DIVERGED, IDENTICAL, LayerVerdict
from common.probes import USUAL, Probe
from common.specs.architecture import Architecture
from common.weights import Weights

INCOMPLETE = "incomplete"


@dataclass(frozen=True)
class BackendResult:
    """One backend on one probe."""

    backend: str
    status: str
    """`ok`, `diverged`, `crashed` or `skipped`."""
    verdict: str
    reason: str | None = None
    path: str | None = None
    """The path of its kernels, if every path was asked for."""
    evidence: str | None = None
    """The kernels that ran, as the libraries of its process tell."""
    seconds: float = 0.0
    timing: dict[str, float] = field(default_factory=dict)
    """Seconds of the import, of loading the weights, of the run, and of the judging."""
    memory: int | None = None
    """Bytes: the peak memory of the backend's process so far."""
    repeatable: bool | None = None
    """Whether a second run gave the same bits; None without a second run, as on a CPU."""
    note: str | None = None
    """A note for users who run this network in this way."""
    outputs: dict[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)
    """The network's outputs, (N, classes), by name."""
    first_divergence: str | None = None
    likely_cause: str | None = None
    """The mistake that explains the first divergence, on every probe on which that layer is the first to differ."""
    cause_proved_on: tuple[str, ...] = ()
    """These probes. If there is only one, the cause is possible, not proved."""
    layers: list[LayerVerdict] = field(default_factory=list)
    traceback: str | None = None
    """The traceback, if it crashed with a Python exception in the backend's process or in the judge."""

    published: bool | None = None
    """Whether its bits are those of `common.probes.published`; None if there is nothing to compare."""
    unpublished: str | None = None
    """The difference from the published results."""
    machine: Machine | None = None
    """On which of a cluster it ran; None where it ran here."""

    @property
    def label(self) -> str:
        """The label of the row among those of its run."""
        return row_label(self.backend, self.path)

    @property
    def bound_ratio(self) -> float | None:
        """The largest error ÷ bound of all layers; None if one has none, or nothing was judged."""
        ratios = [layer.bound_ratio for layer in self.layers]
        return max((r for r in ratios if r is not None), default=None) if None not in ratios else None

    @property
    def precision(self) -> str | None:
        """The precision of the least precise layer."""
        order = ("fp32", "tf32", "bf16", "other")
        return max((layer.precision for layer in self.layers), key=order.index, default=None)


@dataclass(frozen=True)
class Run:
    """One network on one probe in every backend."""

    architecture: str
    probe: str
    bounded: dict[str, str]
    """In an exact probe, the layers that cannot be exact, and how each is handled."""
    backends: list[BackendResult]
    device: str = "cpu"
    precision: str = "fp32"
    batch: int = 2
    gradients: str | None = None
    """In a backward pass, the mode of batch normalisation: `inference` or `training`; None in a forward pass."""
    comparisons: list[Comparison] = field(default_factory=list)
    """The comparisons of the outputs of each pair of backends that ran."""
    across_devices: list[Comparison] = field(default_factory=list)
    """On a GPU: the comparisons of each backend's outputs with its own on the CPU."""

    @property
    def label(self) -> str:
        return labelled(self.probe, self.gradients)

    @property
    def verdict(self) -> str:
        return worst([result.verdict for result in self.backends])

    @property
    def published(self) -> bool | None:
        """Whether every backend that ran has the published bits; None if there is nothing to compare."""
        found = {result.published for result in self.backends} - {None}
        return None if not found else found == {True}

    @property
    def unpublished(self) -> str | None:
        """The first difference of a backend from the published results."""
        return next((result.unpublished for result in self.backends if result.unpublished), None)


def machines_of(rows: Iterable[Any]) -> dict[str, Any]:
    """The environment of each machine of a cluster that a row ran on, for programs, if there are such."""
    found = {row.machine.name: row.machine.environment for row in rows if row.machine}
    return {"machines": found} if found else {}


def labelled(probe: str, gradients: str | None) -> str:
    """The label of a run among those of its network."""
    return f"{probe}, {gradients}" if gradients else probe


def compared_with_cpu(run: Run, on_cpu: Run) -> Run:
    """A run on a GPU, with each backend's outputs compared with those of the same backend on the CPU."""
    before = {result.backend: result.outputs for result in on_cpu.backends}
    pairs = [
        compare_all(
            {f"{row.backend} on the CPU": before.get(row.backend, {}), f"{row.backend} on {run.device}": row.outputs}
        )
        for row in run.backends
    ]
    return replace(run, across_devices=[comparison for pair in pairs for comparison in pair])


def worst(verdicts: Sequence[str]) -> str:
    """The verdict on the whole: `diverged` before `incomplete` before `certified` before `identical`.

    A backend that was not asked for and is not installed does not count. If no backend counts, the verdict is
    `incomplete`.
    """
    order = (DIVERGED, INCOMPLETE, CERTIFIED, IDENTICAL)
    return next((verdict for verdict in order if verdict in verdicts), INCOMPLETE)


@dataclass(frozen=True)
class Plan:
    """What to run."""

    backends: Sequence[Backend]
    probes: Sequence[str] = USUAL
    gradients: bool = False
    """Whether the backward pass is run, instead of the forward pass."""
    weights: Weights | None = None
    """Canonical weights for the random and photo probes; seeded ones if None."""
    seed: int = 0
    batch: int | None = None
    """Images in a batch. None: two; in a backward pass one, except on the exact probe."""
    hardware: Hardware = Hardware()
    jobs: int = 2
    """How many backends run at the same time; with `dask`, in each of its workers."""
    dask: str | None = None
    """The address of a Dask scheduler, whose workers run it; None: it is run here."""
    timeout: float = 600.0
    """Seconds that one backend may take for one probe."""
    required: bool = False
    """Whether a backend that is not installed makes the result incomplete."""
    made: Mapping[str, Probe] = field(default_factory=dict)
    """Ready probes, by the labels of their runs. If there are some, only these are run."""

    def runs(self, spec: Architecture) -> dict[str, tuple[str, str | None]]:
        """The runs of a network by label: the probe and, in a backward pass, the mode."""
        if self.made:
            return {label: (probe.name, getattr(probe, "mode", None)) for label, probe in self.made.items()}
        pairs = [(probe, mode) for probe in self.probes for mode in (modes(spec) if self.gradients else (None,))]
        return {labelled(*pair): pair for pair in pairs}
