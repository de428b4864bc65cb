"""The gradient of the loss with respect to the logits, with which a backward pass begins."""

from __future__ import annotations

from common.operations.arrays import np
from common.operations.rounding import ELEMENTARY_ULP, SECOND_ORDER, SMALLEST_NORMAL, UNIT_ROUNDOFF, Gradient, gamma

AUXILIARY_WEIGHT = 0.3
"""The weight of each auxiliary head's loss. Source: section 5 of Szegedy et al. 2014."""


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> Gradient:
    """The gradient of the mean cross-entropy with respect to the logits, (softmax − one-hot) / N.

    The largest logit is subtracted first, exactly up to one rounding of each difference, which moves its exponential by
    |difference|·u; the sum of C exponentials and the quotient add γ_(C+1), and the exponential E.
    """
    z = logits.astype(np.float64)
    difference = z - z.max(1, keepdims=True)
    p = np.exp(difference)
    p /= p.sum(1, keepdims=True)
    spread = UNIT_ROUNDOFF * (np.abs(difference) + ELEMENTARY_ULP)
    relative = spread + (spread * p).sum(1, keepdims=True) + gamma(z.shape[1] + 4)
    # A softmax may also come as exp(log-softmax), whose logarithm is rounded at its own size.
    relative += UNIT_ROUNDOFF * (np.abs(np.log(np.maximum(p, 1e-300))) + ELEMENTARY_ULP)
    one_hot = np.eye(z.shape[1])[labels]
    bound = SECOND_ORDER * (p * relative + 3 * UNIT_ROUNDOFF * np.abs(p - one_hot)) / len(z)
    return Gradient((p - one_hot) / len(z), bound + 4 * SMALLEST_NORMAL)
