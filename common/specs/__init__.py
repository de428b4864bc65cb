"""The catalogue: every architecture by name."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from functools import cache

from common.errors import TriptychError, nearest
from common.specs import (
    alexnet,
    alexnet_tutorial,
    alexnet_variants,
    densenet,
    googlenet,
    googlenet_tutorial,
    lenet,
    resnet,
    vgg,
)
from common.specs.architecture import Architecture

CATALOGUE: dict[str, Callable[..., Architecture]] = {
    "lenet5": lenet.lenet5,
    "lenet5_sparse": lenet.lenet5_sparse,
    "lenet_caffe": lenet.lenet_caffe,
    "lenet_bvlc": lenet.lenet_bvlc,
    "alexnet_bvlc": alexnet.alexnet_bvlc,
    "caffenet": alexnet.caffenet,
    "alexnet_paper": alexnet.alexnet_paper,
    "alexnet_tf_tutorial": alexnet_tutorial.alexnet_tf_tutorial,
    "alexnet_single_tower": alexnet_variants.alexnet_single_tower,
    "alexnet_four_conv": alexnet_variants.alexnet_four_conv,
    "alexnet_mnist": alexnet_variants.alexnet_mnist,
    "alexnet_d2l": alexnet_variants.alexnet_d2l,
    "alexnet_owt": alexnet_variants.alexnet_owt,
    "vgg11": vgg.vgg11,
    "vgg13": vgg.vgg13,
    "vgg16": vgg.vgg16,
    "vgg19": vgg.vgg19,
    "vgg11_bn": vgg.vgg11_bn,
    "vgg13_bn": vgg.vgg13_bn,
    "vgg16_bn": vgg.vgg16_bn,
    "vgg19_bn": vgg.vgg19_bn,
    "vgg16_gap": vgg.vgg16_gap,
    "vgg19_gap": vgg.vgg19_gap,
    "googlenet": googlenet.googlenet,
    "googlenet_tutorial": googlenet_tutorial.googlenet_tutorial,
    "googlenet_bn": googlenet.googlenet_bn,
    "resnet18": resnet.resnet18,
    "resnet34": resnet.resnet34,
    "resnet50": resnet.resnet50,
    "resnet101": resnet.resnet101,
    "resnet152": resnet.resnet152,
    "resnet50_v1_5": resnet.resnet50_v1_5,
    "resnet101_v1_5": resnet.resnet101_v1_5,
    "resnet152_v1_5": resnet.resnet152_v1_5,
    "resnet18_tutorial": resnet.resnet18_tutorial,
    "resnet34_tutorial": resnet.resnet34_tutorial,
    "resnet50_tutorial": resnet.resnet50_tutorial,
    "resnet101_tutorial": resnet.resnet101_tutorial,
    "resnet152_tutorial": resnet.resnet152_tutorial,
    "densenet121": densenet.densenet121,
    "densenet161": densenet.densenet161,
    "densenet169": densenet.densenet169,
    "densenet201": densenet.densenet201,
}


def list_architectures(pattern: str = "*") -> list[str]:
    """The names in the catalogue that match a shell-style pattern, such as `alexnet*`, in catalogue order."""
    return [name for name in CATALOGUE if fnmatch.fnmatchcase(name, pattern)]


def matching(patterns: Sequence[str]) -> list[str]:
    """The names in the catalogue that match any of the patterns, in catalogue order.

    Raises:
        TriptychError: nothing matches one of them.
    """
    found = set()
    for pattern in patterns:
        matches = list_architectures(pattern)
        if not matches:
            raise TriptychError(f"no architecture matches {pattern!r}; {nearest(pattern, CATALOGUE)}")
        found.update(matches)
    return [name for name in CATALOGUE if name in found]


def get_spec(name: str, *, num_classes: int | None = None, image_size: tuple[int, int] | None = None) -> Architecture:
    """The specification of a network.

    Args:
        name: a name that `list_architectures` gives.
        num_classes: the number of logits; the paper's by default.
        image_size: (height, width) in pixels; the paper's by default.

    Raises:
        TriptychError: the name is unknown, or the network cannot take that many classes or that image size.
    """
    if name not in CATALOGUE:
        raise TriptychError(f"there is no architecture {name!r}; {nearest(name, CATALOGUE)}")
    if num_classes is not None and num_classes < 1:
        raise TriptychError(f"{name}: num_classes is {num_classes}, but a network needs at least one class")
    if image_size is not None and (len(image_size) != 2 or min(image_size) < 1):
        raise TriptychError(f"{name}: image_size is {image_size}, expected a positive (height, width)")
    return _built(name, num_classes, image_size and tuple(image_size))


@cache
def _built(name: str, num_classes: int | None, image_size: tuple[int, int] | None) -> Architecture:
    """Specifications are immutable, so each is made once. A foreign file is compared with all of them."""
    options = {"num_classes": num_classes, "image_size": image_size}
    return CATALOGUE[name](**{option: value for option, value in options.items() if value is not None})
