"""How a network is trained: stochastic gradient descent with momentum, weight decay and a falling learning rate."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import TriptychError
from common.operations import BatchNorm, Dense, Dropout, ReLU, Shape
from common.specs.architecture import IMAGE, Architecture, Preprocessing
from common.specs.seeded import seeded_generator

AUGMENTATIONS = ("crop", "flip", "colour")
"""Random crops, horizontal flips and shifts along the colours' principal components (see `common.training.batches`).

Source: section 4.1 of Krizhevsky et al. 2012.
"""


@dataclass(frozen=True)
class Recipe:
    """The numbers of a training; momentum and weight decay are AlexNet's.

    With learning rate ε, momentum µ and decay λ, a step is v ← µ·v + (∂L/∂w + λ·w), w ← w − ε·v, starting from v = 0.
    Only what is called `weight` decays: no bias, and no gamma or beta. The loss is the mean cross-entropy of a batch,
    plus `common.operations.loss.AUXILIARY_WEIGHT` times that of each auxiliary head.

    The paper has ε inside v, as Caffe and Keras do. That is the same until ε changes; then v there still holds the
    larger rate for some ten steps. Here it does not, as in PyTorch and `tf.train.MomentumOptimizer`.

    Source: section 5 of Krizhevsky et al. 2012.
    """

    epochs: int = 8
    batch_size: int = 16
    learning_rate: float = 0.01
    milestones: tuple[int, ...] | None = None
    """Epochs (from 0) at whose beginning the rate is divided by ten; by default at two thirds and at eight ninths."""
    momentum: float = 0.9
    weight_decay: float = 5e-4
    dropout: bool = True
    augment: tuple[str, ...] = ("crop",)
    """Any of `AUGMENTATIONS`."""
    preprocessing: Preprocessing | None = None
    """The preprocessing of the weights that it starts from, if not the specification's."""
    seed: int = 0

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {value}, expected {expected}"
            for name, value, expected, wrong in (
                ("epochs", self.epochs, "at least 1", self.epochs < 1),
                ("batch_size", self.batch_size, "at least 1", self.batch_size < 1),
                ("learning_rate", self.learning_rate, "a positive number", not 0 < self.learning_rate < np.inf),
                ("momentum", self.momentum, "from 0 to below 1", not 0 <= self.momentum < 1),
                ("weight_decay", self.weight_decay, "0 or a positive number", not 0 <= self.weight_decay < np.inf),
                ("augment", self.augment, f"any of {', '.join(AUGMENTATIONS)}", {*self.augment} - {*AUGMENTATIONS}),
            )
            if wrong
        ]
        if problems:
            raise TriptychError("; ".join(problems))

    def learning_rate_at(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        milestones = self.milestones
        if milestones is None:
            milestones = (self.epochs * 2 // 3, self.epochs * 8 // 9)
        return self.learning_rate / 10 ** sum(epoch >= milestone for milestone in milestones if milestone > 0)


def decays(parameter: str) -> bool:
    """Whether weight decay applies to a parameter, given its canonical name."""
    return parameter.endswith("/weight")


def keep_prob(spec: Architecture) -> float:
    """The probability with which the dropout before the classifier keeps a value while training; 1 without one."""
    rates = [layer.operation.rate for layer in spec.layers if isinstance(layer.operation, Dropout)]
    return 1 - rates[-1] if rates else 1.0


PIXEL_MEAN, PIXEL_DEVIATION = 112.0, 64.0
"""Mean and standard deviation of the pixels of photographs, roughly."""


CLASSIFIER = 0.1
"""The factor of the last kernel of each head, relative to a usual initialisation, so that no class is preferred at
first."""

WIDTH = 512
"""How many units of mean square 1 a dense layer's output is like, at most."""


def starting_weights(spec: Architecture, seed: int) -> dict[str, np.ndarray]:
    """Weights to start a training from, float32, canonical: the same for every framework.

    `he_weights`, but that training starts with probabilities that are nearly equal, a loss of ln(classes), and that the
    first steps do not throw it far from there. The last kernel of each head is `CLASSIFIER` times as large. And a step
    changes a logit by the rate, times what is wrong with its probability, times Σ x² of what the classifier reads: for
    AlexNet's 4096 units that is 41 at a rate of 0.01. Where a ReLU follows a dense layer wider than `WIDTH`, its kernel
    has as much less variance as it is wider.
    """
    weights = he_weights(spec, seed)
    rectified = {layer.inputs[0] for layer in spec.layers if isinstance(layer.operation, ReLU)}
    for layer in spec.layers:
        kernel = f"{layer.name}/weight"
        if layer.name in spec.outputs.values():
            weights[kernel] *= np.float32(CLASSIFIER)
        elif isinstance(layer.operation, Dense) and layer.name in rectified:
            weights[kernel] *= np.float32(np.sqrt(min(1.0, WIDTH / len(weights[kernel]))))
    return weights


def he_weights(spec: Architecture, seed: int) -> dict[str, np.ndarray]:
    """Weights that keep activations of one size, float32, canonical.

    Kernels are normal with variance 2 / fan-in, which supposes inputs whose mean square is 1; those that read the image
    are divided by its root mean square. Biases, beta and mean are 0, gamma and variance 1; the coefficients of LeNet's
    sub-sampling make it a mean.

    Source: section 2.2 of He et al. 2015, Delving Deep into Rectifiers.
    """
    image = _image_factors(spec)
    weights = {}
    for layer in spec.layers:
        for kind, shape in layer.operation.parameter_shapes(*spec.input_shapes(layer)).items():
            name = f"{layer.name}/{kind}"
            if kind == "weight" and layer.operation.kind == "SubSampling":
                weights[name] = np.full(shape, 0.25, np.float32)
            elif kind == "weight":
                deviation = np.sqrt(2 / np.prod(shape[1:])) * image.get(name, 1.0)
                values = seeded_generator(seed, name).standard_normal(shape, dtype=np.float32)
                weights[name] = values * np.float32(deviation)
            else:
                weights[name] = np.full(shape, 1 if kind in ("gamma", "variance") else 0, np.float32)
    return weights


def kernel_factors(spec: Architecture, there: Collection[str]) -> dict[str, float]:
    """What `build` multiplies those kernels by that are there, initialised by the framework, by canonical name.

    As in `starting_weights`: those that read the image, and the last of each head. All between them is smaller by
    PyTorch's and by Glorot's rule than by He's.
    """
    factors = _image_factors(spec) | {f"{layer}/weight": CLASSIFIER for layer in spec.outputs.values()}
    # A layer that is missing, or has another name, is the proof's to tell.
    return {name: factor for name, factor in factors.items() if name in there}


def _image_factors(spec: Architecture) -> dict[str, float]:
    """The inverse of the root mean square that pixels have after preprocessing, for each kernel that reads the image.

    Not so before a batch normalisation, which does that itself: with respect to a kernel r times smaller its gradients
    are r times larger, so that each step would turn the kernel r² times as far.
    """
    normalised = {layer.inputs[0] for layer in spec.layers if isinstance(layer.operation, BatchNorm)}
    recipe = spec.preprocessing
    factor = recipe.scale[0] / float(np.hypot(PIXEL_DEVIATION, PIXEL_MEAN - recipe.mean[0]))
    return {
        f"{layer.name}/weight": factor
        for layer in spec.layers
        if IMAGE in layer.inputs and layer.name not in normalised and layer.operation.parameter_shapes(spec.input_shape)
    }


def trained_spec(
    architecture: str, input_shape: Sequence[int], shapes: Mapping[str, Shape], parameter_shapes: Mapping[str, Shape]
) -> Architecture:
    """The specification of a model that is at hand, its number of classes and its image size included.

    Args:
        architecture: the model's name in the catalogue.
        input_shape: (C, H, W).
        shapes: of its layers' outputs, by canonical name.
        parameter_shapes: by canonical name.

    Raises:
        TriptychError: the model ends in a softmax.
    """
    from common.specs import get_spec

    if "softmax" in shapes:
        raise TriptychError(
            f"this {architecture} ends in a softmax, but a training takes the cross-entropy of logits; build it without"
        )
    classes = parameter_shapes[f"{get_spec(architecture).outputs['logits']}/weight"][0]
    height, width = input_shape[1:]
    return get_spec(architecture, num_classes=classes, image_size=(height, width))
