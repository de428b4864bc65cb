"""What the project asks of every framework, here of NumPy: `common.implementations.contract.Backend`."""

from __future__ import annotations

import numpy as np

from common.errors import TriptychError, Unavailable
from common.operations.names import layer_of
from common.specs import get_spec
from common.specs.recording import Recording
from common.weights import check_weights
from numpy_impl.lenet import LeNetCaffe

FLATTENED = "C, H, W"


def build(architecture, *, num_classes=None, image_size=None, softmax=False):
    spec = get_spec(architecture, num_classes=num_classes, image_size=image_size)
    if spec != get_spec("lenet_caffe") or softmax:
        raise TriptychError(f"there is only lenet_caffe in NumPy, as it is, no {architecture}")
    return LeNetCaffe()


def build_float64(architecture, *, num_classes=None, image_size=None):
    model = build(architecture, num_classes=num_classes, image_size=image_size)
    model.weights = {name: array.astype(np.float64) for name, array in model.weights.items()}
    return model


def on_device(model, device, precision):
    if device != "cpu":
        raise Unavailable("NumPy computes on the CPU")
    return model


def load_weights(model, weights, *, skip=()):
    check_weights(model.SHAPES, weights, skip=skip)
    model.weights |= {name: np.array(array) for name, array in weights.items() if layer_of(name) not in skip}


def read_weights(model):
    return {name: array.copy() for name, array in model.weights.items()}


def structure(model):
    layers = run(model, np.zeros((1, 1, 32, 32), np.float32)).layers
    return {name: output.shape[1:] for name, output in layers.items()}, dict(model.SHAPES)


def wiring(model):
    return {}


def unnamed_operations(model):
    return {}


def run(model, image, injected=None, unnamed=None):
    layers = {}

    def see(name, output):
        layers[name] = output
        return (injected or {}).get(name, output)

    return Recording(layers, {"logits": model(image, see)})


def record(model, image, injected=None):
    return run(model, image, injected).layers


def predict(model, image):
    return {"logits": model(image)}


predict_heads = predict


def kernels():
    return {"NumPy": np.__version__}


def release():
    pass
