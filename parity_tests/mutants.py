"""Porting mistakes, injected on purpose into the implementations, to test the prover.

A mutant is one edit of one source file of one implementation. The mutated sources are executed as modules of their own;
nothing on disk changes.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

from common.parity.judge import LayerVerdict, first_divergence, judge, judge_structure
from common.probes import Probe
from common.specs import get_spec

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Mutant:
    """One mistake: in `package/file`, one occurrence of `old` becomes `new`; `layer` is the first that it changes."""

    package: str
    file: str
    mistake: str
    old: str
    new: str
    layer: str
    cause: str
    """What the harness must say it is."""
    architecture: str = "alexnet_bvlc"
    occurrence: int = 0
    """Which occurrence of `old` is replaced, counted from 0."""

    def __str__(self) -> str:
        return f"{self.package}: {self.mistake}"


_torch = partial(Mutant, "torch_impl", "alexnet.py")
_keras = partial(Mutant, "keras_impl", "alexnet.py")
_keras_layers = partial(Mutant, "keras_impl", "layers.py")
_tf1 = partial(Mutant, "tf1_style_impl", "alexnet.py")
_tf1_layers = partial(Mutant, "tf1_style_impl", "layers.py")

MUTANTS = [
    _torch("conv1 stride 3", "stride=4", "stride=3", "conv1", "as if the stride is 3"),
    _tf1("conv1 stride 5", "stride=4", "stride=5", "conv1", "as if the stride is 5"),
    _keras(
        "conv1 padded SAME",
        "strides=4, name",
        'strides=4, padding="same", name',
        "conv1",
        "as if the padding is TensorFlow's SAME",
    ),
    _torch(
        "conv2 without padding", "kernel_size=5, padding=2", "kernel_size=5", "conv2", "as if the padding is missing"
    ),
    _tf1("conv2 padding 1", "5, 256, padding=2", "5, 256, padding=1", "conv2", "as if the padding is 1"),
    _keras(
        "conv2 without groups",
        'groups=2, name="conv2"',
        'name="conv2"',
        "conv2",
        "conv2/weight has shape 256×96×5×5, expected 256×48×5×5",
    ),
    _torch(
        "conv4 without bias",
        "384, 384, kernel_size=3,",
        "384, 384, kernel_size=3, bias=False,",
        "conv4",
        "conv4/bias is missing",
    ),
    _tf1_layers("bias forgotten", "bias_add(y, biases", "bias_add(y, 0 * biases", "conv1", "the bias is missing"),
    _tf1_layers(
        "groups swapped",
        "nn.conv2d(x,",
        "nn.conv2d(tf.roll(x, x.shape[3] // groups, 3),",
        "conv2",
        "the groups' inputs are swapped",
    ),
    _torch("LRN alpha divided by 5 twice", "alpha=1e-4", "alpha=2e-5", "norm1", "alpha is divided by the size twice"),
    _tf1("LRN alpha not divided by 5", "alpha=2e-5", "alpha=1e-4", "norm1", "alpha is not divided by the size"),
    _keras("LRN alpha 1e-5", "alpha=1e-4", "alpha=1e-5", "norm1", "alpha is ten times too small"),
    _torch("second LRN's alpha", "alpha=1e-4", "alpha=5e-4", "norm2", "alpha is not divided by the size", occurrence=1),
    _tf1("LRN size as radius", "radius=2", "radius=5", "norm1", "the size is taken for a radius"),
    _torch("LRN k 2", "k=1.0", "k=2.0", "norm1", "k is 2"),
    _keras("LRN beta 0.5", "beta=0.75", "beta=0.5", "norm1", "beta is 0.5"),
    _keras_layers(
        "LRN window one channel off",
        "(radius, radius)",
        "(radius - 1, radius + 1)",
        "norm1",
        "the window is +1 channel off",
    ),
    _keras("pool1 2×2", "MaxPooling2D(3, strides=2", "MaxPooling2D(2, strides=2", "pool1", "the window is 2×2"),
    _torch(
        "average instead of maximum",
        "pool2=nn.MaxPool2d",
        "pool2=nn.AvgPool2d",
        "pool2",
        "the average is taken, not the maximum",
    ),
    _tf1_layers(
        "pools padded SAME",
        "strides=stride, padding=pads, name",
        'strides=stride, padding="SAME", name',
        "pool1",
        "as if the padding is TensorFlow's SAME",
    ),
    _tf1_layers(
        "flatten C, H, W",
        "reshape(x, [",
        "reshape(tf.transpose(x, [0, 3, 1, 2]), [",
        "flatten",
        "the order is C, H, W, not H, W, C",
    ),
    _tf1_layers(
        "flatten W, H, C",
        "reshape(x, [",
        "reshape(tf.transpose(x, [0, 2, 1, 3]), [",
        "flatten",
        "the order is W, H, C, not H, W, C",
    ),
    _keras(
        "fc7 of 4097 units",
        'Dense(4096, name="fc7")',
        'Dense(4097, name="fc7")',
        "fc7",
        "fc7 has shape 4097, expected 4096",
    ),
    _torch("ReLU forgotten", "relu6=nn.ReLU()", "relu6=nn.Identity()", "relu6", "the ReLU is missing"),
    _keras(
        "leaky ReLU", 'ReLU(name="relu3")', 'LeakyReLU(0.01, name="relu3")', "relu3", "the ReLU is leaky, slope 0.01"
    ),
    _tf1_layers(
        "dropout active",
        "rate=1.0 - keep_prob",
        "rate=0.5 * keep_prob",
        "drop6",
        "dropout is active, and divides what it keeps by 0.5",
    ),
    _tf1_layers(
        "a constant rate",
        "rate=1.0 - keep_prob",
        "rate=0.25",
        "drop6",
        "dropout is active, and divides what it keeps by 0.75",
    ),
]


def _mutated_source(mutant: Mutant) -> str:
    parts = (ROOT / mutant.package / mutant.file).read_text().split(mutant.old)
    wanted = mutant.occurrence + 1
    assert len(parts) > wanted, f"{mutant}: {mutant.old!r} does not occur often enough in {mutant.file}"
    if mutant.package == "keras_impl" and mutant.file != "layers.py":
        return mutant.new.join(parts)  # the Sequential and the functional form alike
    return mutant.old.join(parts[:wanted]) + mutant.new + mutant.old.join(parts[wanted:])


def _execute(name: str, source: str) -> ModuleType:
    module = ModuleType(name)
    module.__file__ = f"<mutant of {name}>"
    exec(compile(source, module.__file__, "exec"), module.__dict__)
    return module


def judge_mutant(mutant: Mutant, probe: Probe) -> LayerVerdict | None:
    """Run a mutated implementation on a probe; return the first layer that diverges, or None if it survives."""
    backend = importlib.import_module(f"{mutant.package}.backend")
    family = get_spec(mutant.architecture).family
    name = f"{mutant.package}.{mutant.file.removesuffix('.py')}"
    original = importlib.import_module(name)
    sys.modules[name] = mutated = _execute(name, _mutated_source(mutant))
    try:
        if mutant.file == "layers.py":
            source = (ROOT / mutant.package / f"{family}.py").read_text()
            mutated = _execute(f"{mutant.package}.{family}", source)
    finally:
        sys.modules[name] = original
    builder = backend.BUILDERS[mutant.architecture]
    backend.BUILDERS[mutant.architecture] = getattr(mutated, builder.__name__)
    try:
        model = backend.build(mutant.architecture)
    finally:
        backend.BUILDERS[mutant.architecture] = builder
    spec = get_spec(mutant.architecture)
    verdicts = judge_structure(spec, *backend.structure(model))
    if not verdicts:
        backend.load_weights(model, probe.weights)
        verdicts = judge(spec, probe, backend.record(model, probe.image, probe.injected))
    return first_divergence(verdicts)
