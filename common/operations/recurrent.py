"""Recurrent layers: a state is computed step by step, forwards or backwards in time.

The bound is carried with the state. Each value of a step has the error that a float32 computation may have there: that
of what it is computed from, and its own rounding (`common.operations.doubtful`).

Through the recurrence's weights the bound may grow with every step: about twofold in a layer of 64 units. But the
hidden states are the layer's own output. If they are known, each is judged by the one before it, as each layer is
judged by its own input. Only the cell's error is carried on, which the forget gate makes smaller.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from common.operations.arrays import Arrays, Parameters, Shape, np
from common.operations.doubtful import Doubtful, Terms
from common.operations.mistake import exchanged
from common.operations.onnx_node import OnnxNode, Unread
from common.operations.onnx_table import reads
from common.operations.operation import ArrayOperation, Found, Hypothesis, Observation
from common.operations.rounding import CARRIED, SMALLEST_NORMAL, Reference, gamma

WIDEST = 2.0**-10
"""The widest bound of a hidden state, which lies between −1 and 1, that is still called a proof. A chosen number."""


@dataclass(frozen=True)
class Recurrent(ArrayOperation):
    """A layer of `hidden` units in each direction, with ONNX's arrays, T steps of N sequences in D directions.

    Inputs: x (T, N, features), then the states before the first step, each (D, N, hidden). Parameters, G gates one
    after the other: `weight` (D, G · hidden, features), `recurrence` (D, G · hidden, hidden), `bias` (D, 2 G · hidden),
    the input's and then the recurrence's. Results: every hidden state (T, D, N, hidden), the last one, the last cell.
    """

    hidden: int
    backwards: tuple[bool, ...] = (False,)
    """For each direction, whether it begins at the end."""
    states: tuple[int, ...] = ()
    """Which states are inputs: the hidden one, 0, the cell, 1; the others begin as 0."""
    batch_first: bool = False
    """Whether N is the first axis of all of them."""
    result: int = 0
    fed_back: bool = False
    """Whether the hidden states of all steps are the last input, from which each next one is computed."""
    shader: bool = False
    """Whether its bound is that of a WebGPU shader."""

    any_result: ClassVar[bool] = True
    integers_before: ClassVar[int] = 1
    rounds_once: ClassVar[bool] = False
    gates: ClassVar[str]
    """The letters of the gates, in ONNX's order."""
    other_orders: ClassVar[Sequence[str]]
    activations: ClassVar[Sequence[str]]

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Found:
        attributes, lengths = node.attributes, node.constant(4)
        directions = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
        backwards = directions[attributes.get("direction", "forward")]
        batch_first = bool(attributes.get("layout", 0))
        usual = [*cls.activations] * len(backwards)
        other = [name.decode().lower() for name in attributes.get("activations", ())] not in ([], usual)
        for told, is_so in (
            ("it clips what its activations read", "clip" in attributes),
            ("its activations are not the usual ones", other),
            ("its input and forget gates are one", attributes.get("input_forget")),
            (
                "the lengths of its sequences are computed, or differ",
                node.has(4) and (lengths is None or (lengths != node.shape(0)[int(batch_first)]).any()),
            ),
        ):
            if is_so:
                raise Unread(told)
        states = tuple(state for state in (0, 1) if node.has(5 + state))
        places = {"weight": 1, "recurrence": 2, "bias": 3, "peepholes": 7}
        parameters = {kind: place for kind, place in places.items() if node.has(place)}
        last = node.result > 0
        operation = cls(attributes["hidden_size"], backwards, states, batch_first, node.result, fed_back=last)
        return Found(operation, (0, *(5 + state for state in states)), parameters, results=(0,) * last)

    def output_shape(self, *inputs: Shape) -> Shape:
        """That of all hidden states."""
        first, second, _ = inputs[0]
        between = (second, len(self.backwards)) if self.batch_first else (len(self.backwards), second)
        return first, *between, self.hidden

    def given_itself(self) -> Recurrent | None:
        return None if self.fed_back else replace(self, fed_back=True)

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """See `_step`, which carries the bound.

        Raises:
            Unread: the bound, which may grow with every step, is wider than `WIDEST`.
        """
        made = self._run(inputs, [np.zeros(x.shape) for x in inputs], parameters)
        return Reference(made.value, CARRIED * made.error)

    def in_shader(self, inputs: Arrays, parameters: Parameters, reference: Reference, bound: np.ndarray) -> np.ndarray:
        """With the sigmoid and the tangent of its kernel: see `Doubtful`."""
        found = replace(self, shader=True).reference(inputs, parameters).bound
        assert found is not None
        return found

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        """As much wider as the bound is if the errors of the inputs are carried too."""
        whole, own = (self._run(inputs, of, parameters) for of in (errors, [np.zeros(x.shape) for x in inputs]))
        return CARRIED * np.maximum(whole.error - own.error, 0)

    def _run(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> Doubtful:
        """The result, with the errors that errors of the inputs lead to."""
        given = [Doubtful(x.astype(np.float64), error) for x, error in zip(inputs, errors, strict=True)]
        if self.batch_first:
            given = [each.moved(0, -2) for each in given]
        x, begun = given[0], dict(zip(self.states, given[1:], strict=False))
        known = self._possible(given[-1], begun)
        steps, images = x.value.shape[:2]
        made = Doubtful(*np.zeros((2, steps, len(self.backwards), images, self.hidden)))
        last = Doubtful(*np.zeros((2, len(self.backwards), images, self.hidden)))
        for place, backward in enumerate(self.backwards):
            own = {kind: array[place].astype(np.float64) for kind, array in parameters.items()}
            of_input, own["bias"] = np.split(own.get("bias", np.zeros(2 * len(self.gates) * self.hidden)), 2)
            added = Terms.of(x, own["weight"], of_input)
            zero = Doubtful(*np.zeros((2, images, self.hidden)))
            h, c = (begun[state][place] if state in begun else zero for state in (0, 1))
            for step in reversed(range(steps)) if backward else range(steps):
                h, c = self._step(added[step], h, c, own)
                made.put((step, place), h)
                if self.fed_back:
                    h = known[step][place].rounded()
            last.put(place, (h, h, c)[self.result])
        made = last if self.result else made
        if not (made.error <= WIDEST * np.maximum(np.abs(made.value), 1)).all():
            raise Unread(f"its bound has grown to {made.error.max():.2g} after {steps} steps, which proves nothing")
        return made.moved(-2, 0) if self.batch_first else made

    def _possible(self, known: Doubtful, begun: Mapping[int, Doubtful]) -> Doubtful:
        """Hidden states that may be wrong, as possible ones, so that what follows from a wrong one has a bound.

        No state is larger than 1 and the first one. One that is will be found to be wrong by its own step.
        """
        if not self.fed_back:
            return known
        most = 1.001 * max(1.0, begun[0].size.max(initial=0) if 0 in begun else 0.0)
        return Doubtful(np.nan_to_num(np.clip(known.value, -most, most)), known.error)

    def _step(self, given: Terms, h: Doubtful, c: Doubtful, own: Parameters) -> tuple[Doubtful, Doubtful]:
        """The next state.

        Args:
            given: what the input adds, (N, G · hidden).
            h: the hidden state, (N, hidden).
            c: the cell.
            own: the direction's parameters; `bias` is the recurrence's.
        """
        raise NotImplementedError

    def _terms(self, own: Parameters) -> int:
        """How many terms an activation's argument has: products, two biases and a peephole."""
        return own["weight"].shape[-1] + self.hidden + 3

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        right = ", ".join(self.gates)
        for order in self.other_orders:
            told = ", ".join(order)
            written, read = [self.gates.index(gate) for gate in order], [order.index(gate) for gate in self.gates]
            for moved, what in (
                (written, f"the gates are in the order {told}, not {right}"),
                (read, f"the gates {right} are read as {told}"),
            ):
                if moved is written or read != written:
                    others = {kind: self._moved(kind, array, moved) for kind, array in seen.parameters.items()}
                    yield what, exchanged(seen, **others)
        if "bias" in seen.parameters:
            ours, theirs = np.split(seen.parameters["bias"], 2, axis=-1)
            for bias, what in (
                ([ours, 0 * theirs], "the recurrence's bias is missing"),
                ([0 * ours, theirs], "the input's bias is missing"),
                ([0 * ours, 0 * theirs], "both biases are missing"),
                ([ours, ours], "the recurrence's bias is the input's"),
            ):
                yield what, exchanged(seen, bias=np.concatenate(bias, axis=-1))
        yield from self._mistakes_of_direction(seen)
        x, *states = seen.inputs[: 1 + len(self.states)]
        rest = seen.inputs[1 + len(self.states) :]
        if states:
            begun = [x, *(0 * state for state in states), *rest]
            yield "it begins with zeros, not with the state that is given", exchanged(seen, None, begun)
        if len(states) == 2:
            begun = [x, *states[::-1], *rest]
            yield "the first hidden state and the first cell are exchanged", exchanged(seen, None, begun)
        recurrence = seen.parameters["recurrence"]
        blocks = recurrence.reshape(len(recurrence), len(self.gates), self.hidden, self.hidden)
        turned = blocks.swapaxes(-1, -2).reshape(recurrence.shape)
        yield "the recurrence's weights are transposed", exchanged(seen, recurrence=turned)

    def _mistakes_of_direction(self, seen: Observation) -> Iterator[Hypothesis]:
        if len(self.backwards) == 1:
            turned = replace(self, backwards=(not self.backwards[0],))
            yield "it runs in the other direction of time", exchanged(seen, turned)
            return
        swapped = {kind: array[::-1] for kind, array in seen.parameters.items()}
        yield "the weights of the two directions are exchanged", exchanged(seen, **swapped)
        yield "both directions run forwards", exchanged(seen, replace(self, backwards=(False, False)))

    def _moved(self, kind: str, array: np.ndarray, order: Sequence[int]) -> np.ndarray:
        """Parameters with their gates in another order; those of peepholes stay."""
        if kind == "peepholes":
            return array
        halves = 2 if kind == "bias" else 1
        blocks = array.reshape(len(array), halves, len(self.gates), self.hidden, -1)
        return blocks[:, :, order].reshape(array.shape)


@reads("LSTM")
@dataclass(frozen=True)
class LSTM(Recurrent):
    """With i, o and f the sigmoids, and g the hyperbolic tangent, of W x + R h + b: c' = f · c + i · g,
    h' = o · tanh(c'). With `peepholes` P (D, 3 · hidden), i and f also add P · c, and o adds P · c'.

    Source: Hochreiter and Schmidhuber 1997; Gers et al. 2000; ONNX LSTM.
    """

    gates: ClassVar[str] = "iofg"
    other_orders: ClassVar[Sequence[str]] = ("ifgo", "igfo", "ifog")
    """Of PyTorch, Keras and cuDNN; of TensorFlow 1; of Core ML."""
    activations: ClassVar[Sequence[str]] = ("sigmoid", "tanh", "tanh")

    def _step(self, given: Terms, h: Doubtful, c: Doubtful, own: Parameters) -> tuple[Doubtful, Doubtful]:
        """The arguments are sums of products; all else is two products and a sum, and a product."""
        size, count = self.hidden, self._terms(own)
        i, o, f, g = (given + Terms.of(h, own["recurrence"], own["bias"])).split(size, 2 * size, 3 * size)
        of_i, of_o, of_f = np.split(own.get("peepholes", np.zeros(3 * size)), 3)
        i, f = (gate + Terms.product(c.times(Doubtful(part, 0 * part))) for gate, part in ((i, of_i), (f, of_f)))
        kept = f.summed(count).sigmoid(shader=self.shader).times(c)
        c = kept.plus(i.summed(count).sigmoid(shader=self.shader).times(g.summed(count).tanh(shader=self.shader)))
        o = o + Terms.product(c.times(Doubtful(of_o, 0 * of_o)))
        return o.summed(count).sigmoid(shader=self.shader).times(c.tanh(shader=self.shader)), c

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        yield from super().mistakes(seen)
        if self.result:
            told = "the last cell is returned, not the hidden state", "the last hidden state is returned, not the cell"
            yield told[self.result - 1], exchanged(seen, replace(self, result=3 - self.result))
        if "bias" in seen.parameters:
            more = np.zeros(8 * self.hidden, np.float32)
            more[2 * self.hidden : 3 * self.hidden] = 1
            yield "1 is added to the forget gate's bias", exchanged(seen, bias=seen.parameters["bias"] + more)


@reads("GRU")
@dataclass(frozen=True)
class GRU(Recurrent):
    """With z and r the sigmoids of W x + R h + b, and n the hyperbolic tangent of W x + b + R (r · h) + b', or, with
    `reset_after`, of W x + b + r · (R h + b'): h' = (1 − z) · n + z · h.

    Source: Cho et al. 2014, equations 5 to 8; ONNX GRU.
    """

    reset_after: bool = False

    gates: ClassVar[str] = "zrn"
    other_orders: ClassVar[Sequence[str]] = ("rzn", "znr", "nzr", "rnz")
    activations: ClassVar[Sequence[str]] = ("sigmoid", "tanh")

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Found:
        found = super().from_onnx(node)
        assert isinstance(found.operation, GRU)
        after = bool(node.attributes.get("linear_before_reset", 0))
        return replace(found, operation=replace(found.operation, reset_after=after))

    def _step(self, given: Terms, h: Doubtful, c: Doubtful, own: Parameters) -> tuple[Doubtful, Doubtful]:
        """The arguments are sums of products, of which one factor is rounded before; see also `_mixed`."""
        at, count = 2 * self.hidden, self._terms(own)
        (of_gates, of_n), (bias, bias_of_n) = np.split(own["recurrence"], [at]), np.split(own["bias"], [at])
        from_gates, from_n = given.split(at)
        z, r = (
            gate.summed(count).sigmoid(shader=self.shader)
            for gate in (from_gates + Terms.of(h, of_gates, bias)).split(self.hidden)
        )
        if self.reset_after:
            added = Terms.product(r.times(Terms.of(h, of_n, bias_of_n).summed(self.hidden + 1)))
        else:
            added = Terms.of(r.times(h), of_n, bias_of_n)
        return _mixed(z, (from_n + added).summed(count).tanh(shader=self.shader), h), c

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        when = "before" if self.reset_after else "after"
        other = replace(self, reset_after=not self.reset_after)
        yield f"the reset gate is applied {when} the recurrence's product", exchanged(seen, other)
        turned = {kind: array.copy() for kind, array in seen.parameters.items()}
        for array in turned.values():
            for first in range(0, array.shape[1], 3 * self.hidden):
                array[:, first : first + self.hidden] *= -1
        yield "z and 1 − z are exchanged", exchanged(seen, **turned)
        yield from super().mistakes(seen)


def _mixed(z: Doubtful, n: Doubtful, h: Doubtful) -> Doubtful:
    """(1 − z) n + z h, which is also computed as z (h − n) + n.

    ẑ, n̂ and ĥ change it by (1 − z) (n̂ − n) + z (ĥ − h) + (ẑ − z) (ĥ − n̂). Of each of the two ways, three roundings
    change z |h| + (1 + z) |n| at most.
    """
    value = n.value + z.value * (h.value - n.value)
    apart = np.abs(h.value - n.value) + h.error + n.error
    moved = np.abs(1 - z.value) * n.error + z.value * h.error + z.error * apart
    rounding = gamma(3) * (z.size * h.size + (1 + z.size) * n.size)
    return Doubtful(value, moved + rounding + 3 * SMALLEST_NORMAL)
