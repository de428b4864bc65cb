"""Finds the constant matrix of a product, however it is written: a dense layer, a Gemm, a MatMul."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from common.graphs.graph import Node
from common.operations import Dense
from common.operations.matmul import Gemm


def factor_of(node: Node, constants: Mapping[str, np.ndarray]) -> tuple[np.ndarray, str | None] | None:
    """The matrix (out, in) that a node multiplies each vector by, and the name of the bias that it adds.

    None if it is no such product: if the matrix is computed, if the vectors are columns, or if there is another factor.
    """
    operation = node.operation
    if isinstance(operation, Dense):
        matrix, bias = constants.get(node.parameters["weight"]), node.parameters.get("bias")
    else:
        matrix, bias = constants.get(node.inputs[1]), node.inputs[2] if len(node.inputs) > 2 else None
        out_first = False
        if isinstance(operation, Gemm):
            out_first = operation.transposes[1]
            if (operation.alpha, operation.beta, operation.transposes[0]) != (1, 1, False):
                return None
        if bias is not None and (bias not in constants or constants[bias].ndim != 1):
            return None
        matrix = matrix.T if matrix is not None and matrix.ndim == 2 and not out_first else matrix
    return (matrix, bias) if matrix is not None and matrix.ndim == 2 else None
