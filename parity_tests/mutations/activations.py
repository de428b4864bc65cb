"""Mistakes in activations: what newer networks have in place of a ReLU, and what is done to logits."""

from functools import partial

from parity_tests.injection import Mutant

_torch = partial(Mutant, "torch_impl", "torch_impl/lenet.py", "lenet_caffe")
_keras = partial(Mutant, "keras_impl", "keras_impl/lenet.py", "lenet_caffe", occurrence=None)
_tf1 = partial(Mutant, "tf1_style_impl", "tf1_style_impl/lenet.py", "lenet_caffe")


def _torch_relu(mistake: str, activation: str, cause: str | None) -> Mutant:
    return _torch(mistake, "relu1=nn.ReLU()", f"relu1={activation}", "relu1", cause)


def _keras_relu(mistake: str, activation: str, cause: str | None) -> Mutant:
    return _keras(mistake, 'layers.ReLU(name="relu1")', f'{activation}, name="relu1")', "relu1", cause)


def _tf1_relu(mistake: str, activation: str, cause: str | None) -> Mutant:
    new = f'x = tf.identity({activation}, name="relu1")'
    return _tf1(mistake, 'x = tf.nn.relu(x, name="relu1")', new, "relu1", cause)


def _keras_logits(mistake: str, activation: str, cause: str | None) -> Mutant:
    dense = 'layers.Dense(num_classes, {}name="fc2")'
    return _keras(mistake, dense.format(""), dense.format(f"activation={activation}, "), "fc2", cause)


_GELU = "0.5 * x * (1 + tf.tanh(0.7978845608 * (x + 0.044715 * x**3)))"
"""As TensorFlow 1 had to write it."""

MUTANTS = [
    _torch_relu("GELU", "nn.GELU()", "a GELU is taken, not a ReLU"),
    _torch_relu("SiLU", "nn.SiLU()", "a SiLU is taken, not a ReLU"),
    _torch_relu("ELU", "nn.ELU()", "an ELU is taken, not a ReLU"),
    _torch_relu("Mish", "nn.Mish()", "a Mish is taken, not a ReLU"),
    _torch_relu("hard swish", "nn.Hardswish()", "a hard swish is taken, not a ReLU"),
    _torch_relu("soft shrinkage", "nn.Softshrink(0.5)", None),
    _torch_relu("a threshold of 1", "nn.Threshold(1.0, 0.0)", None),
    _keras_relu("SELU", 'layers.Activation("selu"', "a SELU is taken, not a ReLU"),
    _keras_relu("softplus", 'layers.Activation("softplus"', "a softplus is taken, not a ReLU"),
    _keras_relu("an odd slope", "layers.LeakyReLU(0.05", "negative values are multiplied by 0.05"),
    _keras_relu("capped early", "layers.ReLU(max_value=0.25", "the ReLU is capped at 0.25"),
    _keras_relu("softsign", 'layers.Activation("softsign"', None),
    _tf1_relu("GELU, approximated", _GELU, "a GELU by its approximation"),
    _tf1_relu("the absolute value", "tf.abs(x)", "the absolute value is taken"),
    _tf1_relu("a ReLU, squared", "tf.square(tf.nn.relu(x))", None),
    _tf1_relu("a ReLU, scaled", "1.5 * tf.nn.relu(x)", "the result is multiplied by 1.5"),
    _tf1_relu("minus a ReLU", "-tf.nn.relu(-x)", None),
    _keras_logits("log-softmax", '"log_softmax"', "the logarithm of a softmax is taken"),
    _keras_logits("a sigmoid", '"sigmoid"', "a sigmoid is applied"),
    _keras_logits("a temperature", "lambda x: x / 4", "the result is multiplied by 0.25"),
]
