"""What a network is run on: its probes, made and written to files that the backends' processes read."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.random  # not when the first number is drawn: a Ctrl-C at that moment would be lost in Cython

from common.operations.rounding import FP32, FP32_IN_WGSL
from common.parity.gradients import GradientProbe, gradient_probes
from common.parity.nearby import Earlier
from common.parity.results import BackendResult, Plan, labelled
from common.parity.verdicts import IDENTICAL, LayerVerdict
from common.probes import Probe, make_probe
from common.probes.end_to_end import EndToEndProbe
from common.probes.published import Compared, compare
from common.specs.architecture import Architecture
from common.specs.seeded import initial_weights
from common.weights import Weights, write_weights_file


@dataclass(frozen=True)
class PreparedProbe:
    """A probe and the files of its arrays."""

    label: str
    probe: Probe
    request: dict[str, Any]
    published: Compared
    earlier: Earlier = field(default_factory=Earlier)
    judging: threading.Lock = field(default_factory=threading.Lock)
    """Held by one judge at a time: the second backend finds the layers judged in which it has the bits of the first."""
    exports: dict[str, BackendResult] = field(default_factory=dict)
    """What was found of exports that ran, by the file."""
    exporting: threading.Lock = field(default_factory=threading.Lock)
    """Held by one export at a time: the second finds what was found of the first, if it is the same file."""

    def compare_with_published(self, verdicts: Sequence[LayerVerdict]) -> Compared:
        """Whether a backend's bits are the published ones: they are those of the probe, and the probe is as
        published."""
        if not self.published.same:
            return self.published
        wrong = (v.name for v in verdicts if v.verdict != IDENTICAL and v.name not in self.probe.bounded)
        name = next(wrong, None)
        return self.published if name is None else Compared(False, f"{name}'s output is not as published")


class Preparation:
    """The probes of a network, made when first asked for. Their arrays are files until it is closed."""

    def __init__(self, spec: Architecture, plan: Plan) -> None:
        self.spec = spec
        self.plan = plan
        self.files: dict[int, tuple[Path, np.ndarray | Weights]] = {}
        """The arrays of probes on disk. They are kept, so that no other array gets the same identity."""

    def close(self) -> None:
        if "_temporary" in vars(self):
            self._temporary.cleanup()
        for made in ("_temporary", "probes"):
            vars(self).pop(made, None)
        self.files.clear()

    @property
    def folder(self) -> Path:
        return Path(self._temporary.name)

    @cached_property
    def _temporary(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix="triptych-", ignore_cleanup_errors=True)

    @cached_property
    def probes(self) -> list[PreparedProbe]:
        """In the order of the plan.

        Raises:
            TriptychError: the network has no such probe.
            OSError: there is no space for the files.
        """
        return [
            PreparedProbe(label, probe, self._request(probe), self._compare(probe))
            for label, probe in self._probes().items()
        ]

    def _compare(self, probe: Probe) -> Compared:
        """Compare with the published probe, which is that of float32."""
        return compare(self.spec, probe, self.plan.seed) if self.plan.hardware.precision == "fp32" else Compared(None)

    def _probes(self) -> dict[str, Probe]:
        plan = self.plan
        if plan.made:
            return dict(plan.made)
        if plan.gradients:
            found = gradient_probes(self.spec, plan.probes, seed=plan.seed, batch=plan.batch, weights=plan.weights)
            return {labelled(probe.name, probe.mode): probe for probe in found}
        weights = plan.weights
        if weights is None and set(plan.probes) - {"exact"}:
            weights = initial_weights(self.spec, plan.seed)
        bits = 11 if plan.hardware.precision == "tf32" else 24
        return {
            name: make_probe(
                name,
                self.spec,
                seed=plan.seed,
                batch=plan.batch or 2,
                weights=weights,
                bits=bits,
                precision=FP32_IN_WGSL if plan.hardware.device == "webgpu" else FP32,
            )
            for name in plan.probes
        }

    def _request(self, probe: Probe) -> dict[str, Any]:
        request = {
            "weights": self._saved(probe.weights),
            "image": self._saved(probe.image),
            "injected": {layer: self._saved(array) for layer, array in probe.injected.items()},
            "deployed": isinstance(probe, EndToEndProbe),
        }
        if isinstance(probe, GradientProbe):
            request |= {
                "drives": {layer: self._saved(array) for layer, array in probe.drives.items()},
                "labels": None if probe.labels is None else self._saved(probe.labels),
                "training": probe.training,
            }
        return request

    def _saved(self, content: np.ndarray | Weights) -> str:
        """The file of an array or of weights. It is written once, even if several probes have it."""
        if id(content) not in self.files:
            path = self.folder / f"given{len(self.files)}"
            if isinstance(content, np.ndarray):
                path = path.with_suffix(".npy")
                np.save(path, content)
            else:
                path = path.with_suffix(".safetensors")
                write_weights_file(path, content)
            self.files[id(content)] = path, content
        return str(self.files[id(content)][0])
