"""The contract of an implementation: a package, with a module `backend` and, if it can, `gradients`.

A type checker holds the three packages to it (`parity_tests/held_to_contract.py`), and docs/add_a_backend.md prints it.
`M` is the framework's own kind of model.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    import numpy as np

    from common.onnx.options import ExportOptions
    from common.operations import Shape
    from common.specs.recording import Recording, Unnamed
    from common.training.data import Data
    from common.training.recipe import Recipe
    from common.training.run import Epoch, Monitor
    from common.weights import Weights

M = TypeVar("M")
N = TypeVar("N", contravariant=True)
Arrays = Mapping[str, "np.ndarray"]


class Backend(Protocol[M]):
    """`PACKAGE.backend`: builds a model, gives it weights, and runs it with every layer recorded.

    If initialisation takes long, a module may also have a context manager `uninitialised`. A model that is built in it
    gets all its weights before it runs.

    Layers and parameters have their canonical names. Arrays are float32: kernels (out, in, height, width) and (out,
    in), maps (N, C, H, W), vectors (N, features).
    """

    @property
    def FLATTENED(self) -> str:
        """The order in which the framework flattens maps: `C, H, W` or `H, W, C`."""

    def build(
        self,
        architecture: str,
        /,
        *,
        num_classes: int | None = None,
        image_size: tuple[int, int] | None = None,
        softmax: bool = False,
    ) -> M:
        """A model in evaluation mode, with the framework's own initialisation. It returns logits, or probabilities with
        `softmax`."""

    def build_float64(
        self, architecture: str, /, *, num_classes: int | None = None, image_size: tuple[int, int] | None = None
    ) -> M:
        """The same in float64, for trajectories."""

    def on_device(self, model: M, device: str, precision: str, /) -> M:
        """The model on `cpu` or `cuda`, in `fp32` or `tf32`."""

    def load_weights(self, model: M, weights: Weights, /, *, skip: Collection[str] = ()) -> None:
        """Set every parameter, except those of the layers to skip. Weights that do not fit are refused before the model
        is changed."""

    def read_weights(self, model: M, /) -> dict[str, np.ndarray]:
        """Every parameter."""

    def structure(self, model: M, /) -> tuple[dict[str, Shape], dict[str, Shape]]:
        """The shapes of the layers' outputs, without the batch, and of the parameters, without computing."""

    def wiring(self, model: M, /) -> dict[str, list[str]]:
        """The layers that each layer reads, as far as that is known."""

    def unnamed_operations(self, model: M, /) -> dict[str, list[str]]:
        """For each layer, the operations before it that are no layers of the specification."""

    def run(self, model: M, image: np.ndarray, injected: Arrays | None = None, unnamed: Unnamed = ..., /) -> Recording:
        """Every layer's output, and what the model returns. `injected` replaces the output of a layer for the layers
        that read it."""

    def record(self, model: M, image: np.ndarray, injected: Arrays | None = None, /) -> dict[str, np.ndarray]:
        """The layers alone."""

    def predict(self, model: M, image: np.ndarray, /) -> Arrays:
        """The logits of the model as it is deployed, by the name of the output."""

    def predict_heads(self, model: M, image: np.ndarray, /) -> Arrays:
        """Every output of the model as it is deployed, also those of auxiliary heads."""

    def kernels(self) -> dict[str, str]:
        """The kernels that this process uses, by library, as far as the framework tells."""

    def release(self) -> None:
        """Free the memory of models that are no longer used."""


class Gradients(Protocol[N]):
    """`PACKAGE.gradients`: the backward pass."""

    def record_gradients(
        self,
        model: N,
        image: np.ndarray,
        /,
        *,
        injected: Arrays,
        drives: Arrays,
        labels: np.ndarray | None,
        training: bool,
    ) -> dict[str, dict[str, np.ndarray]]:
        """The gradients with respect to every layer's output, input and parameters; see `common.parity.gradients`."""


class Implementation(Protocol[M]):
    """The package itself: the functions for its users."""

    def build(
        self,
        architecture: str,
        /,
        *,
        num_classes: int | None = None,
        image_size: tuple[int, int] | None = None,
        softmax: bool = False,
    ) -> M:
        """As in `Backend`, and the next two."""

    def load_weights(self, model: M, weights: Weights, /, *, skip: Collection[str] = ()) -> None: ...

    def read_weights(self, model: M, /) -> dict[str, np.ndarray]: ...

    def export_onnx(self, model: M, path: str | Path, options: ExportOptions = ..., /) -> None:
        """Write the model as an ONNX file."""

    def save_weights(self, model: M, path: Path, /, *, metadata: Mapping[str, str] | None = None) -> None:
        """Write the weights in the framework's own format."""

    def restore_weights(self, model: M, path: Path, /) -> M | None:
        """Read a file of `save_weights` into the model, or into a new model, which is returned."""

    def train(
        self,
        model: M,
        data: Data,
        recipe: Recipe = ...,
        /,
        *,
        folder: Path | None = None,
        resume: bool = False,
        monitor: Monitor = ...,
    ) -> list[Epoch]:
        """Train in the framework's own idiom; returns the history."""
