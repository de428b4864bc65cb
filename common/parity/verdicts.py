"""What is known about a layer of a backend, and about the backend."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from common.probes import Probe

IDENTICAL, CERTIFIED, DIVERGED = "identical", "certified", "diverged"


@dataclass(frozen=True)
class LayerVerdict:
    """What is known about one layer of one backend."""

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
    """Where it diverged, what explains it here, and what is seen of it besides."""
    excluded: tuple[str, ...] = ()
    """Where it diverged, the mistakes that were tried and do not explain it (see `common.parity.causes`)."""
    place: str | None = None
    """Where it ran, `cpu` or `gpu`; None where nobody tells."""
    overflows: bool = False
    """Whether some of it is infinite or NaN where float32 overflows; or is, or is not, wrongly."""
    untried: tuple[str, ...] = ()
    """The mistakes that could not be tried, because the hypothesis itself failed, each with its traceback."""
    explanations: tuple[str, ...] = ()
    """Where it diverged, all the mistakes that explain it on this probe, the likeliest first."""
    fact: str | None = None
    """What is seen of the divergence whatever made it: another shape, NaN, integers that are not summed exactly."""


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
    """A verdict that no numbers are needed for."""
    return LayerVerdict(name, DIVERGED, None, "other", None, cause=cause)
