"""How a photograph is prepared before the first layer."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from math import isfinite

from common.errors import TriptychError


@dataclass(frozen=True)
class Preprocessing:
    """How a photograph becomes the network's input: (pixel − mean) / scale, for each channel in the stated order.

    Pixels are 0…255; `mean` and `scale` follow `channels`.
    """

    channels: str = "RGB"
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    scale: tuple[float, ...] = (1.0, 1.0, 1.0)

    def as_json(self) -> str:
        """As it stands in the metadata of files: `{"channels": "BGR", "mean": [104.0, …], "scale": [1.0, …]}`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Preprocessing:
        """The inverse of `as_json`.

        Raises:
            TriptychError: the text is no such thing.
        """
        try:
            found = json.loads(text)
            recipe = cls(found["channels"], tuple(map(float, found["mean"])), tuple(map(float, found["scale"])))
        except (ValueError, TypeError, KeyError):
            raise TriptychError(f"{text!r} is no preprocessing, expected something like {cls().as_json()}") from None
        lengths = {len(recipe.channels), len(recipe.mean), len(recipe.scale)}
        finite = all(map(isfinite, (*recipe.mean, *recipe.scale)))
        if recipe.channels not in ("RGB", "BGR", "L") or len(lengths) > 1 or 0 in recipe.scale or not finite:
            raise TriptychError(
                f"{text!r} is no preprocessing: channels are RGB, BGR or L, a mean and a scale for each"
            )
        return recipe
