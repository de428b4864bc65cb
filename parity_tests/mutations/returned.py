"""Mistakes around the layers: before the first, between two, after the last, and heads under each other's names."""

from __future__ import annotations

from parity_tests.injection import Mutant

_TORCH_END = """                fc2=nn.Linear(500, num_classes),
            )
        )
"""


def _torch_forward(*, image: str = "x", after_pool1: str = "x", returned: str = "x") -> str:
    return f"""{_TORCH_END}
    def forward(self, x):
        x = {image}
        for name, layer in self.named_children():
            x = layer(x)
            if name == "pool1":
                x = {after_pool1}
        return {returned}
"""


def _torch(mistake: str, layer: str, cause: str, **where: str) -> Mutant:
    new = _torch_forward(**where)
    return Mutant("torch_impl", "torch_impl/lenet.py", "lenet_caffe", mistake, _TORCH_END, new, layer, cause)


def _keras(mistake: str, old: str, new: str, layer: str, cause: str) -> Mutant:
    return Mutant("keras_impl", "keras_impl/lenet.py", "lenet_caffe", mistake, old, new, layer, cause)


def _tf1(mistake: str, old: str, new: str, layer: str, cause: str) -> Mutant:
    return Mutant("tf1_style_impl", "tf1_style_impl/lenet.py", "lenet_caffe", mistake, old, new, layer, cause)


_KERAS_INPUT = """    image = x = layers.Input((*image_size, 1), name="image")
    # Block 1
    x = layers.Conv2D(20,"""
_KERAS_POOL = '    x = layers.MaxPooling2D(2, strides=2, name="pool1")(x)'
_KERAS_END = 'return keras.Model(image, logits, name="lenet_caffe")'
_TF1_POOL = '    x = max_pool(x, 2, stride=2, name="pool1")'
_TF1_END = '    return fc(x, num_classes, name="fc2")'

MUTANTS = [
    _torch("the image is scaled in forward", "conv1", "stands between image and it", image="x * 1.01"),
    _torch("values are turned in forward", "conv2", "flip (lenet.py", after_pool1="x.flip(3)"),
    _torch("values are scaled in place", "conv2", "mul_ (lenet.py", after_pool1="x.mul_(1.01)"),
    _torch("a softmax is returned", "logits", "softmax (lenet.py", returned="torch.softmax(x, 1)"),
    _torch("the last class is not returned", "logits", "2×9 of float32", returned="x[:, :9]"),
    _torch("float64 is returned", "logits", "of float64", returned="x.double()"),
    Mutant(
        "torch_impl",
        "torch_impl/googlenet.py",
        "googlenet",
        "the heads are exchanged",
        '"aux1": self.aux1(after_4a), "aux2": self.aux2(after_4d)',
        '"aux2": self.aux1(after_4a), "aux1": self.aux2(after_4d)',
        "aux1",
        "the outputs aux1 and aux2 are exchanged",
    ),
    _keras(
        "an extra layer in front",
        _KERAS_INPUT,
        _KERAS_INPUT.replace("    # Block 1", "    x = layers.Rescaling(1.01)(x)"),
        "conv1",
        "Rescaling) stands between image and it",
    ),
    _keras(
        "an operation between two layers",
        _KERAS_POOL,
        f"{_KERAS_POOL}\n    x = x * 1.01",
        "conv2",
        "Multiply) stands between pool1 and it",
    ),
    _keras(
        "an extra layer after the last",
        _KERAS_END,
        _KERAS_END.replace("logits", "layers.Softmax()(logits)"),
        "logits",
        "softmax",
    ),
    _keras(
        "another layer is returned",
        _KERAS_END,
        _KERAS_END.replace("image, logits", "image, x"),
        "fc2",
        "fc2 is missing",
    ),
    _tf1(
        "an operation in front",
        "    x = conv(images, 5, 20",
        "    x = conv(images * 1.01, 5, 20",
        "conv1",
        "mul (Mul) stands between image and it",
    ),
    _tf1(
        "an operation between two layers",
        _TF1_POOL,
        f"{_TF1_POOL}\n    x = x * 1.01",
        "conv2",
        "mul (Mul) stands between pool1 and it",
    ),
    _tf1(
        "a softmax is returned",
        _TF1_END,
        '    return tf.nn.softmax(fc(x, num_classes, name="fc2"))',
        "logits",
        "Softmax (Softmax) stands between fc2 and the output",
    ),
    _tf1(
        "another layer is returned",
        _TF1_END,
        '    fc(x, num_classes, name="fc2")\n    return x',
        "logits",
        "it is the value of relu3",
    ),
]
