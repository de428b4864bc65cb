"""What is known about a layer of a backend, and about the backend."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from common.probes import Probe

IDENTICAL, CERTIFIED, DIVERGED = "identical", "certified", "diverged"


@dataclass(frozen=True)
class LayerVerdict:
    """The verdict on one layer of one backend."""

    name: str
    verdict: str
    """`identical`: the oracle's bits; `certified`: within the derived bound; `diverged`: neither."""
    bound_ratio: float | None = 0.0
    """The largest error ÷ bound over all elements; None if it is not a finite number."""
    precision: str = "fp32"
    max_ulp: int | None = 0
    """The largest distance from the correctly rounded result in units in the last place; None if not comparable."""
    ulp_histogram: tuple[int, ...] = ()
    """How many elements are 0, 1, 2–3, 4–7, … units in the last place from the correctly rounded result."""
    cause: str | None = None
    """If it diverged: the explanation on this probe, and other facts."""
    excluded: tuple[str, ...] = ()
    """If it diverged: the mistakes that were tried and do not explain it (see `common.parity.causes`)."""
    place: str | None = None
    """Where it ran, `cpu` or `gpu`; None if that is not known."""
    overflows: bool = False
    """Whether some elements are infinite or NaN because float32 overflows, rightly or wrongly."""
    untried: tuple[str, ...] = ()
    """The mistakes that could not be tried, because the hypothesis itself failed, each with its traceback."""
    explanations: tuple[str, ...] = ()
    """If it diverged: all mistakes that explain it on this probe, the likeliest first."""
    fact: str | None = None
    """A fact about the divergence: another shape, NaN, integers that are not summed exactly."""


def first_divergence(verdicts: Iterable[LayerVerdict]) -> LayerVerdict | None:
    """The first layer that diverged, in the order of computation."""
    return next((verdict for verdict in verdicts if verdict.verdict == DIVERGED), None)


def overall(verdicts: list[LayerVerdict], probe: Probe) -> str:
    """A backend's verdict on one probe.

    `identical` asks for the oracle's bits in every layer, but for those that an exact probe lists as bounded, which
    must be certified.
    """
    found = {
        verdict.verdict for verdict in verdicts if verdict.name not in probe.bounded or verdict.verdict == DIVERGED
    }
    return next((verdict for verdict in (DIVERGED, CERTIFIED) if verdict in found), IDENTICAL)


def divergence(name: str, cause: str | None) -> LayerVerdict:
    """A verdict that needs no numbers."""
    return LayerVerdict(name, DIVERGED, None, "other", None, cause=cause)
