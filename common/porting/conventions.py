"""How other projects name and lay out the parameters of the catalogue's networks."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from common.operations import BatchNorm
from common.operations.names import TORCH_BATCH_NORM, keras_layer, layer_of, tf1_layer, torch_layer
from common.porting.spellings import (
    CAFFE,
    KERAS_APPLICATIONS,
    SLIM,
    TENSORPACK,
    TORCHVISION,
    TRANSFORMERS,
    by_family,
    caffe_resnet,
    in_sequence,
    old_vgg,
    timm_vgg,
)
from common.specs import list_architectures
from common.specs.architecture import Architecture, Preprocessing
from common.specs.googlenet import FROM_MINUS_1_TO_1
from common.specs.resnet import CAFFE as MINUS_MEAN
from common.specs.resnet import TORCHVISION as STANDARDISED


@dataclass(frozen=True)
class Convention:
    """One way to spell a network's parameters: their name of the layer, a separator, their name of the parameter."""

    name: str
    architectures: tuple[str, ...]
    """The networks that are published in it; others only if the user says so."""
    layer: Callable[[Architecture, str], str]
    """The convention's name of a canonical layer."""
    batch_norm: Mapping[str, str] = field(default_factory=dict)
    """The convention's names of a batch normalisation's parameters, if they are not canonical."""
    affine: tuple[str, str] = (r"(?!)", "")
    """What to replace in a layer's name for gamma and beta, if these belong to a layer of their own."""
    separator: str = "/"
    channels_last: bool = False
    batch_norm_eps: float | None = None
    """The eps, if it is not the specification's."""
    aliases: tuple[tuple[str, str], ...] = ()
    """Patterns of older spellings and their replacements."""
    ignored: str = r"(?!)"
    """A pattern of names that are no parameters of the network."""
    preprocessing: Mapping[str, Preprocessing] = field(default_factory=dict)
    """For each family, if the names prove where the weights are from."""
    specified: tuple[str, ...] = ()
    """The networks whose names prove that the specification's preprocessing is right."""
    turned: bool = False
    """Whether kernels are (out, in, H, W) and rotated by 180°, as for Theano's convolution."""
    presumed: tuple[str, ...] = ()
    """If networks have the same names and shapes: the one that a file is taken for. The report says so."""
    without_gamma: bool = False
    """Whether batch normalisations may have no scale, which is then 1."""
    departures: Mapping[str, str] = field(default_factory=dict)
    """For each family, how these networks differ from those of the catalogue."""
    remarks: Mapping[str, str] = field(default_factory=dict)
    """For each family, a remark about these networks that the names do not prove."""

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
        """A name in the file, with older spellings replaced."""
        for pattern, replacement in self.aliases:
            name = re.sub(pattern, replacement, name)
        return name

    def recipe(self, spec: Architecture) -> Preprocessing | None:
        """The preprocessing of these weights, if the names prove where they are from."""
        return spec.preprocessing if spec.name in self.specified else self.preprocessing.get(spec.family)


ALL = tuple(list_architectures())
RELEASED = tuple(name for name in ALL if name not in ("alexnet_paper", "alexnet_tf_tutorial"))
"""All networks, except those with the parameters of another network whose own weights were never released."""
CAFFES = ("alexnet_bvlc", "caffenet", "lenet_bvlc")
"""Caffe's own networks, with Caffe's names."""

VGG = ("vgg11", "vgg13", "vgg16", "vgg19")
VGG_BN = tuple(f"{name}_bn" for name in VGG)
V1, V1_5 = ("resnet50", "resnet101", "resnet152"), ("resnet50_v1_5", "resnet101_v1_5", "resnet152_v1_5")
DENSENET = ("densenet121", "densenet161", "densenet169", "densenet201")

_COUNTERS = r".*\.num_batches_tracked|(.*\.)?total_(ops|params)"
"""PyTorch's counters of batches, and what a profiler leaves in a file."""
_CAFFES_POOLING = "Caffe's own ResNet pools without padding and rounds up: its windows lie one pixel further on"
_STANDARDISED = dict.fromkeys(("alexnet", "vgg", "resnet", "densenet"), STANDARDISED)

CONVENTIONS = {
    convention.name: convention
    for convention in (
        Convention("canonical", ALL, lambda spec, name: name),
        # Names and layout of caffe-tensorflow, which keeps Caffe's preparation.
        Convention(
            "tensorflow",
            RELEASED,
            lambda spec, name: name,
            channels_last=True,
            specified=(*CAFFES, *VGG),
            presumed=("alexnet_bvlc",),
        ),
        Convention(
            "caffe-tensorflow",
            ("googlenet", *V1),
            lambda spec, name: by_family(CAFFE)(spec, name).replace("/", "_"),
            channels_last=True,
            specified=("googlenet", *V1),
            remarks={"resnet": _CAFFES_POOLING},
        ),
        Convention("tf1", ALL, lambda spec, name: tf1_layer(name), channels_last=True),
        Convention(
            "slim",
            ("vgg11", "vgg16", "vgg19", "googlenet_bn", *V1_5),
            by_family(SLIM),
            channels_last=True,
            without_gamma=True,
            preprocessing={
                "vgg": Preprocessing("RGB", MINUS_MEAN.mean[::-1]),
                "resnet": Preprocessing("RGB", MINUS_MEAN.mean[::-1]),
                "googlenet": FROM_MINUS_1_TO_1,
            },
            departures={
                "resnet": "it is slim's ResNet v1, which strides in the last block of a stage and pads below and right",
                "googlenet": "it is slim's Inception v1, which pads below and right where torchvision's pads around",
            },
        ),
        Convention(
            "tensorpack",
            ("resnet18", "resnet34", *V1, *V1_5),
            TENSORPACK,
            channels_last=True,
            departures={
                "resnet": "it is tensorpack's ResNet, which pads below and right instead of on every side, and may "
                "stride in either convolution; its names do not say which"
            },
        ),
        Convention("keras", ALL, lambda spec, name: keras_layer(name), channels_last=True),
        Convention(
            "torch",
            ALL,
            lambda spec, name: torch_layer(name),
            batch_norm=TORCH_BATCH_NORM,
            separator=".",
            ignored=_COUNTERS,
        ),
        Convention(
            "torchvision",
            ("alexnet_owt", *VGG, *VGG_BN, "googlenet_bn", "resnet18", "resnet34", *V1_5, *DENSENET),
            by_family({"alexnet": in_sequence, "vgg": in_sequence} | TORCHVISION),
            batch_norm=TORCH_BATCH_NORM,
            separator=".",
            aliases=((r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2."),),
            ignored=_COUNTERS,
            preprocessing=_STANDARDISED,  # its GoogLeNet takes what `transform_input` says, which no name proves
        ),
        *(
            Convention(
                name,
                (*VGG, *VGG_BN),
                layer,
                batch_norm=TORCH_BATCH_NORM,
                separator=".",
                ignored=_COUNTERS,
                preprocessing=_STANDARDISED,
            )
            for name, layer in (("torchvision before 0.1.8", old_vgg), ("timm", timm_vgg))
        ),
        Convention(
            "transformers",
            ("resnet18", "resnet34", *V1_5),
            lambda spec, name: TRANSFORMERS(spec, name),
            batch_norm=TORCH_BATCH_NORM,
            separator=".",
            ignored=_COUNTERS,
            preprocessing=_STANDARDISED,
        ),
        Convention(
            "keras.applications",
            ("vgg16", "vgg19", *V1, "densenet121", "densenet169", "densenet201"),
            by_family(KERAS_APPLICATIONS),
            channels_last=True,
            batch_norm_eps=1.001e-5,
            preprocessing={"vgg": MINUS_MEAN, "resnet": MINUS_MEAN, "densenet": STANDARDISED},
        ),
        Convention(
            "keras.applications before 2.2.5",
            ("resnet50",),
            by_family({"resnet": caffe_resnet}),
            channels_last=True,
            batch_norm_eps=1e-3,
            preprocessing={"resnet": MINUS_MEAN},
        ),
        Convention(
            "keras.applications for Theano",
            ("vgg16", "vgg19"),
            by_family(KERAS_APPLICATIONS),
            channels_last=True,
            turned=True,
            preprocessing={"vgg": MINUS_MEAN},
        ),
        Convention(
            "caffe",
            (*CAFFES, *VGG, "googlenet", *V1),
            by_family(CAFFE),
            affine=("^bn", "scale"),
            specified=(*CAFFES, *VGG, "googlenet", *V1),
            presumed=("alexnet_bvlc",),
            remarks={"resnet": _CAFFES_POOLING},
        ),
    )
}
