"""LeNet in Keras; the chains as a Sequential model and as a functional one."""

import keras
from keras import layers

from keras_impl.layers import ScaledTanh, SelectChannels, SubSampling, called

# The maps of S2 that each filter of C3 reads: the columns of the paper's Table I.
MAPS_OF_C3 = [
    [0, 1, 2],
    [1, 2, 3],
    [2, 3, 4],
    [3, 4, 5],
    [0, 4, 5],
    [0, 1, 5],
    [0, 1, 2, 3],
    [1, 2, 3, 4],
    [2, 3, 4, 5],
    [0, 3, 4, 5],
    [0, 1, 4, 5],
    [0, 1, 2, 5],
    [0, 1, 3, 4],
    [1, 2, 4, 5],
    [0, 2, 3, 5],
    [0, 1, 2, 3, 4, 5],
]


def lenet5_sequential(num_classes: int = 10, image_size: tuple[int, int] = (32, 32)) -> keras.Sequential:
    """`lenet5` as a Sequential model."""
    model = keras.Sequential(
        [
            layers.Input((*image_size, 1), name="image"),
            # Block 1
            layers.Conv2D(6, 5, name="c1"),  # 28×28×6
            SubSampling(name="s2"),  # 14×14×6
            layers.Activation("sigmoid", name="sigmoid2"),
            # Block 2
            layers.Conv2D(16, 5, name="c3"),  # 10×10×16
            SubSampling(name="s4"),  # 5×5×16
            layers.Activation("sigmoid", name="sigmoid4"),
            # Block 3
            layers.Conv2D(120, 5, name="c5"),  # 1×1×120
            ScaledTanh(amplitude=1.7159, slope=2 / 3, name="tanh5"),
            # Classifier
            layers.Flatten(name="flatten"),  # 120
            layers.Dense(84, name="f6"),
            ScaledTanh(amplitude=1.7159, slope=2 / 3, name="tanh6"),
            layers.Dense(num_classes, name="output"),
        ],
        name="lenet5",
    )
    return called(model)


def lenet5(num_classes: int = 10, image_size: tuple[int, int] = (32, 32)) -> keras.Model:
    """LeNet-5 as it is usually taught: C3 reads every map of S2, and the output is a dense layer.

    Takes (N, 32, 32, 1) float32; gives (N, num_classes) logits. The paper connects C3 sparsely (see `lenet5_sparse`)
    and ends in radial basis functions. Nothing squashes what a sub-sampling reads.

    Source: section II.B and appendix A of LeCun et al. 1998.
    """
    image = x = layers.Input((*image_size, 1), name="image")
    # Block 1
    x = layers.Conv2D(6, 5, name="c1")(x)  # 28×28×6
    x = SubSampling(name="s2")(x)  # 14×14×6
    x = layers.Activation("sigmoid", name="sigmoid2")(x)
    # Block 2
    x = layers.Conv2D(16, 5, name="c3")(x)  # 10×10×16
    x = SubSampling(name="s4")(x)  # 5×5×16
    x = layers.Activation("sigmoid", name="sigmoid4")(x)
    # Block 3
    x = layers.Conv2D(120, 5, name="c5")(x)  # 1×1×120
    x = ScaledTanh(amplitude=1.7159, slope=2 / 3, name="tanh5")(x)
    # Classifier
    x = layers.Flatten(name="flatten")(x)  # 120
    x = layers.Dense(84, name="f6")(x)
    x = ScaledTanh(amplitude=1.7159, slope=2 / 3, name="tanh6")(x)
    logits = layers.Dense(num_classes, name="output")(x)
    return keras.Model(image, logits, name="lenet5")


def _sparse_c3(x):
    """Sixteen convolutions of one filter, each on its own choice of maps."""
    filtered = []
    for number, maps in enumerate(MAPS_OF_C3, start=1):
        selected = SelectChannels(maps, name=f"c3_maps{number}")(x)
        filtered.append(layers.Conv2D(1, 5, name=f"c3_map{number}")(selected))
    return layers.Concatenate(name="c3_output")(filtered)


def lenet5_sparse(num_classes: int = 10, image_size: tuple[int, int] = (32, 32)) -> keras.Model:
    """LeNet-5 with the paper's connection table: each filter of C3 reads three, four or all six maps of S2.

    Sixteen small convolutions instead of one: 1,516 parameters in C3 instead of 2,416, and more time, since no
    framework has an operation for it. Otherwise `lenet5`.

    Source: section II.B and Table I of LeCun et al. 1998.
    """
    image = x = layers.Input((*image_size, 1), name="image")
    # Block 1
    x = layers.Conv2D(6, 5, name="c1")(x)  # 28×28×6
    x = SubSampling(name="s2")(x)  # 14×14×6
    x = layers.Activation("sigmoid", name="sigmoid2")(x)
    # Block 2
    x = _sparse_c3(x)  # 10×10×16
    x = SubSampling(name="s4")(x)  # 5×5×16
    x = layers.Activation("sigmoid", name="sigmoid4")(x)
    # Block 3
    x = layers.Conv2D(120, 5, name="c5")(x)  # 1×1×120
    x = ScaledTanh(amplitude=1.7159, slope=2 / 3, name="tanh5")(x)
    # Classifier
    x = layers.Flatten(name="flatten")(x)  # 120
    x = layers.Dense(84, name="f6")(x)
    x = ScaledTanh(amplitude=1.7159, slope=2 / 3, name="tanh6")(x)
    logits = layers.Dense(num_classes, name="output")(x)
    return keras.Model(image, logits, name="lenet5_sparse")


def lenet_caffe_sequential(num_classes: int = 10, image_size: tuple[int, int] = (32, 32)) -> keras.Sequential:
    """`lenet_caffe` as a Sequential model."""
    model = keras.Sequential(
        [
            layers.Input((*image_size, 1), name="image"),
            # Block 1
            layers.Conv2D(20, 5, padding="same", name="conv1"),  # 32×32×20
            layers.ReLU(name="relu1"),
            layers.MaxPooling2D(2, strides=2, name="pool1"),  # 16×16×20
            # Block 2
            layers.Conv2D(50, 5, padding="same", name="conv2"),  # 16×16×50
            layers.ReLU(name="relu2"),
            layers.MaxPooling2D(2, strides=2, name="pool2"),  # 8×8×50
            # Classifier
            layers.Flatten(name="flatten"),  # 3200, in the order H, W, C
            layers.Dense(500, name="fc1"),
            layers.ReLU(name="relu3"),
            layers.Dense(num_classes, name="fc2"),
        ],
        name="lenet_caffe",
    )
    return called(model)


def lenet_caffe(num_classes: int = 10, image_size: tuple[int, int] = (32, 32)) -> keras.Model:
    """LeNet with the widths of Caffe's example (20, 50, 500), max-pooling and ReLU, on a padded 32×32 image.

    Takes (N, 32, 32, 1) float32; gives (N, num_classes) logits. Caffe's own (`lenet_bvlc`) takes 28×28, does not pad,
    and has a ReLU after its first dense layer only; the padding makes fc1 four times as large.

    Source: examples/mnist/lenet.prototxt in Caffe, with the changes above.
    """
    image = x = layers.Input((*image_size, 1), name="image")
    # Block 1
    x = layers.Conv2D(20, 5, padding="same", name="conv1")(x)  # 32×32×20
    x = layers.ReLU(name="relu1")(x)
    x = layers.MaxPooling2D(2, strides=2, name="pool1")(x)  # 16×16×20
    # Block 2
    x = layers.Conv2D(50, 5, padding="same", name="conv2")(x)  # 16×16×50
    x = layers.ReLU(name="relu2")(x)
    x = layers.MaxPooling2D(2, strides=2, name="pool2")(x)  # 8×8×50
    # Classifier
    x = layers.Flatten(name="flatten")(x)  # 3200, in the order H, W, C
    x = layers.Dense(500, name="fc1")(x)
    x = layers.ReLU(name="relu3")(x)
    logits = layers.Dense(num_classes, name="fc2")(x)
    return keras.Model(image, logits, name="lenet_caffe")
