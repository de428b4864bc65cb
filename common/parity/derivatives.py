"""What a batch says of a network's parameters: the whole backward pass in float64, and how far rounding may move it.

Each operation is that of `common.operations`. One pass gives the values. How far another correct
float64 pass may be from them cannot be said layer by layer, since a training hands over nothing but its parameters; so
the roundings are carried through the network:

An operation's result is off by some δ with |δ| ≤ b, its derived bound, which is that of float32 times 2^-29. To first
order a gradient is off by Σ J δ, J being how it depends on each result. Roundings are taken to be independent, with a
mean of 0 (Higham and Mary, *A New Approach to Probabilistic Rounding Error Analysis*, SIAM Journal on Scientific
Computing 41, 2019, model 2.1). By Hoeffding's inequality, |Σ J δ| > t √(Σ J² b²) has a probability of at most
2 exp(−t²/2) then. And √(Σ J² b²) can be drawn: it is the standard deviation of what comes of moving every result by +b
or −b at random. The largest movement that any element of a tensor makes stands for all of it. (Bounds are for the worst
case: what backends are really off by is a thousandth of what is allowed so, and less.)
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from common.operations import BatchNorm, backward, evaluate
from common.operations.loss import AUXILIARY_WEIGHT, cross_entropy
from common.operations.names import parameters_of
from common.operations.rounding import DOUBLE, UNIT_ROUNDOFF, gamma
from common.specs.architecture import IMAGE, Architecture
from common.specs.seeded import seeded_generator
from common.weights import Weights

DEVIATIONS = 15.0
"""t √2 for t above 10, an honest element in 10^22; two passes round, the backend's and this one. Chosen."""

_UNDERFLOW = 2.0**-90
"""Float32 bounds below this only allow for underflow. float64 has none there: a 0 stays 0."""


@dataclass(frozen=True)
class Derivatives:
    """The derivatives of a batch's mean loss, without weight decay; float64, by canonical name."""

    gradients: dict[str, np.ndarray]
    """The gradients with respect to every trained parameter."""
    statistics: dict[str, np.ndarray]
    """Mean and biased variance of the batch at each normalisation, under the names of the stored statistics."""
    counts: dict[str, int]
    """The number of values of these statistics, by the same names."""
    reach: dict[str, float] = field(default_factory=dict)
    """The largest rounding error of an element, for each of these."""


def differentiate(
    spec: Architecture,
    weights: Weights,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    auxiliary: float = AUXILIARY_WEIGHT,
    stored: bool = False,
    reaching: bool = True,
) -> Derivatives:
    """Differentiate the training loss, dropout off.

    Args:
        spec: the network.
        weights: float64 or float32, canonical.
        images: float32, (N, C, H, W).
        labels: int64, (N,).
        auxiliary: the weight of each auxiliary head's loss.
        stored: whether normalisations use stored statistics; otherwise those of the batch, as a training should.
        reaching: whether `reach` is computed, which doubles the time; otherwise it is 0.
    """
    found = _Pass(spec, weights, None, auxiliary, stored).run(images, labels)
    reach = dict.fromkeys((*found.gradients, *found.statistics), 0.0)
    if reaching:
        moved = _Pass(spec, weights, seeded_generator(0, "roundings"), auxiliary, stored).run(images, labels)
        for before, after in ((found.gradients, moved.gradients), (found.statistics, moved.statistics)):
            for name, array in before.items():
                reach[name] = DEVIATIONS * float(np.abs(after[name] - array).max())
    return Derivatives(found.gradients, found.statistics, found.counts, reach)


class _Pass:
    """One forward and backward pass. With a generator, every result is moved by its bound, up or down at random."""

    def __init__(
        self,
        spec: Architecture,
        weights: Weights,
        roundings: np.random.Generator | None,
        auxiliary: float,
        stored: bool,
    ) -> None:
        self.spec, self.roundings, self.auxiliary, self.stored = spec, roundings, auxiliary, stored
        self.weights = {name: array.astype(np.float64) for name, array in weights.items()}

    @np.errstate(all="ignore")
    def run(self, images: np.ndarray, labels: np.ndarray) -> Derivatives:
        values = {IMAGE: images.astype(np.float64)}
        found = Derivatives({}, {}, {})
        for layer in self.spec.layers:
            inputs, parameters = [values[name] for name in layer.inputs], parameters_of(layer.name, self.weights)
            if isinstance(layer.operation, BatchNorm):
                batch = self._statistics(inputs[0])
                found.statistics.update({f"{layer.name}/{kind}": value for kind, value in batch.items()})
                count = inputs[0].size // inputs[0].shape[1]
                found.counts.update({f"{layer.name}/{kind}": count for kind in batch})
                if not self.stored:
                    parameters |= batch
            result = evaluate(layer.operation, inputs, parameters)
            values[layer.name] = self._rounded(result.value, result.bound)
        by_outputs: dict[str, np.ndarray] = {}

        def add(name: str, gradient: np.ndarray) -> None:
            by_outputs[name] = by_outputs[name] + gradient if name in by_outputs else gradient

        for head, name in self.spec.outputs.items():
            loss = cross_entropy(values[name], labels)
            weight = 1.0 if head == "logits" else self.auxiliary
            add(name, weight * self._rounded(loss.value, loss.bound))
        for layer in reversed(self.spec.layers):
            if layer.name not in by_outputs:
                continue
            inputs, parameters = [values[name] for name in layer.inputs], parameters_of(layer.name, self.weights)
            dy = by_outputs.pop(layer.name)
            back = backward(layer.operation, inputs, parameters, dy, training=not self.stored)
            for kind, gradient in back.parameters.items():
                found.gradients[f"{layer.name}/{kind}"] = self._rounded(gradient.value, gradient.bound)
            for name, gradient in zip(layer.inputs, back.inputs, strict=True):
                add(name, self._rounded(gradient.value, gradient.bound))
            del values[layer.name]
        return found

    def _statistics(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """The statistics of the batch. The variance may be computed as m(x²) − m(x)², which rounds relative to
        m(x²)."""
        over, count = (0, 2, 3), x.size // x.shape[1]
        mean, square = x.mean(over), np.square(x).mean(over)
        variance = np.square(x - mean.reshape(1, -1, 1, 1)).mean(over)
        return {
            "mean": self._rounded(mean, gamma(count + 2) * np.abs(x).mean(over)),
            "variance": np.maximum(self._rounded(variance, gamma(count + 5) * 2 * square), 0),
        }

    def _rounded(self, value: np.ndarray, bound: np.ndarray | None) -> np.ndarray:
        if self.roundings is None or bound is None:
            return value
        sizes = np.where(bound > _UNDERFLOW, bound, 0) * (DOUBLE / UNIT_ROUNDOFF)
        signs = self.roundings.integers(0, 2, value.shape, np.int8) * np.int8(2) - np.int8(1)
        return value + sizes * signs
