"""The catalogue in TensorFlow 1 style: what adds each network to the graph, after its placeholders."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow.compat.v1 as tf

from tf1_style_impl import (
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

BUILDERS: dict[str, Callable[..., tf.Tensor | dict[str, tf.Tensor]]] = {
    "lenet5": lenet.lenet5,
    "lenet5_sparse": lenet.lenet5_sparse,
    "lenet_caffe": lenet.lenet_caffe,
    "lenet_bvlc": lenet_bvlc.lenet_bvlc,
    "alexnet_bvlc": alexnet.alexnet_bvlc,
    "caffenet": alexnet_caffenet.caffenet,
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
