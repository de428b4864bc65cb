"""How to prepare photographs for a file's weights: the file says it, its names prove it, or the user says it.

It is never guessed. Networks trained in Caffe take BGR minus a mean, those trained in PyTorch take standardised RGB.
With the wrong preparation a network still answers with confidence, but wrongly.
"""

from __future__ import annotations

from common.errors import TriptychError, nearest
from common.porting.known import known_file
from common.porting.source import Source
from common.specs.architecture import Architecture, Preprocessing
from common.specs.googlenet import FROM_MINUS_1_TO_1
from common.specs.resnet import CAFFE, TORCHVISION

NAMED = {"torchvision": TORCHVISION, "caffe": CAFFE, "keras-torch": TORCHVISION, "keras-tf": FROM_MINUS_1_TO_1}
"""Names that stand for a preprocessing. The modes of `keras.applications` have Keras' names."""

UNKNOWN = (
    "nothing says how to prepare photographs for it; "
    f"state the preprocessing: {'|'.join(NAMED)}, or JSON such as "
    '{"channels": "RGB", "mean": [0, 0, 0], "scale": [255, 255, 255]}'
)


def stated(text: str, spec: Architecture) -> Preprocessing:
    """The preprocessing that a name or JSON describes.

    For Caffe's AlexNet and GoogLeNet, `caffe` means their own means.

    Raises:
        TriptychError: it is neither a name nor JSON, or does not fit the network's channels.
    """
    if text in NAMED:
        own = spec.preprocessing
        recipe = own if text == "caffe" and own.channels == "BGR" else NAMED[text]
    elif text.lstrip().startswith("{"):
        recipe = Preprocessing.from_json(text)
    else:
        raise TriptychError(f"no preprocessing is called {text!r}; {nearest(text, NAMED)} or give JSON")
    return checked(recipe, spec)


def checked(recipe: Preprocessing, spec: Architecture) -> Preprocessing:
    """A preprocessing, checked against the network's channels.

    Raises:
        TriptychError: it does not.
    """
    if len(recipe.channels) != spec.input_shape[0]:
        wanted = {1: "L", 3: "RGB or BGR"}[spec.input_shape[0]]
        raise TriptychError(
            f"a preprocessing with the channels {recipe.channels} is not for {spec.name}, which takes {wanted}"
        )
    return recipe


def preparation(
    source: Source, proved: Preprocessing | None, spec: Architecture, said: str | None
) -> Preprocessing | None:
    """How to prepare photographs, or None if that is not known.

    Args:
        source: the file.
        proved: the preprocessing that its names prove.
        spec: the network in it.
        said: the preprocessing that the user states, which counts first.

    Raises:
        TriptychError: the file or the user states something that is no preprocessing, or does not fit this network.
    """
    if said is not None:
        return stated(said, spec)
    if source.unprepared:
        raise TriptychError(f"{source.path} is {spec.name}, but {source.unprepared}")
    if source.preprocessing is not None:
        return checked(source.preprocessing, spec)
    if "preprocessing" in source.metadata:
        return checked(Preprocessing.from_json(source.metadata["preprocessing"]), spec)
    if proved is None and spec.name == "googlenet_bn" and known_file(source.sha256):
        return spec.preprocessing  # torchvision's own weights, with its `transform_input`
    return proved


def known_preparation(preprocessing: Preprocessing | None, path: object) -> Preprocessing:
    """The preprocessing, if there must be one.

    Raises:
        TriptychError: there is none.
    """
    if preprocessing is None:
        raise TriptychError(f"cannot prepare photographs for {path}: {UNKNOWN}")
    return preprocessing
