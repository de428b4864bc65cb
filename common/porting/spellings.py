"""How other projects name the layers of the catalogue's networks: from the canonical name to theirs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from common.operations import Flatten
from common.specs.architecture import Architecture

Rule = tuple[str, str | Callable[[re.Match[str]], str]]
"""A pattern of canonical layer names, and what replaces it."""


def by_rules(*rules: Rule) -> Callable[[Architecture, str], str]:
    def layer(spec: Architecture, name: str) -> str:
        for pattern, replacement in rules:
            if match := re.fullmatch(pattern, name):
                return replacement(match) if callable(replacement) else match.expand(replacement)
        return name

    return layer


def in_sequence(spec: Architecture, name: str) -> str:
    """torchvision's AlexNet and VGG, which number their layers: `features.3`, `classifier.6`."""
    names = [layer.name for layer in spec.layers]
    flatten = next(number for number, layer in enumerate(spec.layers) if isinstance(layer.operation, Flatten))
    number = names.index(name)
    return f"features.{number}" if number < flatten else f"classifier.{number - flatten - 1}"


TORCHVISION = {
    "googlenet": by_rules(
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
    "resnet": by_rules(
        (r"conv(\d)_block(\d+)/shortcut_conv", lambda m: f"layer{int(m[1]) - 1}.{int(m[2]) - 1}.downsample.0"),
        (r"conv(\d)_block(\d+)/shortcut_bn", lambda m: f"layer{int(m[1]) - 1}.{int(m[2]) - 1}.downsample.1"),
        (r"conv(\d)_block(\d+)/(conv|bn)(\d)", lambda m: f"layer{int(m[1]) - 1}.{int(m[2]) - 1}.{m[3]}{m[4]}"),
    ),
    "densenet": by_rules(
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


def caffe_resnet(spec: Architecture, name: str) -> str:
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


CAFFE = {
    "googlenet": by_rules(
        (r"conv1", "conv1/7x7_s2"),
        (r"conv2_reduce", "conv2/3x3_reduce"),
        (r"conv2", "conv2/3x3"),
        (r"(inception_\d\w)/conv(\w+)", r"\1/\2"),
        (r"aux(\d)/(\w+)", r"loss\1/\2"),
        (r"fc", "loss3/classifier"),
    ),
    "resnet": caffe_resnet,
}

KERAS_APPLICATIONS = {
    "vgg": by_rules((r"conv(\d)_(\d)", r"block\1_conv\2"), (r"fc6", "fc1"), (r"fc7", "fc2"), (r"fc8", "predictions")),
    "resnet": by_rules(
        (r"(conv|bn)1", r"conv1_\1"),
        (r"(conv\d_block\d+)/shortcut_(conv|bn)", r"\1_0_\2"),
        (r"(conv\d_block\d+)/(conv|bn)(\d)", r"\1_\3_\2"),
        (r"fc", "predictions"),
    ),
    "densenet": by_rules(
        (r"(conv|bn)1", r"conv1_\1"),
        (r"(conv\d_block\d+)/bn(\d)", lambda m: f"{m[1]}_{int(m[2]) - 1}_bn"),
        (r"(conv\d_block\d+)/conv(\d)", r"\1_\2_conv"),
        (r"transition(\d)/(conv|bn)", r"pool\1_\2"),
        (r"fc", "predictions"),
    ),
}


def old_vgg(spec: Architecture, name: str) -> str:
    """torchvision's VGG before 0.1.8, whose classifier begins with a dropout."""
    dense = {"fc6": "classifier.1", "fc7": "classifier.4", "fc8": "classifier.6"}
    return dense[name] if name in dense else in_sequence(spec, name)


def timm_vgg(spec: Architecture, name: str) -> str:
    """timm's VGG, whose dense layers are convolutions but for the last."""
    dense = {"fc6": "pre_logits.fc1", "fc7": "pre_logits.fc2", "fc8": "head.fc"}
    return dense[name] if name in dense else in_sequence(spec, name)


_IN_TRANSFORMERS = {"conv": "convolution", "bn": "normalization"}

TRANSFORMERS = by_rules(
    (r"conv1", "resnet.embedder.embedder.convolution"),
    (r"bn1", "resnet.embedder.embedder.normalization"),
    (
        r"conv(\d)_block(\d+)/shortcut_(conv|bn)",
        lambda m: f"resnet.encoder.stages.{int(m[1]) - 2}.layers.{int(m[2]) - 1}.shortcut.{_IN_TRANSFORMERS[m[3]]}",
    ),
    (
        r"conv(\d)_block(\d+)/(conv|bn)(\d)",
        lambda m: (
            f"resnet.encoder.stages.{int(m[1]) - 2}.layers.{int(m[2]) - 1}"
            f".layer.{int(m[4]) - 1}.{_IN_TRANSFORMERS[m[3]]}"
        ),
    ),
    (r"fc", "classifier.1"),
)


_OF_TENSORPACK = {"conv": "", "bn": "/bn"}

TENSORPACK = by_rules(
    (r"(conv|bn)1", lambda m: f"conv0{_OF_TENSORPACK[m[1]]}"),
    (
        r"conv(\d)_block(\d+)/(shortcut_)?(conv|bn)(\d?)",
        lambda m: f"group{int(m[1]) - 2}/block{int(m[2]) - 1}/conv{'shortcut' if m[3] else m[5]}{_OF_TENSORPACK[m[4]]}",
    ),
    (r"fc", "linear"),
)


def _slim_mixed(match: re.Match[str]) -> str:
    """`inception_4d/conv3x3` → `Mixed_4e/Branch_1/Conv2d_0b_3x3`: slim calls the first module of a stage b."""
    module, what = f"{match[1]}{chr(ord(match[2]) + 1)}", match[4]
    branch = {
        "conv1x1": "Branch_0/Conv2d_0a_1x1",
        "conv3x3_reduce": "Branch_1/Conv2d_0a_1x1",
        "conv3x3": "Branch_1/Conv2d_0b_3x3",
        "conv5x5_reduce": "Branch_2/Conv2d_0a_1x1",
        "conv5x5": "Branch_2/Conv2d_0a_3x3" if module == "5b" else "Branch_2/Conv2d_0b_3x3",
        "pool_proj": "Branch_3/Conv2d_0b_1x1",
    }[what.replace("bn", "conv", 1) if "pool_proj" not in what else "pool_proj"]
    return f"Mixed_{module}/{branch}{'/BatchNorm' if match[3] else ''}"


def _slim_unit(match: re.Match[str]) -> str:
    unit = f"block{int(match[1]) - 1}/unit_{match[2]}/bottleneck_v1"
    part = "shortcut" if match[3] else f"conv{match[5]}"
    return f"{unit}/{part}{'/BatchNorm' if match[4] == 'bn' else ''}"


_OF_SLIM = {"conv": "", "bn": "/BatchNorm"}

SLIM = {
    "vgg": by_rules((r"(conv\d)_(\d)", r"\1/\1_\2")),
    "resnet": by_rules(
        (r"bn1", "conv1/BatchNorm"),
        (r"conv(\d)_block(\d+)/(shortcut_)?(conv|bn)(\d?)", _slim_unit),
        (r"fc", "logits"),
    ),
    "googlenet": by_rules(
        (r"(conv|bn)1", lambda m: f"Conv2d_1a_7x7{_OF_SLIM[m[1]]}"),
        (r"(conv|bn)2_reduce", lambda m: f"Conv2d_2b_1x1{_OF_SLIM[m[1]]}"),
        (r"(conv|bn)2", lambda m: f"Conv2d_2c_3x3{_OF_SLIM[m[1]]}"),
        (r"inception_(\d)(\w)/(?=(bn)?)(.+)", _slim_mixed),
        (r"fc", "Logits/Conv2d_0c_1x1"),
    ),
}


def by_family(
    rules: Mapping[str, Callable[[Architecture, str], str]],
) -> Callable[[Architecture, str], str]:
    return lambda spec, name: rules.get(spec.family, lambda spec, name: name)(spec, name)
