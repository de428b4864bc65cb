"""Which cause stands, once a backend has been run on every probe.

On one probe several mistakes may explain a layer, and chance or a lack of data may be among the reasons: on one image
its own statistics are the batch's, on integers a bias that is added twice may be the next filter's. So a cause is
stated only if it explains the layer on every probe on which that layer is the first to differ; if these are two or
more, it is said to be proved, else to be possible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from common.parity.causes import alternatives
from common.parity.results import BackendResult
from common.parity.verdicts import DIVERGED, LayerVerdict, first_divergence


def cross_checked(results: Sequence[BackendResult], labels: Sequence[str]) -> list[BackendResult]:
    """The results of one backend on all probes of a network, each with the cause that all probes confirm.

    Args:
        results: the results, each judged by itself.
        labels: the label of each run.
    """
    seen: dict[str, list[tuple[str, LayerVerdict]]] = {}
    for result, label in zip(results, labels, strict=True):
        divergence = first_divergence(result.layers) if result.status == DIVERGED else None
        if divergence and _tried(divergence):
            seen.setdefault(divergence.name, []).append((label, divergence))
    return [_with_cause(result, seen.get(result.first_divergence or "", [])) for result in results]


def _with_cause(result: BackendResult, on_probes: Sequence[tuple[str, LayerVerdict]]) -> BackendResult:
    divergence = first_divergence(result.layers)
    if divergence is None or not on_probes or not _tried(divergence):
        return result
    common = [
        mistake
        for mistake in on_probes[0][1].explanations
        if all(mistake in verdict.explanations for _, verdict in on_probes)
    ]
    told = alternatives(common)
    if told and len(on_probes) == 1:
        told = f"possibly {told}"
    cause = "; ".join(filter(None, (told, divergence.fact))) or None
    return replace(result, likely_cause=cause, cause_proved_on=tuple(label for label, _ in on_probes) if common else ())


def _tried(divergence: LayerVerdict) -> bool:
    """Whether hypotheses were tried. Other facts about a layer, such as that it is missing, need none."""
    return bool(divergence.explanations or divergence.excluded)
