"""Converts the statistics of a batch normalisation into the form of this project."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from common.operations.names import layer_of
from common.porting.candidates import Placement
from common.porting.source import Source
from common.porting.turning import Ported
from common.specs.architecture import Layer


def canonical_statistics(
    placed: Placement, layer: Layer, parameters: Mapping[str, Ported], source: Source
) -> dict[str, Ported]:
    """Mean and variance of a layer.

    If the file's convolution has a bias that this project's does not have, the bias is moved into the mean: gamma · (x
    + b − mean) …. Another eps is moved into the variance: √(variance + eps). Caffe stores both multiplied by a factor.
    This is computed in float64 and rounded once; the error is kept with the parameter.
    """
    candidate, tensors = placed.candidate, placed.tensors
    names = candidate.convention.names(candidate.spec)
    mean, variance = (parameters[f"{layer.name}/{kind}"] for kind in ("mean", "variance"))
    bias_name = f"{names.get(f'{layer.inputs[0]}/weight', '').removesuffix('weight')}bias"
    bias = tensors[bias_name].astype(np.float64) if bias_name in candidate.optional and bias_name in tensors else None
    factor = tensors.get(f"{layer_of(names[f'{layer.name}/mean'])}/scale_factor")
    scale = 1.0 if factor is None or not factor.size else float(factor.reshape(-1)[0])
    eps = source.batch_norm_eps or candidate.convention.batch_norm_eps
    here = layer.operation.eps  # type: ignore[attr-defined]
    # Files store eps as float32, and some writers are one unit in the last place off.
    surplus = 0.0 if eps is None or abs(eps / here - 1) < 2**-22 else eps - here
    changed = {}
    means, steps = mean.array.astype(np.float64) / (scale or 1.0), []
    if scale != 1.0:
        steps.append(f"÷ {scale:g} (Caffe's scale factor)")
    if bias is not None and bias.any():
        means -= bias
        steps.append(f"− {placed.spelled.get(bias_name, bias_name)} (the convolution's bias)")
    changed[mean.name] = _rounded(mean, means, steps)
    steps = steps[:1] if scale != 1.0 else []
    if surplus:
        steps.append(f"+ {surplus:.3g} (eps is {eps:g} there)")
    changed[variance.name] = _rounded(variance, variance.array / np.float64(scale or 1.0) + surplus, steps)
    return changed


def _rounded(parameter: Ported, exact: np.ndarray, steps: list[str]) -> Ported:
    if not steps:
        return parameter
    array = exact.astype(np.float32)
    return replace(parameter, array=array, change=" ".join(steps), error=rounding_error(array, exact))


def rounding_error(array: np.ndarray, exact: np.ndarray) -> float:
    """The largest error of any element, relative to its exact value."""
    with np.errstate(invalid="ignore", divide="ignore"):
        errors = np.where(exact == array, 0.0, np.abs((array - exact) / exact))
    return float(errors.max(initial=0.0))
