"""Many models, each a subject by itself: one that cannot be proved is a row, and the others are proved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from common.errors import TriptychError
from common.parity.results import INCOMPLETE
from common.prove.models import ModelName
from common.prove.proof import Advance, Request, prove
from common.prove.results import ProofRun, RuntimeResult

EVERY_RUNTIME = "every runtime"
"""What the row of a model that cannot be proved is called."""

Draw = Callable[[Sequence[ProofRun]], str]
"""Draws the page of a model."""


@dataclass(frozen=True)
class Proved:
    """A model, what was found, and its page, if one was asked for; without the model's own numbers."""

    names: Sequence[ModelName]
    """It, and those that are judged by it."""
    runs: Sequence[ProofRun]
    page: str | None = None
    refusal: str | None = None
    """Why it cannot be proved, where that is so; the runs say the same."""

    @classmethod
    def of(
        cls,
        names: Sequence[ModelName],
        request: Request,
        draw: Draw | None = None,
        advance: Advance | None = None,
    ) -> Proved:
        """Prove a model, and others by it."""
        try:
            runs = prove(names, request, advance or (lambda done: None))
        except TriptychError as error:
            return cls.refused(names, request, error.message, draw)
        page = draw(runs) if draw else None
        return cls(names, [replace(run, graph=None, shapes={}, recorded={}) for run in runs], page)

    @classmethod
    def refused(cls, names: Sequence[ModelName], request: Request, reason: str, draw: Draw | None = None) -> Proved:
        """What is found of a model that cannot be proved."""
        row = RuntimeResult(EVERY_RUNTIME, "crashed", INCOMPLETE, str(TriptychError(reason)))
        runs = [ProofRun(names[0].text, probe, [row], 0, device=request.device) for probe in request.probes]
        return cls(names, runs, draw(runs) if draw else None, reason)
