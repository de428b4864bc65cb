"""How far a correct float32 computation may be from real arithmetic.

A bound here is derived; its one assumption is how well elementary functions are computed (`ELEMENTARY_ULP`). With unit
roundoff u = 2^-24, one float32 operation returns the exact result times (1 + δ), |δ| ≤ u (plus at most 2^-126 in
absolute terms if an operand or the result underflows and is flushed), and n such factors multiply to 1 + θ,
|θ| ≤ γ_n = n·u / (1 − n·u). Source: Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd edition, sections
2.1, 2.2 and 3.1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from common.operations.arrays import Place, np

UNIT_ROUNDOFF = 2.0**-24
"""u of float32, rounding to nearest."""

DOUBLE = 2.0**-53
"""The unit roundoff of float64."""

SMALLEST_NORMAL = 2.0**-126
"""The most that one float32 operation can lose to underflow, subnormals flushed or not."""

EXACT_LIMIT = 2.0**24
"""Integers of smaller magnitude, and sums of them, are exact in float32."""

ELEMENTARY_ULP = 4
"""The allowance for exp, log, pow, tanh and the like, in units of u; one unit in the last place is at most 2u.

An assumption about the libraries in use, not a derivation: nothing in IEEE 754 bounds these functions.
`benchmarks/elementary.py` measures what each library needs; the table is in docs/prove.md. No CPU backend has been seen
to need more, nor has one on an NVIDIA H100, but for tanh through WebGPU (`FP32_IN_WGSL`); it has not been checked
against the libraries' documentation.
"""

ERF_ULP = 14
"""The allowance for the error function, in units of u and in absolute terms.

Libraries approximate it in one piece. Near 0 or −1 their error is a multiple of u, not of u times the result.
`benchmarks/elementary.py` measures 8.9 in `torch.compile`, 11.1 within PyTorch's GELU, 6 in TensorFlow and JAX. This is
a quarter more.
"""

SECOND_ORDER = 1.01
"""In bounds of first order: products of two rounding errors are below a hundredth of the larger."""

CARRIED = 1.001
"""In what is carried on: products of two roundings are below a thousandth of the larger."""


@dataclass(frozen=True)
class Precision:
    """How a backend keeps and multiplies numbers; sums of products are taken to be in float32 always."""

    name: str
    stored: float
    """The unit roundoff of values between layers."""
    factors: float = 0.0
    """The largest relative change of each factor before convolutions and dense layers multiply them."""
    smallest_normal: float = SMALLEST_NORMAL
    """Of the stored type: the most that storing a number can lose to underflow."""
    shader: bool = False
    """Whether a WebGPU shader computes it, whose functions are less accurate than a library's (`Operation.in_shader`).
    """


FP32 = Precision("fp32", UNIT_ROUNDOFF)
TF32 = Precision("tf32", UNIT_ROUNDOFF, factors=2.0**-10)
"""11 significant bits of each factor; hardware may cut the others off instead of rounding."""
FP32_IN_WGSL = Precision("fp32", UNIT_ROUNDOFF, shader=True)
"""float32 as WebGPU's language promises it: see `common.operations.wgsl`."""
PRECISIONS = {precision.name: precision for precision in (FP32, TF32)}
"""The precisions that a backend computes in. The others are precisions of stored numbers."""

FP16 = Precision("fp16", 2.0**-11, smallest_normal=2.0**-14)
BF16 = Precision("bf16", 2.0**-8)


def gamma(operations: float, unit: float = UNIT_ROUNDOFF) -> float:
    """γ_n for n operations with this unit roundoff, by default float32's (Higham, section 3.1)."""
    return operations * unit / (1 - operations * unit)


def unit_of(array: np.ndarray) -> float:
    """The largest power of two that all elements are multiples of, infinite ones left out; 1 where all are 0."""
    mantissas, exponents = np.frexp(np.asarray(array, np.float32)[(array != 0) & np.isfinite(array)])
    if not mantissas.size:
        return 1.0
    integers = (np.abs(mantissas) * 2**24).astype(np.int64)
    lowest = (integers & -integers).astype(np.float64)  # the last bit of each
    return float((lowest * 2.0 ** (exponents.astype(np.float64) - 24)).min())


@dataclass(frozen=True)
class Allowed:
    """The kinds that each element of a result may have; bool, of its shape. If all are True, nothing is claimed."""

    finite: np.ndarray
    """A number within the bound; any number where all is True."""
    plus: np.ndarray
    """+∞."""
    minus: np.ndarray
    """−∞."""
    nan: np.ndarray

    @property
    def open(self) -> np.ndarray:
        """The elements about which nothing is claimed."""
        return self.finite & self.plus & self.minus & self.nan

    def of(self, output: np.ndarray) -> np.ndarray:
        """Whether each element has a kind that it may have."""
        return (
            (np.isfinite(output) & self.finite)
            | ((output == np.inf) & self.plus)
            | ((output == -np.inf) & self.minus)
            | (np.isnan(output) & self.nan)
        )


@dataclass(frozen=True)
class Reference:
    """The right output of an operation and its bound, element by element. All arrays have the output's shape."""

    value: np.ndarray
    """float64, the result in real arithmetic (except for float64's own rounding, which `bound` covers); float32 if each
    element is one of the inputs'."""
    bound: np.ndarray | None = None
    """float64, or float32 where that has its range: the largest |computed − value| that float32 arithmetic explains.
    None: the bits must be the same."""
    magnitude: np.ndarray | None = None
    """Σ|product| + |bias| of each element, for operations that sum products."""
    spread: np.ndarray | None = None
    """√Σ product² of each element: the scale of rounding errors, which tells precisions apart."""
    allowed: Allowed | None = None
    """The kinds that each element may have, if some may be infinite or NaN. None: all must be finite."""

    @property
    def rounds(self) -> bool:
        """Whether it always rounds, so that integers do not make it exact."""
        return self.bound is not None and self.magnitude is None

    @classmethod
    def joined(cls, shape: tuple[int, ...], pieces: Iterable[Piece]) -> Reference:
        """The whole, of a shape, from pieces that cover it."""
        arrays: dict[str, Any] = {}
        for place, piece in pieces:
            for name in ("value", "bound", "magnitude", "spread"):
                array = getattr(piece, name)
                if array is not None:
                    arrays.setdefault(name, np.empty(shape, array.dtype))[place] = array
        return cls(**arrays) if arrays else cls(np.empty(shape), np.empty(shape))


Piece: TypeAlias = tuple[Place, Reference]
"""What belongs at a place of an output."""


@dataclass(frozen=True)
class Gradient:
    """One gradient; all arrays have its shape."""

    value: np.ndarray
    """float64."""
    bound: np.ndarray
    """float64, the largest |computed − value| that float32 explains; of first order, see `SECOND_ORDER`."""
    magnitude: np.ndarray | None = None
    """Σ|product| of each element, if it is a sum of products only: then it is exact on integers."""
    choice: np.ndarray | None = None
    """The part that may go to another element, or come from one, if the framework is free to choose."""


@dataclass(frozen=True)
class Gradients:
    """The gradients that an operation hands back."""

    inputs: list[Gradient]
    parameters: dict[str, Gradient] = field(default_factory=dict)


def summed(terms: int, value: np.ndarray, magnitude: np.ndarray) -> Gradient:
    """A gradient that is a sum of products: γ_n Σ|product|, in every order."""
    return Gradient(value, gamma(terms + 1) * magnitude + terms * SMALLEST_NORMAL, magnitude)


def chosen(value: np.ndarray) -> Gradient:
    """A gradient that is a choice or a copy: nothing is rounded."""
    return Gradient(value, np.zeros_like(value), np.abs(value))


def upwards(error: np.ndarray) -> np.ndarray:
    """An error rounded up to float32, which operations take."""
    return np.nextafter(error.astype(np.float32), np.float32(np.inf)) * (error > 0).astype(np.float32)
