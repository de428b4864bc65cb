"""Options and fixtures of the suite. Frameworks are imported by the tests that use them, so that collecting is quick.

`pytest parity_tests` runs everything on the CPU. `--backend` (repeatable) leaves out what belongs to other backends and
proves each network of the catalogue in those; `--device cuda` or `webgpu` does so on a GPU, and leaves out all else.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from types import ModuleType

import pytest
from threadpoolctl import threadpool_limits

from common import TriptychError, list_architectures
from common.implementations import FRAMEWORKS
from common.onnx.adapters import Adapter, require_adapter
from common.parity.backends import DEVICES, Backend, select
from common.process import template
from common.process.sparing import spare_imports

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # each process its share of the cores, or they wait for each other
    share = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(variable, str(share))
    threadpool_limits(share, user_api="blas")  # NumPy was loaded by a plugin, before the variables were set

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as under nohup; processes that tests interrupt would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
spare_imports()
template.ANEW = 0  # the tests start more than one of each kind

IMPLEMENTATIONS = tuple(framework.package for framework in FRAMEWORKS.values())

DEEPER = (
    *("vgg13", "vgg16", "vgg19", "vgg13_bn", "vgg16_bn", "vgg19_bn", "vgg19_gap"),
    *("resnet34", "resnet101", "resnet152", "resnet101_v1_5", "resnet152_v1_5"),
    *("resnet34_tutorial", "resnet101_tutorial", "resnet152_tutorial"),
    *("densenet161", "densenet169", "densenet201"),
)
"""The same builder as another's, with another depth or width: of these, the quick suite examines the structure."""

WIDER = (
    *("vgg11", "vgg11_bn", "resnet18_tutorial", "resnet50", "resnet50_tutorial", "resnet50_v1_5"),
    *("googlenet", "googlenet_tutorial"),
)
"""Of these too: VGG-16 without its top, ResNet-18 and GoogLeNet with batch normalisations are examined further, and
other tests are about what these have of their own."""

ALEXNETS = (
    *("caffenet", "alexnet_paper", "alexnet_tf_tutorial", "alexnet_single_tower"),
    *("alexnet_four_conv", "alexnet_d2l", "alexnet_owt"),
)
"""Of these too: `alexnet_bvlc` and `alexnet_mnist` have every kind of layer that they have."""


@cache
def load_implementation(name: str) -> ModuleType:
    """Import one of the three packages. PyTorch goes first: loaded after TensorFlow it can crash.

    What has been imported stays, so `release` need not look at it again, which would take half a second.
    """
    pytest.importorskip("torch")
    package = importlib.import_module(name)
    gc.freeze()
    return package


@contextmanager
def without_weights(package: str) -> Iterator[None]:
    """Models are built with the names and shapes of their parameters, and no numbers in them."""
    if package == "torch_impl":
        import torch

        with torch.device("meta"):
            yield
    elif package == "keras_impl":
        import keras

        with keras.StatelessScope(initialize_variables=False):
            yield
        keras.backend.clear_session(free_memory=False)  # else the next such scope would initialise them
    else:
        with importlib.import_module(package).backend.uninitialised():
            yield


def built(package: str, architecture: str, **options: object) -> object:
    """A model, for whoever loads weights next: it holds no numbers of its own where these would take time."""
    backend = importlib.import_module(f"{package}.backend")
    with getattr(backend, "uninitialised", nullcontext)():
        return backend.build(architecture, **options)


def daily(*chosen: object, of: Iterable = IMPLEMENTATIONS) -> list:
    """The cases of a test, of which those chosen are run every day, and the others, which show it again, are slow."""
    return [pytest.param(case, marks=[] if case in chosen else pytest.mark.slow, id=str(case)) for case in of]


def in_daily(*packages: str) -> pytest.MarkDecorator:
    """The test runs in these implementations every day; in the others, which show the same again, it is slow."""
    return pytest.mark.parametrize("implementation", daily(*packages), indirect=True)


@pytest.fixture(scope="module", autouse=True)
def variables_as_before() -> Iterator[None]:
    """Libraries set variables when they are imported. Without these, what is started later has the environment of what
    was started before, and can be copied from the same templates."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(params=IMPLEMENTATIONS, scope="module")
def implementation(request: pytest.FixtureRequest) -> ModuleType:
    """Each of the three packages in turn."""
    return load_implementation(request.param)


@pytest.fixture(scope="module")
def adapter() -> Iterator[Adapter]:
    """The adapter that is computed on, with the variables by which this process gets it."""
    try:
        found = require_adapter()
    except TriptychError as error:
        pytest.skip(str(error))
    before = dict(os.environ)
    os.environ.update(found.environment)
    yield found.chosen
    os.environ.clear()
    os.environ.update(before)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("triptych")
    group.addoption("--backend", action="append", metavar="NAME", help="test this backend; may be repeated")
    group.addoption("--device", choices=DEVICES, help="prove every network on this device")


def pytest_configure(config: pytest.Config) -> None:
    try:
        selected(config)
    except TriptychError as error:
        raise pytest.UsageError(str(error)) from None


def selected(config: pytest.Config) -> list[Backend]:
    """The backends that the command line names, or all."""
    return select(config.getoption("backend"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `network` and `backend` is about each network in each backend that is asked for."""
    if {"network", "backend"} <= set(metafunc.fixturenames):
        if metafunc.config.getoption("backend") or metafunc.config.getoption("device"):
            metafunc.parametrize("network", list_architectures(), scope="module")
            metafunc.parametrize("backend", [backend.name for backend in selected(metafunc.config)])
        else:
            reason = "no --backend and no --device is given; other tests run every network on the CPU"
            nothing = pytest.param("any network", "any backend", marks=pytest.mark.skip(reason=reason))
            metafunc.parametrize(("network", "backend"), [nothing], scope="module")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what belongs to other backends or another device than the command line names."""
    packages = {backend.implementation for backend in selected(config)}
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        about = parameters.get("package") or parameters.get("implementation") or parameters.get("mutant")
        package = getattr(about, "package", about)
        if config.getoption("device") in ("cuda", "webgpu") and "network" not in parameters:
            item.add_marker(pytest.mark.skip(reason="uses no GPU; test_backends.py does"))
        elif package in IMPLEMENTATIONS and package not in packages:
            item.add_marker(pytest.mark.skip(reason=f"of {package}, which none of the backends given is"))
