"""GoogLeNet in TensorFlow 1 style."""

from functools import partial

import tensorflow.compat.v1 as tf

from tf1_style_impl import layers
from tf1_style_impl.layers import adaptive_avg_pool, avg_pool, batch_norm, conv, dropout, fc, flatten, global_avg_pool


def unit(x, kernel, filters, *, stride=1, padding=0, bn=False, name, relu):
    """A convolution, the batch normalisation that may take the place of its bias, a ReLU."""
    x = conv(x, kernel, filters, stride=stride, padding=padding, bias=not bn, name=name)
    if bn:
        x = batch_norm(x, eps=1e-3, name=relu.replace("relu", "bn"))
    return tf.nn.relu(x, name=relu)


def _inception(x, n1x1, n3x3_reduce, n3x3, n5x5_reduce, n5x5, n_pool_proj, *, bn, wide, name):
    """Four branches side by side; the numbers of filters are named as in the paper's Table 1."""
    with tf.variable_scope(name):
        a = unit(x, 1, n1x1, bn=bn, name="conv1x1", relu="relu1x1")
        b = unit(x, 1, n3x3_reduce, bn=bn, name="conv3x3_reduce", relu="relu3x3_reduce")
        b = unit(b, 3, n3x3, padding=1, bn=bn, name="conv3x3", relu="relu3x3")
        c = unit(x, 1, n5x5_reduce, bn=bn, name="conv5x5_reduce", relu="relu5x5_reduce")
        c = unit(c, wide, n5x5, padding=wide // 2, bn=bn, name="conv5x5", relu="relu5x5")
        d = layers.max_pool(x, 3, stride=1, padding=1, name="pool")
        d = unit(d, 1, n_pool_proj, bn=bn, name="pool_proj", relu="relu_pool_proj")
        return tf.concat([a, b, c, d], axis=3, name="output")


def auxiliary_head(x, keep_prob, num_classes, *, bn=False, name):
    """A classifier on the way, for training; its loss counts 0.3."""
    with tf.variable_scope(name):
        x = adaptive_avg_pool(x, 4, name="pool") if bn else avg_pool(x, 5, stride=3, name="pool")  # 4×4
        x = unit(x, 1, 128, bn=bn, name="conv", relu="relu_conv")  # 4×4×128
        x = flatten(x, name="flatten")  # 2048, in the order H, W, C
        x = fc(x, 1024, name="fc")
        x = tf.nn.relu(x, name="relu_fc")
        x = dropout(x, keep_prob, name="drop")
        return fc(x, num_classes, name="classifier")


def _googlenet(
    images: tf.Tensor,
    keep_prob: tf.Tensor,
    num_classes: int,
    *,
    lrn: bool = True,
    bn: bool = False,
    wide: int = 5,
    last_pool: int = 3,
    rate: float = 0.4,
) -> dict[str, tf.Tensor]:
    """The network of the paper's Table 1; the defaults are the paper's, the rest is where variants leave it."""
    max_pool = partial(layers.max_pool, stride=2, padding=((0, 1), (0, 1)))
    inception = partial(_inception, bn=bn, wide=wide)
    # Whoever trains feeds 1 − rate; the heads drop 0.7 then.
    aux_keep_prob = 1.0 - (1.0 - keep_prob) * (0.7 / rate)
    # Block 1
    x = unit(images, 7, 64, stride=2, padding=3, bn=bn, name="conv1", relu="relu1")  # 112×112×64
    x = max_pool(x, 3, name="pool1")  # 56×56×64
    # TensorFlow does not divide alpha by the window: 2e-5 = 1e-4 / 5, and radius 2 is size 5.
    x = layers.lrn(x, radius=2, alpha=2e-5, beta=0.75, bias=1.0, name="norm1") if lrn else x
    # Block 2
    x = unit(x, 1, 64, bn=bn, name="conv2_reduce", relu="relu2_reduce")  # 56×56×64
    x = unit(x, 3, 192, padding=1, bn=bn, name="conv2", relu="relu2")  # 56×56×192
    x = layers.lrn(x, radius=2, alpha=2e-5, beta=0.75, bias=1.0, name="norm2") if lrn else x
    x = max_pool(x, 3, name="pool2")  # 28×28×192
    # Block 3
    x = inception(x, 64, 96, 128, 16, 32, 32, name="inception_3a")  # 28×28×256
    x = inception(x, 128, 128, 192, 32, 96, 64, name="inception_3b")  # 28×28×480
    x = max_pool(x, 3, name="pool3")  # 14×14×480
    # Block 4
    x = inception(x, 192, 96, 208, 16, 48, 64, name="inception_4a")  # 14×14×512
    aux1 = auxiliary_head(x, aux_keep_prob, num_classes, bn=bn, name="aux1")
    x = inception(x, 160, 112, 224, 24, 64, 64, name="inception_4b")  # 14×14×512
    x = inception(x, 128, 128, 256, 24, 64, 64, name="inception_4c")  # 14×14×512
    x = inception(x, 112, 144, 288, 32, 64, 64, name="inception_4d")  # 14×14×528
    aux2 = auxiliary_head(x, aux_keep_prob, num_classes, bn=bn, name="aux2")
    x = inception(x, 256, 160, 320, 32, 128, 128, name="inception_4e")  # 14×14×832
    x = max_pool(x, last_pool, name="pool4")  # 7×7×832
    # Block 5
    x = inception(x, 256, 160, 320, 32, 128, 128, name="inception_5a")  # 7×7×832
    x = inception(x, 384, 192, 384, 48, 128, 128, name="inception_5b")  # 7×7×1024
    # Classifier
    x = global_avg_pool(x, name="pool5")  # 1×1×1024
    x = flatten(x, name="flatten")
    x = dropout(x, keep_prob, name="drop")
    logits = fc(x, num_classes, name="fc")
    return {"logits": logits, "aux1": aux1, "aux2": aux2}


def googlenet(images: tf.Tensor, keep_prob: tf.Tensor, num_classes: int = 1000) -> dict[str, tf.Tensor]:
    """The paper's network as BVLC released it.

    Takes (N, 224, 224, 3) float32, BGR minus the mean; gives (N, num_classes) `logits`, and `aux1` and `aux2`, the
    heads after inception_4a and 4d, which nothing computes unless they are fetched.

    Source: models/bvlc_googlenet/train_val.prototxt in Caffe; Table 1 of the paper.
    """
    return _googlenet(images, keep_prob, num_classes)


def googlenet_bn(images: tf.Tensor, keep_prob: tf.Tensor, num_classes: int = 1000) -> dict[str, tf.Tensor]:
    """GoogLeNet as torchvision has it, with batch normalisation after every convolution; RGB from −1 to 1.

    No local response normalisation, a 3×3 convolution where the paper has its 5×5, a last pool of 2×2, a dropout of
    0.2. The auxiliary heads average over 4×4 at 0, 3, 7 and 10 of 14 pixels, where the
    paper takes 5×5 with stride 3.

    Source: torchvision/models/googlenet.py.
    """
    return _googlenet(images, keep_prob, num_classes, lrn=False, bn=True, wide=3, last_pool=2, rate=0.2)
