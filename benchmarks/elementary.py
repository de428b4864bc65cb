"""How well each library computes elementary functions, in units of u = 2^-24, on ten million numbers and more.

Run it with `.venv/bin/python -m benchmarks.elementary [NUMBERS]`. Half of the numbers are drawn evenly from where the
function bends, half evenly from the bit patterns of float32 in that range, so that small ones are among them. The first
figure is the largest error ÷ |y|; in brackets the largest error ÷ bound of the function's operation in
`common/operations`, whose allowances are `ELEMENTARY_ULP` and `ERF_ULP`. What is not installed is left out.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from benchmarks.measuring import table
from common.operations.activations import Sigmoid
from common.operations.operation import Operation
from common.operations.rounding import UNIT_ROUNDOFF
from common.operations.smooth import GELU, Erf, Exp, Log, Swish, Tanh

RANGES = {
    "exp": (-80, 80),
    "log": (1e-30, 1e30),
    "tanh": (-12, 12),
    "erf": (-5, 5),
    "sigmoid": (-30, 30),
    "silu": (-30, 30),
    "gelu": (-8, 8),
    "gelu-tanh": (-8, 8),
    "rsqrt": (1e-30, 1e30),
    "pow": (1e-20, 1e20),
}
OPERATIONS: dict[str, Operation] = {
    "exp": Exp(),
    "log": Log(),
    "tanh": Tanh(),
    "erf": Erf(),
    "sigmoid": Sigmoid(),
    "silu": Swish(),
    "gelu": GELU(),
    "gelu-tanh": GELU(approximate=True),
}
POWER = 0.75
"""As in a local response normalisation."""

Functions = dict[str, Callable[[np.ndarray], np.ndarray]]


def numbers(name: str, count: int) -> np.ndarray:
    low, high = RANGES[name]
    generator = np.random.default_rng(0)
    if low > 0:
        return np.exp(generator.uniform(np.log(low), np.log(high), count)).astype(np.float32)
    evenly = generator.uniform(low, high, count // 2).astype(np.float32)
    largest = np.float32(high).view(np.uint32)
    by_bits = generator.integers(np.float32(1e-30).view(np.uint32), largest, count - len(evenly), dtype=np.uint32)
    return np.concatenate([evenly, by_bits.view(np.float32) * generator.choice(np.float32([-1, 1]), len(by_bits))])


def torch_functions(compiled: bool) -> Functions:
    import torch
    from torch.nn import functional

    functions: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        **{name: getattr(torch, name) for name in ("exp", "log", "tanh", "erf", "sigmoid", "rsqrt")},
        "silu": functional.silu,
        "gelu": functional.gelu,
        "gelu-tanh": lambda x: functional.gelu(x, approximate="tanh"),
        "pow": lambda x: torch.pow(x, POWER),
    }

    def wrapped(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[np.ndarray], np.ndarray]:
        run = torch.compile(function, dynamic=False) if compiled else function
        return lambda x: run(torch.from_numpy(x)).numpy()

    return {name: wrapped(function) for name, function in functions.items()}


def onnx_functions() -> Functions:
    import onnxruntime
    from onnx import TensorProto, helper

    nodes = {
        **{name: (name.capitalize(), {}) for name in ("exp", "log", "tanh", "erf", "sigmoid", "gelu")},
        "gelu-tanh": ("Gelu", {"approximate": "tanh"}),
    }

    def wrapped(kind: str, attributes: dict[str, str]) -> Callable[[np.ndarray], np.ndarray]:
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in "xy"]
        graph = helper.make_graph([helper.make_node(kind, ["x"], ["y"], **attributes)], "g", values[:1], values[1:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return lambda x: session.run(None, {"x": x})[0]

    return {name: wrapped(*node) for name, node in nodes.items()}


def tensorflow_functions(compiled: bool) -> Functions:
    import tensorflow as tf

    functions = {
        **{name: getattr(tf.math, name) for name in ("exp", "log", "tanh", "erf", "sigmoid", "rsqrt")},
        "silu": tf.nn.silu,
        "gelu": tf.nn.gelu,
        "gelu-tanh": lambda x: tf.nn.gelu(x, approximate=True),
        "pow": lambda x: tf.pow(x, POWER),
    }

    def wrapped(function: Callable[[Any], Any]) -> Callable[[np.ndarray], np.ndarray]:
        run = tf.function(function, jit_compile=True) if compiled else function
        return lambda x: run(tf.constant(x)).numpy()

    return {name: wrapped(function) for name, function in functions.items()}


def jax_functions() -> Functions:
    import jax

    functions = {
        "exp": jax.numpy.exp,
        "log": jax.numpy.log,
        "tanh": jax.numpy.tanh,
        "erf": jax.scipy.special.erf,
        "sigmoid": jax.nn.sigmoid,
        "rsqrt": jax.lax.rsqrt,
        "silu": jax.nn.silu,
        "gelu": lambda x: jax.nn.gelu(x, approximate=False),
        "gelu-tanh": jax.nn.gelu,
        "pow": lambda x: jax.numpy.power(x, POWER),
    }

    def wrapped(function: Callable[[Any], Any]) -> Callable[[np.ndarray], np.ndarray]:
        run = jax.jit(function)
        return lambda x: np.asarray(run(x))

    return {name: wrapped(function) for name, function in functions.items()}


LIBRARIES: dict[str, tuple[str, Callable[[], Functions]]] = {
    "PyTorch": ("torch", lambda: torch_functions(False)),
    "torch.compile": ("torch", lambda: torch_functions(True)),
    "ONNX Runtime": ("onnxruntime", onnx_functions),
    "TensorFlow": ("tensorflow", lambda: tensorflow_functions(False)),
    "TensorFlow, XLA": ("tensorflow", lambda: tensorflow_functions(True)),
    "JAX": ("jax", jax_functions),
}


def right(name: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The value in float64 and, if an operation has it, its bound."""
    if name == "rsqrt":
        return x.astype(np.float64) ** -0.5, None
    if name == "pow":
        return x.astype(np.float64) ** POWER, None
    reference = OPERATIONS[name].reference([x], {})
    return reference.value, reference.bound


def measured(functions: Functions, count: int) -> Iterator[str]:
    for name in RANGES:
        if name not in functions:
            yield "–"
            continue
        most = ratio = 0.0
        for x in np.array_split(numbers(name, count), max(count // 1_000_000, 1)):
            value, bound = right(name, x)
            error = np.abs(functions[name](x) - value)
            normal = np.abs(value) > 2.0**-126
            most = max(most, float((error[normal] / np.abs(value[normal])).max()) / UNIT_ROUNDOFF)
            ratio = max(ratio, 0.0 if bound is None else float((error / bound).max()))
        yield f"{most:.3g}" + (f" ({ratio:.2f})" if ratio else "")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    rows = {
        library: list(measured(make(), count))
        for library, (package, make) in LIBRARIES.items()
        if importlib.util.find_spec(package)
    }
    lines = [(name, *(cells[place] for cells in rows.values())) for place, name in enumerate(RANGES)]
    print(table(("function", *rows), lines))


if __name__ == "__main__":
    main()
