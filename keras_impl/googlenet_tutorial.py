"""GoogLeNet as a popular Keras tutorial has it, under the name of Inception, in Keras.

`padding="same"` stands where the stride is 1 and the window odd, so that it is the same number on every side, and in
conv1, where the tutorial has it: 2 pixels above and left, 3 below and right.
"""

import keras
from keras import layers

from keras_impl.googlenet import Size, auxiliary_head, unit


def padded_max_pool(x, *, name):
    """The tutorial's pool with stride 2, padded by one on every side; no value is negative, so zeros never win."""
    x = layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
    return layers.MaxPooling2D(3, strides=2, name=name)(x)


def tutorial_inception(x, n1x1, n3x3_reduce, n3x3, n5x5_reduce, n5x5, n_pool_proj, *, name):
    """Four branches side by side, the last of which projects before it pools."""
    a = unit(x, n1x1, 1, name=f"{name}_conv1x1", relu=f"{name}_relu1x1")
    b = unit(x, n3x3_reduce, 1, name=f"{name}_conv3x3_reduce", relu=f"{name}_relu3x3_reduce")
    b = unit(b, n3x3, 3, name=f"{name}_conv3x3", relu=f"{name}_relu3x3")
    c = unit(x, n5x5_reduce, 1, name=f"{name}_conv5x5_reduce", relu=f"{name}_relu5x5_reduce")
    c = unit(c, n5x5, 5, name=f"{name}_conv5x5", relu=f"{name}_relu5x5")
    d = unit(x, n_pool_proj, 1, name=f"{name}_pool_proj", relu=f"{name}_relu_pool_proj")
    d = layers.MaxPooling2D(3, strides=1, padding="same", name=f"{name}_pool")(d)
    return layers.Concatenate(name=f"{name}_output")([a, b, c, d])


def googlenet_tutorial(num_classes: int = 1000, image_size: Size = (224, 224)) -> keras.Model:
    """GoogLeNet as a popular Keras tutorial has it, to the number.

    Takes (N, 224, 224, 3) float32, BGR minus the mean. Gives a dict of (N, num_classes) `logits`, `aux1` and `aux2`.

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
    image = layers.Input((*image_size, 3), name="image")
    # Block 1
    x = unit(image, 64, 7, strides=2, padding="same", name="conv1", relu="relu1")  # 112×112×64
    x = padded_max_pool(x, name="pool1")  # 56×56×64
    # Block 2
    x = unit(x, 64, 1, name="conv2_reduce", relu="relu2_reduce")  # 56×56×64
    x = unit(x, 192, 3, name="conv2", relu="relu2")  # 56×56×192
    x = padded_max_pool(x, name="pool2")  # 28×28×192
    # Block 3
    x = tutorial_inception(x, 64, 96, 128, 16, 32, 32, name="inception_3a")  # 28×28×256
    x = tutorial_inception(x, 128, 128, 192, 32, 96, 64, name="inception_3b")  # 28×28×480
    x = padded_max_pool(x, name="pool3")  # 14×14×480
    # Block 4
    x = tutorial_inception(x, 192, 96, 208, 16, 48, 64, name="inception_4a")  # 14×14×512
    aux1 = auxiliary_head(x, num_classes, name="aux1")
    x = tutorial_inception(x, 160, 112, 224, 24, 64, 64, name="inception_4b")  # 14×14×512
    x = tutorial_inception(x, 128, 128, 256, 24, 64, 64, name="inception_4c")  # 14×14×512
    x = tutorial_inception(x, 112, 144, 288, 32, 48, 64, name="inception_4d")  # 14×14×512
    aux2 = auxiliary_head(x, num_classes, name="aux2")
    x = tutorial_inception(x, 256, 160, 320, 32, 128, 128, name="inception_4e")  # 14×14×832
    x = padded_max_pool(x, name="pool4")  # 7×7×832
    # Block 5
    x = tutorial_inception(x, 256, 160, 320, 32, 128, 128, name="inception_5a")  # 7×7×832
    x = tutorial_inception(x, 384, 192, 384, 48, 128, 128, name="inception_5b")  # 7×7×1024
    x = padded_max_pool(x, name="pool5")  # 4×4×1024
    # Classifier
    x = layers.GlobalAveragePooling2D(keepdims=True, name="avg_pool")(x)  # 1×1×1024
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dropout(rate=0.4, name="drop")(x)
    logits = layers.Dense(num_classes, name="fc")(x)
    return keras.Model(image, {"logits": logits, "aux1": aux1, "aux2": aux2}, name="googlenet_tutorial")
