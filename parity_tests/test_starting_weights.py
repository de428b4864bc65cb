"""Where a training starts: no class is preferred, and the first steps lead downwards."""

import importlib
from math import log

import numpy as np
import pytest
from conftest import ALEXNETS, DEEPER, WIDER, daily, load_implementation

from common import TriptychError, get_spec, list_architectures, random_weights
from common.operations import BatchNorm
from common.training.batches import Batches
from common.training.data import digits
from common.training.recipe import Recipe, starting_weights
from common.training.run import Monitor

CLASSES = 10
LARGEST = log(CLASSES) * 1.1
SMALLEST = log(CLASSES) * 0.9


def small(name):
    """A network for ten classes on the smallest images that it takes, and a batch of digits, (N, C, H, W)."""
    normalises = any(isinstance(layer.operation, BatchNorm) for layer in get_spec(name).layers)
    for size in (64, 224, 227) if normalises else (32, 28, 64, 224, 227):
        try:
            spec = get_spec(name, num_classes=CLASSES, image_size=(size, size))
        except TriptychError:
            continue
        module = importlib.import_module("torch_impl.train")
        plan = Batches(spec, digits(), Recipe(batch_size=8 if normalises else 4))
        ((images, labels),) = module.loader(digits().train, plan, plan.batches(0)[:1])
        return spec, images, labels
    raise AssertionError(f"{name} takes none of these sizes")


QUICK = [name for name in list_architectures() if name not in (*DEEPER, *WIDER, *ALEXNETS)]


@pytest.mark.parametrize("name", daily(*QUICK, of=list_architectures()))
def test_every_loss_begins_near_that_of_a_guess(name):
    """In PyTorch, as it is while training; the weights are the same in every framework."""
    torch_impl = load_implementation("torch_impl")
    import torch

    from torch_impl.train import training_mode

    spec, images, labels = small(name)
    with torch.device("meta"):
        model = torch_impl.catalogue.BUILDERS[name](CLASSES)
    model = model.to_empty(device="cpu")
    torch_impl.load_weights(model, starting_weights(spec, 0))
    training_mode(model, dropout=False)
    with torch.no_grad():
        heads = model(images)
        heads = heads if isinstance(heads, dict) else {"logits": heads}
        losses = {head: torch.nn.functional.cross_entropy(logits, labels).item() for head, logits in heads.items()}
    assert losses.keys() == spec.outputs.keys()
    assert all(SMALLEST < loss < LARGEST for loss in losses.values()), losses


@pytest.mark.parametrize("name", daily("lenet5", "vgg16_gap", of=["lenet5", "vgg16_gap", "alexnet_single_tower"]))
def test_and_that_of_what_build_gives(implementation, name):
    """Without `starting_weights`: what the framework itself initialises, on pixels of 0…1 and of 0…255."""
    load_implementation("torch_impl")
    spec, images, labels = small(name)
    model = implementation.build(name, num_classes=CLASSES, image_size=spec.input_shape[1:])
    record = importlib.import_module(f"{implementation.__name__}.backend").record
    logits = record(model, images.numpy())[spec.outputs["logits"]].astype(np.float64)
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    assert SMALLEST < -np.log(shares[np.arange(len(labels)), labels]).mean() < LARGEST


@pytest.mark.parametrize("package", ["keras_impl", "torch_impl"])
def test_nothing_is_drawn_where_weights_are_loaded_next(package):
    implementation = load_implementation(package)
    spec, weights = get_spec("lenet_caffe"), random_weights("lenet_caffe", 0)
    with implementation.backend.uninitialised():
        model = implementation.build("lenet_caffe")
    kernels = [name for name in spec.parameter_shapes if name.endswith("/weight")]
    assert not any(implementation.read_weights(model)[name].any() for name in kernels)
    implementation.load_weights(model, weights)
    assert all((array == weights[name]).all() for name, array in implementation.read_weights(model).items())
    drawn = implementation.read_weights(implementation.build("lenet_caffe"))
    assert all(np.unique(drawn[name]).size > 1 for name in kernels)


class Enough(Exception):
    """Ends a training."""


class Losses(Monitor):
    """Of each step; ends the training after thirty."""

    def __init__(self):
        self.losses = []

    def step(self, step):
        self.losses.append(step.loss)
        if len(self.losses) == 30:
            raise Enough


SETTINGS = {
    # lenet_solver.prototxt in Caffe
    "lenet_caffe": Recipe(batch_size=64, learning_rate=0.01, momentum=0.9, weight_decay=5e-4, milestones=()),
    # Section 5 of Krizhevsky et al. 2012, with smaller batches
    "alexnet_mnist": Recipe(batch_size=8, learning_rate=0.01, momentum=0.9, weight_decay=5e-4, milestones=()),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_the_sources_own_settings_train(name):
    """In PyTorch; from the same weights the others go the same way (test_training.py)."""
    implementation = load_implementation("torch_impl")
    spec, monitor = get_spec(name, num_classes=CLASSES), Losses()
    model = implementation.build(name, num_classes=CLASSES)
    implementation.load_weights(model, starting_weights(spec, 0))
    with pytest.raises(Enough):
        implementation.train(model, digits(), SETTINGS[name], monitor=monitor)
    assert max(monitor.losses) < 1.5 * log(CLASSES)
    assert np.mean(monitor.losses[-10:]) < np.mean(monitor.losses[:10])
