"""How others name and lay out the parameters of the catalogue's networks."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from common.names import keras_layer, layer_of, tf1_layer, torch_layer
from common.specs import list_architectures
from common.specs.architecture import Architecture, BatchNorm, Flatten, Preprocessing
from common.specs.resnet import CAFFE as MINUS_MEAN
from common.specs.resnet import TORCHVISION as STANDARDISED

Rule = tuple[str, str | Callable[[re.Match[str]], str]]
"""A pattern of canonical layer names, and what replaces it."""


@dataclass(frozen=True)
class Convention:
    """One way to spell a network's parameters: their name of the layer, a separator, their name of the parameter."""

    name: str
    architectures: tuple[str, ...]
    """Those that are published in it; others only if the user says so."""
    layer: Callable[[Architecture, str], str]
    """Their name of a canonical layer."""
    batch_norm: Mapping[str, str] = field(default_factory=dict)
    """Their names of a batch normalisation's parameters, where those are not the canonical ones."""
    affine: tuple[str, str] = (r"(?!)", "")
    """What to replace in a layer's name for gamma and beta, where those belong to a layer of their own."""
    separator: str = "/"
    channels_last: bool = False
    batch_norm_eps: float | None = None
    """Where it is not the specification's."""
    aliases: tuple[tuple[str, str], ...] = ()
    """Patterns of older spellings and their replacements."""
    ignored: str = r"(?!)"
    """A pattern of names that are no parameters of the network."""
    preprocessing: Mapping[str, Preprocessing] = field(default_factory=dict)
    """By family, where it is not the specification's."""

    def names(self, spec: Architecture) -> dict[str, str]:
        """Their name of each canonical parameter."""
        normalising = {layer.name for layer in spec.layers if isinstance(layer.operation, BatchNorm)}
        spelled = {layer: self.layer(spec, layer) for layer in map(layer_of, spec.parameter_shapes)}
        names = {}
        for parameter in spec.parameter_shapes:
            layer, kind = layer_of(parameter), parameter.rpartition("/")[2]
            owner = re.sub(*self.affine, spelled[layer]) if kind in ("gamma", "beta") else spelled[layer]
            kinds = self.batch_norm if layer in normalising else {}
            names[parameter] = f"{owner}{self.separator}{kinds.get(kind, kind)}"
        return names

    def normalised(self, name: str) -> str:
        """A name in the file, older spellings brought up to date."""
        for pattern, replacement in self.aliases:
            name = re.sub(pattern, replacement, name)
        return name

    def recipe(self, spec: Architecture) -> Preprocessing:
        """How the weights' owners turn a photograph into an image."""
        return self.preprocessing.get(spec.family, spec.preprocessing)


def _by_rules(*rules: Rule) -> Callable[[Architecture, str], str]:
    def layer(spec: Architecture, name: str) -> str:
        for pattern, replacement in rules:
            if match := re.fullmatch(pattern, name):
                return replacement(match) if callable(replacement) else match.expand(replacement)
        return name

    return layer


def _in_sequence(spec: Architecture, name: str) -> str:
    """torchvision's AlexNet and VGG, which number their layers: `features.3`, `classifier.6`."""
    names = [layer.name for layer in spec.layers]
    flatten = next(number for number, layer in enumerate(spec.layers) if isinstance(layer.operation, Flatten))
    number = names.index(name)
    return f"features.{number}" if number < flatten else f"classifier.{number - flatten - 1}"


_TORCHVISION = {
    "googlenet": _by_rules(
        (r"(conv|bn)1", r"conv1.\1"),
        (r"(conv|bn)2_reduce", r"conv2.\1"),
        (r"(conv|bn)2", r"conv3.\1"),
        (r"inception_(\d\w)/(conv|bn)1x1", r"inception\1.branch1.\2"),
        (r"inception_(\d\w)/(conv|bn)3x3_reduce", r"inception\1.branch2.0.\2"),
        (r"inception_(\d\w)/(conv|bn)3x3", r"inception\1.branch2.1.\2"),
        (r"inception_(\d\w)/(conv|bn)5x5_reduce", r"inception\1.branch3.0.\2"),
        (r"inception_(\d\w)/(conv|bn)5x5", r"inception\1.branch3.1.\2"),
        (r"inception_(\d\w)/pool_proj", r"inception\1.branch4.1.conv"),
        (r"inception_(\d\w)/bn_pool_proj", r"inception\1.branch4.1.bn"),
        (r"aux(\d)/conv", r"aux\1.conv.conv"),
        (r"aux(\d)/bn_conv", r"aux\1.conv.bn"),
        (r"aux(\d)/fc", r"aux\1.fc1"),
        (r"aux(\d)/classifier", r"aux\1.fc2"),
    ),
    "resnet": _by_rules(
        (r"conv(\d)_block(\d+)/shortcut_conv", lambda m: f"layer{int(m[1]) - 1}.{int(m[2]) - 1}.downsample.0"),
        (r"conv(\d)_block(\d+)/shortcut_bn", lambda m: f"layer{int(m[1]) - 1}.{int(m[2]) - 1}.downsample.1"),
        (r"conv(\d)_block(\d+)/(conv|bn)(\d)", lambda m: f"layer{int(m[1]) - 1}.{int(m[2]) - 1}.{m[3]}{m[4]}"),
    ),
    "densenet": _by_rules(
        (r"conv1", "features.conv0"),
        (r"bn1", "features.norm0"),
        (r"conv(\d)_block(\d+)/conv(\d)", lambda m: f"features.denseblock{int(m[1]) - 1}.denselayer{m[2]}.conv{m[3]}"),
        (r"conv(\d)_block(\d+)/bn(\d)", lambda m: f"features.denseblock{int(m[1]) - 1}.denselayer{m[2]}.norm{m[3]}"),
        (r"transition(\d)/conv", lambda m: f"features.transition{int(m[1]) - 1}.conv"),
        (r"transition(\d)/bn", lambda m: f"features.transition{int(m[1]) - 1}.norm"),
        (r"bn", "features.norm5"),
        (r"fc", "classifier"),
    ),
}


def _caffe_block(match: re.Match[str]) -> str:
    """`conv4_block7/conv2` → `res4g_branch2b`, or `res4b6_branch2b` where the blocks are more than the letters."""
    stage, number, what = match[1], int(match[2]), match[3]
    kind = {"conv": "res", "bn": "bn"}[re.sub(r"shortcut_|\d", "", what)]
    branch = "branch1" if what.startswith("shortcut_") else f"branch2{'abc'[int(what[-1]) - 1]}"
    return f"{kind}{stage}{{{number}}}_{branch}"


def _caffe_resnet(spec: Architecture, name: str) -> str:
    if name in ("conv1", "bn1", "fc"):
        return {"conv1": "conv1", "bn1": "bn_conv1", "fc": "fc1000"}[name]
    spelled = re.sub(r"conv(\d)_block(\d+)/(.+)", _caffe_block, name)
    # ResNet-50 letters its blocks; the deeper ones number those of stages 3 and 4: a, b1, b2, …
    lettered = spec.name == "resnet50" or spelled[re.search(r"\d", spelled).start()] in "25"  # type: ignore[union-attr]
    return re.sub(
        r"\{(\d+)\}",
        lambda m: "abcdef"[int(m[1]) - 1] if lettered or m[1] == "1" else f"b{int(m[1]) - 1}",
        spelled,
    )


_CAFFE = {
    "googlenet": _by_rules(
        (r"conv1", "conv1/7x7_s2"),
        (r"conv2_reduce", "conv2/3x3_reduce"),
        (r"conv2", "conv2/3x3"),
        (r"(inception_\d\w)/conv(\w+)", r"\1/\2"),
        (r"aux(\d)/(\w+)", r"loss\1/\2"),
        (r"fc", "loss3/classifier"),
    ),
    "resnet": _caffe_resnet,
}

_KERAS_APPLICATIONS = {
    "vgg": _by_rules((r"conv(\d)_(\d)", r"block\1_conv\2"), (r"fc6", "fc1"), (r"fc7", "fc2"), (r"fc8", "predictions")),
    "resnet": _by_rules(
        (r"(conv|bn)1", r"conv1_\1"),
        (r"(conv\d_block\d+)/shortcut_(conv|bn)", r"\1_0_\2"),
        (r"(conv\d_block\d+)/(conv|bn)(\d)", r"\1_\3_\2"),
        (r"fc", "predictions"),
    ),
    "densenet": _by_rules(
        (r"(conv|bn)1", r"conv1_\1"),
        (r"(conv\d_block\d+)/bn(\d)", lambda m: f"{m[1]}_{int(m[2]) - 1}_bn"),
        (r"(conv\d_block\d+)/conv(\d)", r"\1_\2_conv"),
        (r"transition(\d)/(conv|bn)", r"pool\1_\2"),
        (r"fc", "predictions"),
    ),
}


def _by_family(
    rules: Mapping[str, Callable[[Architecture, str], str]],
) -> Callable[[Architecture, str], str]:
    return lambda spec, name: rules.get(spec.family, lambda spec, name: name)(spec, name)


ALL = tuple(list_architectures())
RELEASED = tuple(name for name in ALL if name not in ("alexnet_paper", "alexnet_tf_tutorial"))
"""Of networks with the same parameters, the one whose weights somebody released."""

_TORCH = {"gamma": "weight", "beta": "bias", "mean": "running_mean", "variance": "running_var"}

CONVENTIONS = {
    convention.name: convention
    for convention in (
        Convention("canonical", ALL, lambda spec, name: name),
        Convention("tensorflow", RELEASED, lambda spec, name: name, channels_last=True),
        Convention("tf1", ALL, lambda spec, name: tf1_layer(name), channels_last=True),
        Convention("keras", ALL, lambda spec, name: keras_layer(name), channels_last=True),
        Convention(
            "torch",
            ALL,
            lambda spec, name: torch_layer(name),
            batch_norm=_TORCH,
            separator=".",
            ignored=r".*\.num_batches_tracked",
        ),
        Convention(
            "torchvision",
            (
                *("alexnet_owt", "vgg11", "vgg13", "vgg16", "vgg19", "googlenet_bn", "resnet18", "resnet34"),
                *("resnet50_v1_5", "resnet101_v1_5", "resnet152_v1_5"),
                *("densenet121", "densenet161", "densenet169", "densenet201"),
            ),
            _by_family({"alexnet": _in_sequence, "vgg": _in_sequence} | _TORCHVISION),
            batch_norm=_TORCH,
            separator=".",
            aliases=((r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2."),),
            ignored=r".*\.num_batches_tracked",
            preprocessing={"vgg": STANDARDISED, "resnet": STANDARDISED},
        ),
        Convention(
            "keras.applications",
            ("vgg16", "vgg19", "resnet50", "resnet101", "resnet152", "densenet121", "densenet169", "densenet201"),
            _by_family(_KERAS_APPLICATIONS),
            channels_last=True,
            batch_norm_eps=1.001e-5,
            preprocessing={"vgg": MINUS_MEAN, "resnet": MINUS_MEAN, "densenet": STANDARDISED},
        ),
        Convention(
            "caffe",
            ("alexnet_bvlc", "vgg11", "vgg13", "vgg16", "vgg19", "googlenet", "resnet50", "resnet101", "resnet152"),
            _by_family(_CAFFE),
            affine=("^bn", "scale"),
        ),
    )
}
