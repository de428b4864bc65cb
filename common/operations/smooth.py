"""Smooth functions, element by element. E is `ELEMENTARY_ULP` in all of their bounds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from common.operations.arrays import Arrays, Parameters, np
from common.operations.mistake import exchanged
from common.operations.onnx_node import OnnxNode, Unread
from common.operations.onnx_table import reads
from common.operations.operation import ArrayOperation, Found, Hypothesis, Observation, in_double
from common.operations.rectifiers import RELU
from common.operations.rounding import (
    CARRIED,
    ELEMENTARY_ULP,
    ERF_ULP,
    SMALLEST_NORMAL,
    UNIT_ROUNDOFF,
    Reference,
    gamma,
)
from common.operations.wgsl import check_domain, of_error_function, of_exponential, of_logarithm


def logistic(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(−x)) in float64, which overflows for no x."""
    value: np.ndarray = np.exp(np.minimum(x, 0)) / (1 + np.exp(-np.abs(x)))
    return value


@dataclass(frozen=True)
class Smooth(ArrayOperation):
    """A function of each value, which always rounds."""

    elementwise: ClassVar[bool] = True
    integers_before: ClassVar[int] = 1
    channelwise: ClassVar[bool] = True
    rounds_once: ClassVar[bool] = False
    steepest: ClassVar[float] = 1.0
    """The largest magnitude of its slope."""

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        return CARRIED * self.steepest * errors[0]


@reads("Tanh")
@dataclass(frozen=True)
class Tanh(Smooth):
    """The hyperbolic tangent."""

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """|ŷ − y| ≤ γ_(E+4) |y|: as quotients of polynomials, ONNX Runtime's and TensorFlow's need 5.6."""
        value = np.tanh(inputs[0].astype(np.float64))
        return Reference(value, gamma(ELEMENTARY_ULP + 4) * np.abs(value) + SMALLEST_NORMAL)

    def in_shader(self, inputs: Arrays, parameters: Parameters, reference: Reference, bound: np.ndarray) -> np.ndarray:
        """(1 − e) / (1 + e) with e = exp(−2|x|), and the sign of x.

        The exponential's error of ε e, ε = (6 + 8|x|) u, moves it by 2e / (1 + e)² ε, which is below 4u for every x,
        however small the result is. The difference, the sum and the quotient add 7u of the result, which a CPU's bound
        has.
        """
        return bound + 4 * UNIT_ROUNDOFF


@reads("Exp")
@dataclass(frozen=True)
class Exp(Smooth):
    """exp(x)."""

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """|ŷ − y| ≤ γ_E y."""
        with np.errstate(over="ignore"):
            value = np.exp(inputs[0].astype(np.float64))
        return Reference(value, gamma(ELEMENTARY_ULP) * value + SMALLEST_NORMAL)

    def in_shader(self, inputs: Arrays, parameters: Parameters, reference: Reference, bound: np.ndarray) -> np.ndarray:
        """The language's own."""
        error = CARRIED * UNIT_ROUNDOFF * of_exponential(inputs[0].astype(np.float64))
        return error * reference.value + SMALLEST_NORMAL

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        return CARRIED * np.exp(inputs[0].astype(np.float64)) * np.expm1(errors[0])


@reads("Log")
@dataclass(frozen=True)
class Log(Smooth):
    """log(x)."""

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """|ŷ − y| ≤ γ_(E+1) |y|: ONNX Runtime's and TensorFlow's need 3.8 near 1."""
        with np.errstate(divide="ignore", invalid="ignore"):
            value = np.log(inputs[0].astype(np.float64))
        return Reference(value, gamma(ELEMENTARY_ULP + 1) * np.abs(value) + SMALLEST_NORMAL)

    def in_shader(self, inputs: Arrays, parameters: Parameters, reference: Reference, bound: np.ndarray) -> np.ndarray:
        """The language's own."""
        x = inputs[0].astype(np.float64)
        check_domain(x > 0, "the logarithm of 0 or of a negative number")
        return np.maximum(bound, CARRIED * UNIT_ROUNDOFF * of_logarithm(x, reference.value))

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return -CARRIED * np.log1p(-np.minimum(errors[0] / np.abs(inputs[0].astype(np.float64)), 1))


@reads("Sin", "Cos")
@dataclass(frozen=True)
class Wave(Smooth):
    """The sine, or the cosine."""

    cosine: bool = False

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Found:
        return Found(cls(node.kind == "Cos"))

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """|ŷ − y| ≤ γ_E: near its zeros the remainder of the argument decides, so that the error is absolute."""
        x = inputs[0].astype(np.float64)
        value = np.cos(x) if self.cosine else np.sin(x)
        return Reference(value, np.full(x.shape, gamma(ELEMENTARY_ULP)))

    def in_shader(self, inputs: Arrays, parameters: Parameters, reference: Reference, bound: np.ndarray) -> np.ndarray:
        """An error of 2^-11 would certify almost anything."""
        called = "cosine" if self.cosine else "sine"
        raise Unread(f"WGSL promises of a {called} no more than an error below 2^-11, and that only from −π to π")

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        yield "sine and cosine are exchanged", exchanged(seen, Wave(not self.cosine))


@reads("Erf")
@dataclass(frozen=True)
class Erf(Smooth):
    """The error function."""

    steepest: ClassVar[float] = 1.13

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """|ŷ − y| ≤ γ_F, F = `ERF_ULP`, in absolute terms."""
        value = error_function(inputs[0].astype(np.float64))
        return Reference(value, np.full(value.shape, gamma(ERF_ULP)))

    def in_shader(self, inputs: Arrays, parameters: Parameters, reference: Reference, bound: np.ndarray) -> np.ndarray:
        return np.maximum(bound, UNIT_ROUNDOFF * of_error_function(inputs[0].astype(np.float64)))


@reads("Softplus")
@dataclass(frozen=True)
class Softplus(Smooth):
    """log(1 + exp(x)). Source: ONNX Softplus."""

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """|ŷ − y| ≤ γ_(E+3) (y + 1): the exponential is rounded beside 1, and its logarithm at its own size."""
        value = np.logaddexp(0, inputs[0].astype(np.float64))
        return Reference(value, gamma(ELEMENTARY_ULP + 3) * (value + 1))

    def in_shader(self, inputs: Arrays, parameters: Parameters, reference: Reference, bound: np.ndarray) -> np.ndarray:
        """max(x, 0) + log(1 + e), e = exp(−|x|). The exponential's error reaches the logarithm divided by 1 + e, and
        that is off by 8u more, since it is of a number from 1 to 2. The two sums are in a CPU's bound, and so is x
        itself where x is so large that e is nothing beside it."""
        size = np.abs(inputs[0].astype(np.float64))
        share = logistic(-size)  # e / (1 + e)
        return bound + CARRIED * UNIT_ROUNDOFF * (share * of_exponential(size) + 8)

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        yield "a ReLU is taken, not a softplus", exchanged(seen, RELU)


@reads("Swish")
@dataclass(frozen=True)
class Swish(Smooth):
    """x · σ(alpha · x), with alpha 1 the SiLU. Source: Ramachandran et al. 2017; ONNX Swish."""

    alpha: float = 1.0
    steepest: ClassVar[float] = 1.1

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """|x| times the sigmoid's error, u (E + 3) (σ + 1/2); its argument's 2u |z|, times the slope σ (1 − σ); a
        product."""
        (x,) = in_double(*inputs)
        z = self.alpha * x
        factor = logistic(z)
        of_factor = (ELEMENTARY_ULP + 3) * (factor + 0.5) + 2 * np.abs(z) * factor * (1 - factor)
        bound = CARRIED * UNIT_ROUNDOFF * np.abs(x) * (of_factor + factor)
        return Reference(x * factor, bound + SMALLEST_NORMAL * (1 + np.abs(x)))

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        return CARRIED * 1.1 * max(1.0, abs(self.alpha)) * errors[0]

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Found:
        return Found(cls(node.attributes.get("alpha", 1.0)))

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        yield "a ReLU is taken, not a SiLU", exchanged(seen, RELU)
        yield "alpha is 1.702 (an approximation of a GELU)", exchanged(seen, replace(self, alpha=1.702))
        yield "a GELU is taken, not a SiLU", exchanged(seen, GELU())


@reads("Gelu")
@dataclass(frozen=True)
class GELU(Smooth):
    """x · Φ(x), Φ being the normal distribution's; or its approximation with a hyperbolic tangent.

    Source: Hendrycks and Gimpel 2016, section 2; ONNX Gelu.
    """

    approximate: bool = False
    steepest: ClassVar[float] = 1.13

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """y = x/2 · (1 + erf(x/√2)).

        erf is off by F·u at most, F = `ERF_ULP`, its argument by 2u, which reaches it times |z erf'(z)| ≤ 0.49; the
        sum and two products round at the size of what they give: |ŷ − y| ≤ u (|x|/2 (F + 1) + 4|y|), and one u of |x|
        for the sum beside 1. With the tangent t of z = √(2/π) (x + 0.044715 x³): t is off by E·u, and by 1 − t² times
        8u |z| by its argument.
        """
        (x,) = in_double(*inputs)
        if self.approximate:
            z = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
            t = np.tanh(z)
            of_t = ELEMENTARY_ULP + 1 + 8 * np.abs(z) * (1 - t * t)
        else:
            t, of_t = error_function(x / np.sqrt(2)), ERF_ULP + 1
        value = 0.5 * x * (1 + t)
        bound = CARRIED * UNIT_ROUNDOFF * (0.5 * np.abs(x) * (of_t + 2) + 4 * np.abs(value))
        return Reference(value, bound + SMALLEST_NORMAL * (1 + np.abs(x)))

    def in_shader(self, inputs: Arrays, parameters: Parameters, reference: Reference, bound: np.ndarray) -> np.ndarray:
        """Half of |x| times what a shader's t is off by more than a CPU's: erf has F there, and the tangent, which as
        in `Tanh` is off by 4u + 7u |t|, has E |t|, so that 7u is enough. Its argument is rounded no more often."""
        (x,) = in_double(*inputs)
        more = 7.0 if self.approximate else np.maximum(of_error_function(x / np.sqrt(2)) - ERF_ULP, 0)
        return bound + CARRIED * UNIT_ROUNDOFF * 0.5 * np.abs(x) * more

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Found:
        return Found(cls(node.attributes.get("approximate", "none") == "tanh"))

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        other = "by its approximation with a hyperbolic tangent" if not self.approximate else "exact, not approximated"
        yield f"the GELU is taken {other}", exchanged(seen, GELU(not self.approximate))
        yield "x · σ(1.702 x) is taken, not a GELU", exchanged(seen, Swish(1.702))
        yield "a ReLU is taken, not a GELU", exchanged(seen, RELU)
        yield "a SiLU is taken, not a GELU", exchanged(seen, Swish())


@reads("Mish")
@dataclass(frozen=True)
class Mish(Smooth):
    """x · tanh(log(1 + exp(x))). Source: Misra 2019; ONNX Mish."""

    steepest: ClassVar[float] = 1.1

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """The softplus p is off by γ_(E+3) (p + 1); the tangent's slope there is 1 − t², its own error E·u t; a
        product."""
        (x,) = in_double(*inputs)
        p = np.logaddexp(0, x)
        t = np.tanh(p)
        of_t = gamma(ELEMENTARY_ULP + 3) * (p + 1) * (1 - t * t) + gamma(ELEMENTARY_ULP + 2) * t
        return Reference(x * t, CARRIED * np.abs(x) * (of_t + UNIT_ROUNDOFF * t) + SMALLEST_NORMAL * (1 + np.abs(x)))

    def in_shader(self, inputs: Arrays, parameters: Parameters, reference: Reference, bound: np.ndarray) -> np.ndarray:
        """There is no kernel: it is the nodes that it is made of. What the softplus is off by more than a CPU's reaches
        the tangent times 1 − t², and that is off by 4u + 7u |t|, of which a CPU's bound has E + 2."""
        (x,) = in_double(*inputs)
        t, softplus = np.tanh(np.logaddexp(0, x)), Softplus()
        found = softplus.reference(inputs, {})
        assert found.bound is not None
        of_p = softplus.in_shader(inputs, {}, found, found.bound) - found.bound
        return bound + CARRIED * np.abs(x) * (of_p * (1 - t * t) + UNIT_ROUNDOFF * (4 + t))


def error_function(x: np.ndarray) -> np.ndarray:
    """erf in float64."""
    from scipy.special import erf

    value: np.ndarray = erf(x)
    return value
