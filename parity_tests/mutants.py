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
    _torch("conv1 stride 3", "stride=4", "stride=3", "conv1"),
    _tf1("conv1 stride 5", "stride=4", "stride=5", "conv1"),
    _keras("conv1 padded SAME", "strides=4, name", 'strides=4, padding="same", name', "conv1"),
    _torch("conv2 without padding", "kernel_size=5, padding=2", "kernel_size=5", "conv2"),
    _tf1("conv2 padding 1", "5, 256, padding=2", "5, 256, padding=1", "conv2"),
    _keras("conv2 without groups", 'groups=2, name="conv2"', 'name="conv2"', "conv2"),
    _torch("conv4 without bias", "384, 384, kernel_size=3,", "384, 384, kernel_size=3, bias=False,", "conv4"),
    _tf1_layers("bias forgotten", "bias_add(y, biases", "bias_add(y, 0 * biases", "conv1"),
    _tf1_layers("groups swapped", "nn.conv2d(x,", "nn.conv2d(tf.roll(x, x.shape[3] // groups, 3),", "conv2"),
    _torch("LRN alpha divided by 5 twice", "alpha=1e-4", "alpha=2e-5", "norm1"),
    _tf1("LRN alpha not divided by 5", "alpha=2e-5", "alpha=1e-4", "norm1"),
    _keras("LRN alpha 1e-5", "alpha=1e-4", "alpha=1e-5", "norm1"),
    _torch("second LRN's alpha", "alpha=1e-4", "alpha=5e-4", "norm2", occurrence=1),
    _tf1("LRN size as radius", "radius=2", "radius=5", "norm1"),
    _torch("LRN k 2", "k=1.0", "k=2.0", "norm1"),
    _keras("LRN beta 0.5", "beta=0.75", "beta=0.5", "norm1"),
    _keras_layers("LRN window one channel off", "(radius, radius)", "(radius - 1, radius + 1)", "norm1"),
    _keras("pool1 2×2", "MaxPooling2D(3, strides=2", "MaxPooling2D(2, strides=2", "pool1"),
    _torch("average instead of maximum", "pool2=nn.MaxPool2d", "pool2=nn.AvgPool2d", "pool2"),
    _tf1_layers(
        "pools padded SAME", "strides=stride, padding=pads, name", 'strides=stride, padding="SAME", name', "pool1"
    ),
    _tf1_layers("flatten C, H, W", "reshape(x, [", "reshape(tf.transpose(x, [0, 3, 1, 2]), [", "flatten"),
    _tf1_layers("flatten W, H, C", "reshape(x, [", "reshape(tf.transpose(x, [0, 2, 1, 3]), [", "flatten"),
    _keras("fc7 of 4097 units", 'Dense(4096, name="fc7")', 'Dense(4097, name="fc7")', "fc7"),
    _torch("ReLU forgotten", "relu6=nn.ReLU()", "relu6=nn.Identity()", "relu6"),
    _keras("leaky ReLU", 'ReLU(name="relu3")', 'LeakyReLU(0.01, name="relu3")', "relu3"),
    _tf1_layers("dropout active", "rate=1.0 - keep_prob", "rate=0.5 * keep_prob", "drop6"),
    _tf1_layers("a constant rate", "rate=1.0 - keep_prob", "rate=0.25", "drop6"),
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
