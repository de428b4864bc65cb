"""A Keras model goes on from its own `input` and `output`, as users write it: run once on each of Keras' backends.

`python -m parity_tests.keras_models` builds every network of the catalogue, but one depth only where one builder makes
several, as a functional model and as a Sequential one where there is that, puts a softmax after each output, and runs
those that are quickly run. It prints what is wrong, a line each.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator

import keras
import numpy as np
from keras import layers

from keras_impl.catalogue import BUILDERS

OTHER_DEPTHS = (
    *("vgg13", "vgg16", "vgg19", "vgg13_bn", "vgg16_bn", "vgg19_bn", "vgg19_gap"),
    *("resnet34", "resnet101", "resnet152", "resnet101_v1_5", "resnet152_v1_5"),
    *("resnet34_tutorial", "resnet101_tutorial", "resnet152_tutorial", "densenet161", "densenet169", "densenet201"),
)

QUICK = ("lenet5", "lenet5_sparse", "lenet_caffe", "alexnet_mnist")


def builders() -> Iterator[tuple[str, Callable[[], keras.Model]]]:
    for name, build in BUILDERS.items():
        if name not in OTHER_DEPTHS:
            yield name, build
            sequential = getattr(importlib.import_module(build.__module__), f"{name}_sequential", None)
            if sequential:
                yield f"{name}_sequential", sequential


def problems(name: str, model: keras.Model) -> Iterator[str]:
    """What is wrong with a model that is to have one tensor as its input, and one, or a dict of them, as its output."""
    outputs = model.output if isinstance(model.output, dict) else {"logits": model.output}
    if not all(isinstance(tensor, keras.KerasTensor) for tensor in (model.input, *outputs.values())):
        yield f"{name}: its input is {model.input}, its output {model.output}"
        return
    ending = keras.Model(model.input, {head: layers.Softmax()(tensor) for head, tensor in outputs.items()})
    if name.removesuffix("_sequential") in QUICK:
        image = np.random.default_rng(0).random((3, *model.input.shape[1:]), dtype=np.float32)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model(image)
            shares = ending.predict(image, verbose=0)["logits"]
        # Others are Keras' own affair: its tensors on PyTorch are not yet what NumPy 2 wants.
        caught = [warning for warning in caught if "structure of `inputs`" in str(warning.message)]
        if caught or shares.shape != (3, 10) or abs(shares.sum(1) - 1).max() > 1e-5:
            yield f"{name}: {[str(warning.message) for warning in caught]}, {shares.shape}, sums {shares.sum(1)}"


def main() -> None:
    """Build without drawing 700 million random numbers, and say how many models there were."""
    add_weight = layers.Layer.add_weight
    layers.Layer.add_weight = lambda self, *args, **kwargs: add_weight(self, *args, **kwargs | {"initializer": "zeros"})
    count = 0
    for name, build in builders():
        count += 1
        for problem in problems(name, build()):
            print(problem)
        keras.backend.clear_session()
    print(f"{count} models on {keras.backend.backend()}")


if __name__ == "__main__":
    main()
