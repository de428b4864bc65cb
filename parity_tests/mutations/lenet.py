"""Mistakes in LeNet: sub-sampling, squashing, the connection table."""

from functools import partial

from parity_tests.injection import Mutant

_torch = partial(Mutant, "torch_impl", "torch_impl/lenet.py")
_torch_layers = partial(Mutant, "torch_impl", "torch_impl/layers.py")
_keras = partial(Mutant, "keras_impl", "keras_impl/lenet.py", occurrence=None)
_keras_layers = partial(Mutant, "keras_impl", "keras_impl/layers.py")
_tf1 = partial(Mutant, "tf1_style_impl", "tf1_style_impl/lenet.py")
_tf1_layers = partial(Mutant, "tf1_style_impl", "tf1_style_impl/layers.py")

MUTANTS = [
    _torch(
        "lenet5",
        "a plain tanh",
        "tanh5=ScaledTanh(amplitude=1.7159, slope=2 / 3)",
        "tanh5=nn.Tanh()",
        "tanh5",
        "the hyperbolic tangent is not scaled",
    ),
    _tf1_layers(
        "lenet5",
        "the tanh's amplitude forgotten",
        "tf.multiply(tf.constant(amplitude, x.dtype),",
        "tf.multiply(1.0,",
        "tanh5",
        "the amplitude is missing",
    ),
    _keras(
        "lenet5",
        "the tanh's slope rounded",
        'slope=2 / 3, name="tanh6"',
        'slope=0.6667, name="tanh6"',
        "tanh6",
        "the slope is 0.6667",
    ),
    _torch_layers(
        "lenet5",
        "sub-sampling takes the mean",
        "functional.avg_pool2d(x, 2, divisor_override=1)",
        "functional.avg_pool2d(x, 2)",
        "s2",
        "the mean is taken, not the sum",
    ),
    _torch_layers(
        "lenet5_sparse",
        "sub-sampling takes the maximum",
        "functional.avg_pool2d(x, 2, divisor_override=1)",
        "functional.max_pool2d(x, 2)",
        "s2",
        "the maximum is taken, not the sum",
    ),
    _tf1_layers(
        "lenet5",
        "coefficient and bias of the sub-sampling exchanged",
        "sums * weight, bias",
        "sums * bias, weight",
        "s2",
        "coefficient and bias are exchanged",
    ),
    _keras_layers(
        "lenet5",
        "no trainable coefficient",
        "4 * means * self.weight + self.bias",
        "means",
        "s2",
        "coefficient and bias are missing, and the mean is taken",
    ),
    _keras(
        "lenet5",
        "tanh for the sigmoid",
        'Activation("sigmoid", name="sigmoid4")',
        'Activation("tanh", name="sigmoid4")',
        "sigmoid4",
        "a hyperbolic tangent is taken, not a sigmoid",
    ),
    _tf1(
        "lenet5", "ReLU for the sigmoid", "tf.sigmoid(x,", "tf.nn.relu(x,", "sigmoid2", "a ReLU is taken, not a sigmoid"
    ),
    _torch(
        "lenet5", "c5 without bias", "120, kernel_size=5", "120, kernel_size=5, bias=False", "c5", "c5/bias is missing"
    ),
    _tf1(
        "lenet5_sparse",
        "connection table shifted by a column",
        "enumerate(MAPS_OF_C3, start=1)",
        "enumerate([*MAPS_OF_C3[1:6], MAPS_OF_C3[0], *MAPS_OF_C3[6:]], start=1)",
        "c3/maps1",
        "the channels (1, 2, 3) are taken, not (0, 1, 2)",
    ),
    _torch(
        "lenet5_sparse",
        "connection table counted from 1",
        "SelectChannels(maps)",
        "SelectChannels([(number + 1) % 6 for number in maps])",
        "c3/maps1",
        "the channels (1, 2, 3) are taken, not (0, 1, 2)",
    ),
    _keras(
        "lenet5_sparse",
        "filters of c3 in another order",
        'layers.Concatenate(name="c3_output")(filtered)',
        'layers.Concatenate(name="c3_output")(filtered[::-1])',
        "c3/output",
        "the inputs are in reverse order",
    ),
    _keras(
        "lenet_caffe",
        "conv1 not padded",
        'layers.Conv2D(20, 5, padding="same"',
        "layers.Conv2D(20, 5",
        "conv1",
        "as if the padding is missing",
    ),
    _torch(
        "lenet_caffe",
        "average for maximum",
        "pool1=nn.MaxPool2d",
        "pool1=nn.AvgPool2d",
        "pool1",
        "the average is taken, not the maximum",
    ),
    _keras(
        "lenet_caffe",
        "softmax in the logits",
        'layers.Dense(num_classes, name="fc2")',
        'layers.Dense(num_classes, activation="softmax", name="fc2")',
        "fc2",
        "a softmax is applied",
    ),
    _keras(
        "lenet_caffe",
        "softmax twice",
        'layers.Dense(num_classes, name="fc2")',
        'layers.Dense(num_classes, activation=lambda x: keras.ops.softmax(keras.ops.softmax(x)), name="fc2")',
        "fc2",
        "a softmax is applied twice",
    ),
    _keras(
        "lenet_caffe",
        "ReLU on the logits",
        'layers.Dense(num_classes, name="fc2")',
        'layers.Dense(num_classes, activation="relu", name="fc2")',
        "fc2",
        "a ReLU is applied that belongs to another layer",
    ),
    _tf1(
        "lenet_caffe",
        "a dense layer reads what it should not",
        'x = tf.nn.relu(x, name="relu3")\n    return fc(x,',
        'tf.nn.relu(x, name="relu3")\n    return fc(x,',
        "fc2",
        "it reads fc1, not relu3",
    ),
]
