"""GoogLeNet in Keras.

`padding="same"` stands only where the stride is 1 and the window odd, so that it is the same number on every side.
"""

from functools import partial

import keras
from keras import layers

from keras_impl.layers import BatchNormalization, LocalResponseNormalization

Size = tuple[int, int]


def unit(x, filters, kernel, *, strides=1, padding="same", bn=False, name, relu):
    """A convolution, the batch normalisation that may take the place of its bias, a ReLU."""
    x = layers.Conv2D(filters, kernel, strides=strides, padding=padding, use_bias=not bn, name=name)(x)
    if bn:
        x = BatchNormalization(momentum=0.9, epsilon=1e-3, name=relu.replace("relu", "bn"))(x)
    return layers.ReLU(name=relu)(x)


def max_pool(x, pool_size, *, name):
    """A pool with stride 2, padded as if rounded up; it follows a ReLU, so that zeros never win."""
    x = layers.ZeroPadding2D(((0, 1), (0, 1)), name=f"{name}_pad")(x)
    return layers.MaxPooling2D(pool_size, strides=2, name=name)(x)


def _inception(x, n1x1, n3x3_reduce, n3x3, n5x5_reduce, n5x5, n_pool_proj, *, bn, wide, name):
    """Four branches side by side; the numbers of filters are named as in the paper's Table 1."""
    a = unit(x, n1x1, 1, bn=bn, name=f"{name}_conv1x1", relu=f"{name}_relu1x1")
    b = unit(x, n3x3_reduce, 1, bn=bn, name=f"{name}_conv3x3_reduce", relu=f"{name}_relu3x3_reduce")
    b = unit(b, n3x3, 3, bn=bn, name=f"{name}_conv3x3", relu=f"{name}_relu3x3")
    c = unit(x, n5x5_reduce, 1, bn=bn, name=f"{name}_conv5x5_reduce", relu=f"{name}_relu5x5_reduce")
    c = unit(c, n5x5, wide, bn=bn, name=f"{name}_conv5x5", relu=f"{name}_relu5x5")
    d = layers.MaxPooling2D(3, strides=1, padding="same", name=f"{name}_pool")(x)
    d = unit(d, n_pool_proj, 1, bn=bn, name=f"{name}_pool_proj", relu=f"{name}_relu_pool_proj")
    return layers.Concatenate(name=f"{name}_output")([a, b, c, d])


def auxiliary_head(x, num_classes, *, bn=False, name):
    """A classifier on the way, for training; its loss counts 0.3."""
    pool = layers.AdaptiveAveragePooling2D(4, name=f"{name}_pool") if bn else None
    x = (pool or layers.AveragePooling2D(5, strides=3, name=f"{name}_pool"))(x)  # 4×4
    x = unit(x, 128, 1, bn=bn, name=f"{name}_conv", relu=f"{name}_relu_conv")  # 4×4×128
    x = layers.Flatten(name=f"{name}_flatten")(x)  # 2048, in the order H, W, C
    x = layers.Dense(1024, name=f"{name}_fc")(x)
    x = layers.ReLU(name=f"{name}_relu_fc")(x)
    x = layers.Dropout(rate=0.7, name=f"{name}_drop")(x)
    return layers.Dense(num_classes, name=f"{name}_classifier")(x)


def _googlenet(
    name: str,
    num_classes: int,
    image_size: Size,
    *,
    lrn: bool = True,
    bn: bool = False,
    wide: int = 5,
    last_pool: int = 3,
    rate: float = 0.4,
) -> keras.Model:
    """The network of the paper's Table 1; the defaults are the paper's, the rest is where variants leave it."""
    inception = partial(_inception, bn=bn, wide=wide)
    image = layers.Input((*image_size, 3), name="image")
    # Block 1
    x = layers.ZeroPadding2D(3, name="conv1_pad")(image)
    x = unit(x, 64, 7, strides=2, padding="valid", bn=bn, name="conv1", relu="relu1")  # 112×112×64
    x = max_pool(x, 3, name="pool1")  # 56×56×64
    # This layer divides alpha by size, as Caffe does.
    x = LocalResponseNormalization(size=5, alpha=1e-4, beta=0.75, k=1.0, name="norm1")(x) if lrn else x
    # Block 2
    x = unit(x, 64, 1, bn=bn, name="conv2_reduce", relu="relu2_reduce")  # 56×56×64
    x = unit(x, 192, 3, bn=bn, name="conv2", relu="relu2")  # 56×56×192
    x = LocalResponseNormalization(size=5, alpha=1e-4, beta=0.75, k=1.0, name="norm2")(x) if lrn else x
    x = max_pool(x, 3, name="pool2")  # 28×28×192
    # Block 3
    x = inception(x, 64, 96, 128, 16, 32, 32, name="inception_3a")  # 28×28×256
    x = inception(x, 128, 128, 192, 32, 96, 64, name="inception_3b")  # 28×28×480
    x = max_pool(x, 3, name="pool3")  # 14×14×480
    # Block 4
    x = inception(x, 192, 96, 208, 16, 48, 64, name="inception_4a")  # 14×14×512
    aux1 = auxiliary_head(x, num_classes, bn=bn, name="aux1")
    x = inception(x, 160, 112, 224, 24, 64, 64, name="inception_4b")  # 14×14×512
    x = inception(x, 128, 128, 256, 24, 64, 64, name="inception_4c")  # 14×14×512
    x = inception(x, 112, 144, 288, 32, 64, 64, name="inception_4d")  # 14×14×528
    aux2 = auxiliary_head(x, num_classes, bn=bn, name="aux2")
    x = inception(x, 256, 160, 320, 32, 128, 128, name="inception_4e")  # 14×14×832
    x = max_pool(x, last_pool, name="pool4")  # 7×7×832
    # Block 5
    x = inception(x, 256, 160, 320, 32, 128, 128, name="inception_5a")  # 7×7×832
    x = inception(x, 384, 192, 384, 48, 128, 128, name="inception_5b")  # 7×7×1024
    # Classifier
    x = layers.GlobalAveragePooling2D(keepdims=True, name="pool5")(x)  # 1×1×1024
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dropout(rate=rate, name="drop")(x)
    logits = layers.Dense(num_classes, name="fc")(x)
    return keras.Model(image, {"logits": logits, "aux1": aux1, "aux2": aux2}, name=name)


def googlenet(num_classes: int = 1000, image_size: Size = (224, 224)) -> keras.Model:
    """The paper's network as BVLC released it.

    Takes (N, 224, 224, 3) float32, BGR minus the mean; gives a dict of (N, num_classes) `logits`, `aux1` and `aux2`,
    the heads after inception_4a and 4d. `keras.Model(model.input, model.output["logits"])` leaves the heads out.

    Source: models/bvlc_googlenet/train_val.prototxt in Caffe; Table 1 of the paper.
    """
    return _googlenet("googlenet", num_classes, image_size)


def googlenet_bn(num_classes: int = 1000, image_size: Size = (224, 224)) -> keras.Model:
    """GoogLeNet as torchvision has it, with batch normalisation after every convolution; RGB from −1 to 1.

    No local response normalisation, a 3×3 convolution where the paper has its 5×5, a last pool of 2×2, a dropout of
    0.2. The auxiliary heads average over 4×4 at 0, 3, 7 and 10 of 14 pixels, where the
    paper takes 5×5 with stride 3.

    Source: torchvision/models/googlenet.py.
    """
    return _googlenet("googlenet_bn", num_classes, image_size, lrn=False, bn=True, wide=3, last_pool=2, rate=0.2)
