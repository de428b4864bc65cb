"""The proof of Keras models on each of Keras' backends, layer by layer."""

import importlib.util

import numpy as np
import pytest
from conftest import daily

PACKAGES = ("keras", "torch", "tensorflow", "jax", "onnxruntime", "onnxscript")
missing = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")

from common.prove.api import prove  # noqa: E402
from common.prove.keras_layers import called_in_graph  # noqa: E402

MINE = '''
import keras
from keras import layers

TENSORFLOW, JAX = (keras.backend.backend() == name for name in ("tensorflow", "jax"))


class Block(layers.Layer):
    """Composed, with arithmetic of its own."""

    def __init__(self, **options):
        super().__init__(**options)
        self.conv = layers.Conv2D(6, (3, 5), padding="same", name="inner")
        self.norm = layers.BatchNormalization(epsilon=1e-2 if TENSORFLOW else 1e-3, name="inner_norm")

    def call(self, x):
        return x + self.norm(self.conv(x))


class Mine(keras.Model):
    """Subclassed, with a Sequential inside."""

    def __init__(self):
        super().__init__()
        self.stem = keras.Sequential([layers.Conv2D(6, 3, strides=2, padding="same", activation="relu", name="stem")])
        self.block = Block(name="block")
        self.mean = layers.GlobalAveragePooling2D(name="mean")
        self.head = layers.Dense(4, activation="silu" if JAX else "gelu", name="head")

    def call(self, x):
        return self.head(self.mean(self.block(self.stem(x))))


def build():
    keras.utils.set_random_seed(1)
    return Mine()
'''


@pytest.mark.parametrize("jax", daily(False, of=(False, True)))
def test_each_backend_is_judged_and_a_fault_in_one_is_named_by_its_layer(jax, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    rows = ("keras-torch", "keras-tensorflow", *(["keras-jax"] if jax else []), "onnxruntime")
    report = prove(f"{tmp_path}/mine.py:build", input_shape=(2, 9, 11, 3), probes=["random"], backends=rows)
    (run,) = report.runs
    assert {layer.source for layer in run.backends[0].layers} >= {"stem (Conv2D)", "inner_norm (BatchNormalization)"}
    found = {row.backend: row for row in run.backends}
    assert tuple(found) == rows
    assert {found[name].verdict for name in ("keras-torch", "onnxruntime")} == {"certified"}
    faults = {"keras-tensorflow": "inner_norm (BatchNormalization)"} | ({"keras-jax": "head (Dense)"} if jax else {})
    assert f"{rows[-2]} on the random probe" in str(report)
    for name, layer in faults.items():
        assert (found[name].status, found[name].source) == ("diverged", layer)
        assert [each.source for each in found[name].layers if each.verdict == "diverged"] == [layer]


def test_a_layer_is_found_by_what_it_makes():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    values = {"a": x, "turned": x.T, "relu": x.copy(), "b": x + np.float32(1e-6), "c": x + 5}
    layers = {"0:one": x, "1:same": x, "2:again": x, "3:near": x + np.float32(5.001), "4:far": x + 7}
    assert called_in_graph(layers, values) == {"0:one": "a", "1:same": "relu", "3:near": "c"}
