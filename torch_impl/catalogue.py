"""The catalogue in PyTorch: what builds each network."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from torch_impl import (
    alexnet,
    alexnet_caffenet,
    alexnet_tutorial,
    alexnet_variants,
    densenet,
    googlenet,
    googlenet_tutorial,
    lenet,
    lenet_bvlc,
    resnet,
    resnet_tutorial,
    vgg,
)

BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "lenet5": lenet.LeNet5,
    "lenet5_sparse": lenet.LeNet5Sparse,
    "lenet_caffe": lenet.LeNetCaffe,
    "lenet_bvlc": lenet_bvlc.LeNetBVLC,
    "alexnet_bvlc": alexnet.AlexNetBVLC,
    "caffenet": alexnet_caffenet.CaffeNet,
    "alexnet_paper": alexnet.AlexNetPaper,
    "alexnet_tf_tutorial": alexnet_tutorial.AlexNetTFTutorial,
    "alexnet_single_tower": alexnet_variants.AlexNetSingleTower,
    "alexnet_four_conv": alexnet_variants.AlexNetFourConv,
    "alexnet_mnist": alexnet_variants.AlexNetMNIST,
    "alexnet_d2l": alexnet_variants.AlexNetD2L,
    "alexnet_owt": alexnet_variants.AlexNetOWT,
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
    "googlenet": googlenet.GoogLeNet,
    "googlenet_tutorial": googlenet_tutorial.GoogLeNetTutorial,
    "googlenet_bn": googlenet.googlenet_bn,
    "resnet18": resnet.resnet18,
    "resnet34": resnet.resnet34,
    "resnet50": resnet.resnet50,
    "resnet101": resnet.resnet101,
    "resnet152": resnet.resnet152,
    "resnet50_v1_5": resnet.resnet50_v1_5,
    "resnet101_v1_5": resnet.resnet101_v1_5,
    "resnet152_v1_5": resnet.resnet152_v1_5,
    "resnet18_tutorial": resnet_tutorial.resnet18_tutorial,
    "resnet34_tutorial": resnet_tutorial.resnet34_tutorial,
    "resnet50_tutorial": resnet_tutorial.resnet50_tutorial,
    "resnet101_tutorial": resnet_tutorial.resnet101_tutorial,
    "resnet152_tutorial": resnet_tutorial.resnet152_tutorial,
    "densenet121": densenet.densenet121,
    "densenet161": densenet.densenet161,
    "densenet169": densenet.densenet169,
    "densenet201": densenet.densenet201,
}
