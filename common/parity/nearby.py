"""Judging a layer on an input that differs by rounding errors from another backend's, for which it has been evaluated.

Let a₀ be that input, and a = a₀ + δ the new one. Then W·a + b = (W·a₀ + b) + W·δ. The first term is known, in float64.
The second is so small that one product in float32 will do, in place of one in float64 and two in float32:

- With D = max|δ| and n products to a sum, |Σ w·δ| ≤ ‖w‖₁·D for a filter w. δ is itself rounded when it is subtracted,
  and so is each of the n products and sums: fl(W·δ) is off by γ_{n+1}·‖w‖₁·D at most.
- Σ|w·a| lies within ‖w‖₁·D of Σ|w·a₀|. The bound, a fraction of that sum (`relative_bound`), grows by that fraction
  of ‖w‖₁·D.

Both go into the bound. They are below `CLOSE` of it each, since a layer is evaluated in full where ‖w‖₁·D is not below
`CLOSE`·(Σ|w·a₀| + |b|), for each filter and each of its outputs: ratios are those of the full evaluation to four times
that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from common.operations import Conv, Dense
from common.operations.evaluation import evaluate_in_pieces
from common.operations.rounding import SECOND_ORDER, SMALLEST_NORMAL, Piece, Reference, gamma
from common.operations.sums import Scaled, Summing, relative_bound
from common.parity.verdicts import LayerVerdict

CLOSE = 2.0**-10
"""How large what δ may change is at most, relative to the sum of magnitudes."""


@dataclass(frozen=True)
class Evaluated:
    """What a layer makes of one input."""

    x: np.ndarray
    pieces: Sequence[Piece]
    norms: np.ndarray
    """‖w‖₁ of each filter, float64."""
    room: float
    """The smallest (Σ|w·a₀| + |b|) / ‖w‖₁ of all outputs."""

    @classmethod
    def of(cls, x: np.ndarray, weight: np.ndarray, pieces: Sequence[Piece]) -> Evaluated:
        """Of an input, which is copied, and the pieces of what was made of it, which are not."""
        norms = np.array([np.abs(own).sum(dtype=np.float64) for own in weight])
        room = np.inf
        for place, piece in pieces:
            if piece.magnitude is None or place == (...,):  # something may overflow
                return cls(x, (), norms, 0.0)
            own = norms[place[1]]
            least = piece.magnitude.min(axis=(0, *range(2, piece.magnitude.ndim)), initial=np.inf)
            room = min(room, float(np.divide(least, own, out=np.full(len(own), np.inf), where=own > 0).min()))
        return cls(np.array(x), pieces, norms, room)

    def near(
        self, operation: Conv | Dense, x: np.ndarray, parameters: Mapping[str, np.ndarray]
    ) -> Iterable[Piece] | None:
        """What the layer makes of another input of that shape, or None if that is not close to this one."""
        with np.errstate(over="ignore", invalid="ignore"):
            delta = x - self.x
            largest = float(max(delta.max(initial=0.0), -delta.min(initial=0.0)))
        if not largest <= CLOSE * self.room:
            return None
        if not largest:
            return self.pieces
        return operation.pieces([delta], parameters, _Differences(self.pieces, self.norms, largest))


class _Differences(Summing):
    """W·δ, added to the sums that are known."""

    def __init__(self, pieces: Sequence[Piece], norms: np.ndarray, largest: float) -> None:
        self._known = iter(pieces)
        self._norms = norms
        self._largest = largest

    def scaled(self, array: np.ndarray, factor: int) -> Scaled:
        return (array,)

    def reference(self, products: Sequence[np.ndarray], bias: np.ndarray | None, terms: int) -> Reference:
        (product,) = products
        place, known = next(self._known)
        assert known.bound is not None
        norms = self._norms[place[1]].reshape(-1, *[1] * (product.ndim - 2))
        # What underflow takes from a product or a sum, from a factor that is flushed.
        underflow = SMALLEST_NORMAL * (norms + (terms + 1) * (1 + self._largest))
        more = SECOND_ORDER * (gamma(terms + 1) + relative_bound(terms)) * norms * self._largest + underflow
        bound = known.bound + more.astype(known.bound.dtype)
        bound *= known.bound.dtype.type(_ROUNDED_UP)
        return Reference(known.value + product, bound, known.magnitude, known.spread)


_ROUNDED_UP = 1 + 2.0**-22
"""Makes up for the rounding of a bound to which something is added."""


@dataclass
class Earlier:
    """What was found on one probe in earlier backends."""

    verdicts: dict[tuple[str, tuple[bytes, ...]], LayerVerdict] = field(default_factory=dict)
    """By layer and the digests of what went in and came out."""
    evaluated: dict[str, Evaluated] = field(default_factory=dict)
    """By layer: of convolutions and dense layers the first that was evaluated."""

    def pieces(
        self, name: str, operation: Conv | Dense, x: np.ndarray, parameters: Mapping[str, np.ndarray]
    ) -> Iterator[Piece]:
        """As `evaluate_in_pieces`, in float32, of this layer."""
        first = self.evaluated.get(name)
        found = first.near(operation, x, parameters) if first and first.x.shape == x.shape else None
        if found is not None:
            yield from found
            return
        kept = []
        for piece in evaluate_in_pieces(operation, [x], parameters):
            kept.append(piece)
            yield piece
        if first is None:
            self.evaluated[name] = Evaluated.of(x, parameters["weight"], kept)
