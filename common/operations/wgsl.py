"""How accurately a WebGPU shader computes: what its language promises, in units of u = 2^-24.

WGSL (https://www.w3.org/TR/WGSL/#floating-point-accuracy) gives errors in units in the last place; one is at most 2u of
the result. It promises:

| | error |
|---|---|
| x + y, x − y, x · y, choices | correctly rounded |
| x / y, y from 2^-126 to 2^126 | 2.5 units: 5u |
| exp(x), exp2(x) | 3 + 2 \\|x\\| units: (6 + 4 \\|x\\|) u |
| log(x), log2(x) | 2^-21 in absolute terms, 8u, for x from 1/2 to 2; 3 units elsewhere |
| inverseSqrt(x) | 2 units: 4u |
| sqrt(x) | that of 1 / inverseSqrt(x): 4u and 5u |
| pow(x, y) | that of exp2(y · log2(x)) |
| tanh(x) | 10^-5 in absolute terms, or that of sinh(x) / cosh(x) if this is more |
| sin(x), cos(x) | 2^-11 in absolute terms for x from −π to π, nothing elsewhere |

Sums and products may be fused, which rounds less. "Correctly rounded" leaves open which way: the bounds say to the
nearest, as all adapters seen so far do. A GPU that cuts digits off would diverge.

The kernels that put these together are those of onnxruntime-ep-webgpu 0.4.0. Each operation's `in_shader` has what it
computes, and the bound that follows.
"""

from __future__ import annotations

from common.operations.arrays import np
from common.operations.onnx_node import Unread
from common.operations.rounding import CARRIED, UNIT_ROUNDOFF

QUOTIENT = 5.0
INVERSE_ROOT = 4.0
ROOT = INVERSE_ROOT + QUOTIENT
TANH = 1e-5 / UNIT_ROUNDOFF
"""Of the language's own tanh, in absolute terms, for |x| ≤ 10. That of sinh(x) / cosh(x) is less there: exp(x) and
exp(−x) are off by 46u at most, which reaches their difference and their sum, each no more than cosh(x), once: 92u, and
a quotient."""


def of_exponential(x: np.ndarray) -> np.ndarray:
    """The relative error of exp(x), or of 2^x."""
    return 6 + 4 * np.abs(x)


def of_logarithm(x: np.ndarray, value: np.ndarray) -> np.ndarray:
    """The absolute error of a logarithm of x, natural or to base 2."""
    near = (x >= 0.5) & (x <= 2)
    return np.where(near, 8, 6 * np.abs(value))


def of_power(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The relative error of x^y = 2^w, w = y log2 x, where x is positive: that of 2^w, and ln 2 times that of w. w is
    off by |y| times the logarithm's error, and a rounding."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithm = np.log2(x)
        w = y * logarithm
        of_w = np.abs(y) * of_logarithm(x, logarithm) + np.abs(w)
        error = of_exponential(w) + np.log(2) * of_w
    return np.where(x > 0, error, 0)


def check_divisor(y: np.ndarray) -> None:
    """Check that something is promised of a quotient by these.

    Raises:
        Unread: nothing is.
    """
    size = np.abs(y)
    if ((size < 2.0**-126) | (size > 2.0**126)).any():
        raise Unread("WGSL promises nothing of a division by 0, or by numbers beyond 2^-126 … 2^126")


def check_domain(inside: np.ndarray, what: str) -> None:
    """Check that a function is defined for all that it is given, since a shader need not return NaN or infinity.

    Raises:
        Unread: it is not.
    """
    if not inside.all():
        raise Unread(f"WGSL promises nothing of {what}")


_TERMS = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
_P = 0.3275911


def of_error_function(x: np.ndarray) -> np.ndarray:
    """The absolute error of erf(x) as ONNX Runtime's shaders compute it.

    For v = |x| it is 1 − P(t) exp(−v²), with t = 1 / (1 + p v) and P(t) = Σ a_i t^i, i from 1 to 5. That is off by
    1.5 · 10^-7 (Abramowitz and Stegun 1964, 7.1.26). What rounds:

    - t: p, a product, a sum and a quotient make it wrong by (3 + 5) u, and P(t) by 8u |t P'(t)|.
    - P: from the last term on, s ← s t + a_i rounds |s t|, the sum and a_i once each.
    - exp: v² is off by u v², and the exponential by (6 + 4 v²) u. The product rounds once.
    - The difference rounds once, at a size of 1 at most.
    """
    v = np.abs(x.astype(np.float64))
    t = 1 / (1 + _P * v)
    value, slope, error = (np.zeros(v.shape) for _ in range(3))
    for term in reversed(_TERMS):
        slope = slope * t + value
        error = error * t + np.abs(value * t) + np.abs(value * t + term) + abs(term)
        value = value * t + term
    slope = slope * t + value  # of t · (…), which is P
    value, error = value * t, error * t + np.abs(value * t)
    of_polynomial = error + 8 * np.abs(t * slope)
    with np.errstate(under="ignore"):
        of_product = np.exp(-np.square(v)) * (of_polynomial + np.abs(value) * (7 + 5 * np.square(v)))
    return CARRIED * (of_product + 1) + 1.5e-7 / UNIT_ROUNDOFF
