"""GoogLeNet as a popular Keras tutorial has it, under the name of Inception, in TensorFlow 1 style."""

import tensorflow.compat.v1 as tf

from tf1_style_impl.googlenet import auxiliary_head, unit
from tf1_style_impl.layers import dropout, fc, flatten, global_avg_pool, max_pool


def tutorial_inception(x, n1x1, n3x3_reduce, n3x3, n5x5_reduce, n5x5, n_pool_proj, *, name):
    """Four branches side by side, the last of which projects before it pools."""
    with tf.variable_scope(name):
        a = unit(x, 1, n1x1, name="conv1x1", relu="relu1x1")
        b = unit(x, 1, n3x3_reduce, name="conv3x3_reduce", relu="relu3x3_reduce")
        b = unit(b, 3, n3x3, padding=1, name="conv3x3", relu="relu3x3")
        c = unit(x, 1, n5x5_reduce, name="conv5x5_reduce", relu="relu5x5_reduce")
        c = unit(c, 5, n5x5, padding=2, name="conv5x5", relu="relu5x5")
        d = unit(x, 1, n_pool_proj, name="pool_proj", relu="relu_pool_proj")
        d = max_pool(d, 3, stride=1, padding=1, name="pool")
        return tf.concat([a, b, c, d], axis=3, name="output")


def googlenet_tutorial(images: tf.Tensor, keep_prob: tf.Tensor, num_classes: int = 1000) -> dict[str, tf.Tensor]:
    """GoogLeNet as a popular Keras tutorial has it, to the number.

    Takes (N, 224, 224, 3) float32, BGR minus the mean. Gives (N, num_classes) `logits`, `aux1` and `aux2`.

    Where it leaves the paper (`googlenet`):

    - conv1 is padded SAME, by 2 above and left and 3 below and right, not by 3: every window lies a pixel further down
      and right.
    - No local response normalisation.
    - The pools with stride 2 are padded by one on every side, where Caffe rounds up: every window lies a pixel further
      up and left.
    - A module's pool branch projects before it pools: fewer channels to pool, and another function.
    - inception_4d has 48 filters of 5×5, not 64: 24,080 parameters and 4.3 million multiply-adds fewer. aux2 and
      inception_4e, which read it, have other shapes, so that the paper's weights do not fit.
    - A last pool, pool5, takes 7×7 to 4×4 before the average, which becomes the mean of 16 maxima.
    """
    # Whoever trains feeds 0.6, since 0.4 is dropped before the classifier; the heads drop 0.7 then.
    aux_keep_prob = 1.0 - (1.0 - keep_prob) * (0.7 / 0.4)
    # Block 1
    x = unit(images, 7, 64, stride=2, padding="SAME", name="conv1", relu="relu1")  # 112×112×64
    x = max_pool(x, 3, stride=2, padding=1, name="pool1")  # 56×56×64
    # Block 2
    x = unit(x, 1, 64, name="conv2_reduce", relu="relu2_reduce")  # 56×56×64
    x = unit(x, 3, 192, padding=1, name="conv2", relu="relu2")  # 56×56×192
    x = max_pool(x, 3, stride=2, padding=1, name="pool2")  # 28×28×192
    # Block 3
    x = tutorial_inception(x, 64, 96, 128, 16, 32, 32, name="inception_3a")  # 28×28×256
    x = tutorial_inception(x, 128, 128, 192, 32, 96, 64, name="inception_3b")  # 28×28×480
    x = max_pool(x, 3, stride=2, padding=1, name="pool3")  # 14×14×480
    # Block 4
    x = tutorial_inception(x, 192, 96, 208, 16, 48, 64, name="inception_4a")  # 14×14×512
    aux1 = auxiliary_head(x, aux_keep_prob, num_classes, name="aux1")
    x = tutorial_inception(x, 160, 112, 224, 24, 64, 64, name="inception_4b")  # 14×14×512
    x = tutorial_inception(x, 128, 128, 256, 24, 64, 64, name="inception_4c")  # 14×14×512
    x = tutorial_inception(x, 112, 144, 288, 32, 48, 64, name="inception_4d")  # 14×14×512
    aux2 = auxiliary_head(x, aux_keep_prob, num_classes, name="aux2")
    x = tutorial_inception(x, 256, 160, 320, 32, 128, 128, name="inception_4e")  # 14×14×832
    x = max_pool(x, 3, stride=2, padding=1, name="pool4")  # 7×7×832
    # Block 5
    x = tutorial_inception(x, 256, 160, 320, 32, 128, 128, name="inception_5a")  # 7×7×832
    x = tutorial_inception(x, 384, 192, 384, 48, 128, 128, name="inception_5b")  # 7×7×1024
    x = max_pool(x, 3, stride=2, padding=1, name="pool5")  # 4×4×1024
    # Classifier
    x = global_avg_pool(x, name="avg_pool")  # 1×1×1024
    x = flatten(x, name="flatten")
    x = dropout(x, keep_prob, name="drop")
    logits = fc(x, num_classes, name="fc")
    return {"logits": logits, "aux1": aux1, "aux2": aux2}
