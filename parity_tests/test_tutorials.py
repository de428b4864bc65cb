"""The networks of the tutorials, built once more from tables of numbers as the write-ups have them, in the plain
framework of each, without our builders, names or specifications: the same weights give the same bits.

A tutorial's layers and our parameters stand in the same order, and that is how the weights are moved.
"""

import importlib
from collections.abc import Iterator

import numpy as np
import pytest
from conftest import daily, load_implementation

from common import layouts, random_weights
from common.specs.seeded import initial_weights, seeded_generator
from parity_tests.injection import imported_with, specification, unchanged

CLASSES = 7


def picture(*shape):
    """As large as pixels are, so that a normalisation does something."""
    return seeded_generator(4, "tutorials").standard_normal(shape, dtype=np.float32) * np.float32(40)


def arrays_of(weights) -> Iterator[np.ndarray]:
    return iter(weights.values())


# In PyTorch. A convolution is (filters, window, stride, padding), a pool its (window, stride), a dense layer its units.

POOL = (3, 2)
ALEXNET = [POOL, (256, 5, 1, 2), POOL, (384, 3, 1, 1), (384, 3, 1, 1), (256, 3, 1, 1), POOL]
FOUR = [POOL, (256, 5, 1, 2), POOL, (384, 3, 1, 1), (256, 3, 1, 1), POOL]
VGG16, VGG19 = (
    [layer for count, filters in blocks for layer in [(filters, 3, 1, 1)] * count + [(2, 2)]]
    for blocks in (
        [(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)],
        [(2, 64), (2, 128), (4, 256), (4, 512), (4, 512)],
    )
)

IN_PYTORCH = {  # the channels and side of the image, the maps, whether their mean is taken, the rate of the dropouts
    "alexnet_single_tower": (3, 227, [(96, 11, 4, 0), *ALEXNET], False, None),
    "alexnet_four_conv": (3, 227, [(96, 11, 4, 0), *FOUR], False, 0.5),
    "alexnet_mnist": (1, 28, [(96, 11, 1, 5), *ALEXNET], False, 0.5),
    "alexnet_d2l": (1, 224, [(96, 11, 4, 1), *ALEXNET], False, 0.5),
    "vgg16_gap": (3, 32, VGG16, True, None),
    "vgg19_gap": (3, 32, VGG19, True, None),
}


def in_pytorch(channels, maps, mean, rate, arrays):
    """The table as an `nn.Sequential`, with the weights in it."""
    import torch
    from torch import nn

    modules = []
    for numbers in maps:
        if len(numbers) == 2:
            modules.append(nn.MaxPool2d(*numbers))
        else:
            modules += [nn.Conv2d(channels, *numbers), nn.ReLU()]
            channels = numbers[0]
    modules += [nn.AdaptiveAvgPool2d(1)] if mean else []
    modules.append(nn.Flatten())
    for units in (4096, 4096):
        modules += [nn.LazyLinear(units), nn.ReLU()]
        modules += [nn.Dropout(rate)] if rate else []
    model = nn.Sequential(*modules, nn.LazyLinear(CLASSES)).eval()
    for module in model:
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight, module.bias = (nn.Parameter(torch.from_numpy(next(arrays))) for _ in range(2))
    return model


@pytest.mark.parametrize("architecture", daily("alexnet_mnist", "alexnet_d2l", "vgg16_gap", of=IN_PYTORCH))
def test_in_plain_pytorch(architecture):
    torch_impl = load_implementation("torch_impl")
    import torch
    from torch import nn

    channels, side, maps, mean, rate = IN_PYTORCH[architecture]
    size = (side, side)
    weights = random_weights(architecture, 4, num_classes=CLASSES, image_size=size)
    arrays = arrays_of(weights)
    theirs = in_pytorch(channels, maps, mean, rate, arrays)
    assert not list(arrays)
    ours = torch_impl.build(architecture, num_classes=CLASSES, image_size=size)
    torch_impl.load_weights(ours, weights)
    rates = [[module.p for module in model.modules() if isinstance(module, nn.Dropout)] for model in (ours, theirs)]
    assert rates[0] == rates[1]
    image = torch.from_numpy(picture(2, channels, *size))
    with torch.no_grad():
        outputs = [model(image).numpy() for model in (ours, theirs)]
    assert outputs[0].std() > 0
    np.testing.assert_array_equal(*outputs)


# In TensorFlow 1


def test_in_plain_tensorflow_1():
    """finetune_alexnet_with_tensorflow, its dense layers narrow: alpha 1e-4 where TensorFlow does not divide it."""
    load_implementation("tf1_style_impl")
    import tensorflow.compat.v1 as tf

    weights = initial_weights(specification("alexnet_tf_tutorial"), 4)
    image = layouts.to_channels_last(picture(2, 3, 227, 227))
    arrays = arrays_of(weights)

    def conv(x, stride, padding, groups):
        kernel, bias = tf.constant(layouts.conv_to_hwio(next(arrays))), tf.constant(next(arrays))
        parts = zip(tf.split(x, groups, 3), tf.split(kernel, groups, 3), strict=True)
        y = tf.concat([tf.nn.conv2d(part, filters, [1, stride, stride, 1], padding) for part, filters in parts], 3)
        return tf.nn.relu(tf.nn.bias_add(y, bias))

    def fc(x, flattened=None):
        kernel = tf.constant(layouts.dense_to_io(next(arrays), flattened))
        return tf.nn.xw_plus_b(x, kernel, tf.constant(next(arrays)))

    def lrn(x):
        return tf.nn.local_response_normalization(x, depth_radius=2, alpha=1e-4, beta=0.75, bias=1.0)

    def pool(x):
        return tf.nn.max_pool(x, [1, 3, 3, 1], [1, 2, 2, 1], "VALID")

    with tf.Graph().as_default(), tf.Session() as session:
        x = pool(lrn(conv(tf.constant(image), 4, "VALID", 1)))
        x = pool(lrn(conv(x, 1, "SAME", 2)))
        x = pool(conv(conv(conv(x, 1, "SAME", 1), 1, "SAME", 2), 1, "SAME", 2))
        x = tf.nn.relu(fc(tf.reshape(x, [-1, 6 * 6 * 256]), (6, 6, 256)))
        theirs = session.run(fc(tf.nn.relu(fc(x))))
    assert not list(arrays)
    outputs = []
    with imported_with(unchanged("tf1_style_impl", "alexnet_tf_tutorial")):
        narrow = importlib.import_module("tf1_style_impl")
        for architecture in ("alexnet_tf_tutorial", "alexnet_bvlc"):
            with narrow.build(architecture) as session:
                narrow.load_weights(session, weights)
                outputs.append(session.run("logits:0", {"images:0": image}))
    # Constants and variables may be summed in another order; BVLC's alpha is seen a thousand times as well.
    assert np.abs(outputs[0] - theirs).max() < 1e-3 * np.abs(outputs[1] - theirs).max()


# In Keras


class Tutorial:
    """What a Keras tutorial writes: layers made one after the other, here with the weights of ours in them."""

    def __init__(self, weights):
        self.arrays, self.waiting = arrays_of(weights), []

    def conv(self, x, filters, window, strides=1, activation="relu"):
        return self._call("Conv2D", x, filters, window, strides, padding="same", activation=activation)

    def dense(self, x, units, activation=None):
        return self._call("Dense", x, units, activation=activation)

    def normalised(self, x, filters, window, strides=1):
        """Convolution, batch normalisation, ReLU."""
        from keras import layers

        x = self._call("BatchNormalization", self.conv(x, filters, window, strides, activation=None))
        return layers.ReLU()(x)

    def _call(self, kind, x, *numbers, **options):
        from keras import layers

        layer = getattr(layers, kind)(*numbers, **options)
        y = layer(x)
        kernel, *others = (next(self.arrays) for _ in layer.weights)
        if kind == "Conv2D":
            kernel = layouts.conv_to_hwio(kernel)
        elif kind == "Dense":
            before = x._keras_history.operation
            kernel = layouts.dense_to_io(kernel, before.input.shape[1:] if isinstance(before, layers.Flatten) else None)
        layer.set_weights([kernel, *others])
        return y


INCEPTION = {  # 1×1, 3×3 reduce, 3×3, 5×5 reduce, 5×5, pool projection
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 48, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


def inception(tutorial, image):
    from keras import layers

    def pool(x):
        return layers.MaxPooling2D(3, strides=2)(layers.ZeroPadding2D(1)(x))

    def head(x):
        x = tutorial.conv(layers.AveragePooling2D(5, strides=3)(x), 128, 1)
        x = tutorial.dense(layers.Flatten()(x), 1024, "relu")
        return tutorial.dense(layers.Dropout(0.7)(x), CLASSES)

    x = pool(tutorial.conv(image, 64, 7, 2))
    x = pool(tutorial.conv(tutorial.conv(x, 64, 1), 192, 3))
    heads = {}
    for name, (n1, reduce3, n3, reduce5, n5, projection) in INCEPTION.items():
        a = tutorial.conv(x, n1, 1)
        b = tutorial.conv(tutorial.conv(x, reduce3, 1), n3, 3)
        c = tutorial.conv(tutorial.conv(x, reduce5, 1), n5, 5)
        d = layers.MaxPooling2D(3, strides=1, padding="same")(tutorial.conv(x, projection, 1))
        x = layers.Concatenate()([a, b, c, d])
        if name in ("4a", "4d"):
            heads[f"aux{len(heads) + 1}"] = head(x)
        if name in ("3b", "4e", "5b"):
            x = pool(x)
    x = layers.Dropout(0.4)(layers.GlobalAveragePooling2D()(x))
    return {"logits": tutorial.dense(x, CLASSES), **heads}


def resnet(tutorial, image, blocks, bottleneck):
    from keras import layers

    x = layers.MaxPooling2D(3, strides=2, padding="same")(tutorial.normalised(image, 64, 7, 2))
    for stage, count in enumerate(blocks):
        filters = 64 * 2**stage
        for number in range(count):
            strides = 2 if stage > 0 and number == 0 else 1
            shapes = [(1, filters), (3, filters), (1, 4 * filters)] if bottleneck else [(3, filters), (3, filters)]
            y = tutorial.normalised(x, shapes[0][1], shapes[0][0], strides)
            for window, width in shapes[1:]:
                y = tutorial.normalised(y, width, window)
            if x.shape != y.shape:
                x = tutorial.normalised(x, shapes[-1][1], 1, strides)
            x = layers.Add()([y, x])
            x = x if bottleneck else layers.ReLU()(x)
    return {"logits": tutorial.dense(layers.GlobalAveragePooling2D()(x), CLASSES)}


IN_KERAS = {
    "googlenet_tutorial": ((224, 224), inception),
    "resnet18_tutorial": ((64, 96), lambda *given: resnet(*given, (2, 2, 2, 2), bottleneck=False)),
    "resnet34_tutorial": ((64, 96), lambda *given: resnet(*given, (3, 4, 6, 3), bottleneck=False)),
    "resnet50_tutorial": ((64, 96), lambda *given: resnet(*given, (3, 4, 6, 3), bottleneck=True)),
    "resnet101_tutorial": ((64, 96), lambda *given: resnet(*given, (3, 4, 23, 3), bottleneck=True)),
    "resnet152_tutorial": ((64, 96), lambda *given: resnet(*given, (3, 8, 36, 3), bottleneck=True)),
}


@pytest.mark.parametrize("architecture", daily("resnet18_tutorial", of=IN_KERAS))
def test_in_plain_keras(architecture):
    keras_impl = load_implementation("keras_impl")
    import keras

    size, write = IN_KERAS[architecture]
    weights = random_weights(architecture, 4, num_classes=CLASSES, image_size=size)
    image = layouts.to_channels_last(picture(1, 3, *size))
    ours = keras_impl.build(architecture, num_classes=CLASSES, image_size=size)
    keras_impl.load_weights(ours, weights)
    tutorial, given = Tutorial(weights), keras.layers.Input((*size, 3))
    theirs = keras.Model(given, write(tutorial, given))
    assert not list(tutorial.arrays)
    assert theirs.count_params() == ours.count_params()
    heads = importlib.import_module("keras_impl.graph").heads_of(ours)
    outputs = keras.Model(ours.input, heads)(image), theirs(image)
    assert outputs[0].keys() == outputs[1].keys()
    for name in heads:
        np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(output[name]) for output in outputs))
