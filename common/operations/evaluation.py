"""Evaluates an operation and its gradients on arrays, after checking the shapes."""

from __future__ import annotations

from collections.abc import Iterator

from common.errors import TriptychError
from common.operations.arrays import Arrays, Parameters, np, shapes_of
from common.operations.operation import ArrayOperation, Operation
from common.operations.rounding import FP32, UNIT_ROUNDOFF, Gradients, Piece, Precision, Reference

_FAR = 2.0**60
"""Far from overflow: a bound is u times the sum of all magnitudes at least; squares, and sums of 2^30, stay finite."""

_SMALL = _FAR / 4
_ENOUGH = {"add": _SMALL / 2, "subtract": _SMALL / 2, "multiply": _SMALL**0.5, "sqrt": _SMALL}
"""Inputs below which no result reaches `_SMALL`."""


def evaluate(operation: Operation, inputs: Arrays, parameters: Parameters) -> Reference:
    """The right output of an operation, in float64, and the largest error of a correct float32 implementation.

    The bound is for one layer on its own input, so errors do not accumulate over the depth of a network.

    Args:
        operation: from a specification.
        inputs: float32, (N, C, H, W) or (N, features).
        parameters: float32, in the canonical layout, keyed `weight`, `bias`, ….

    Raises:
        TriptychError: the operation does not take inputs and parameters of these shapes.
    """
    if isinstance(operation, ArrayOperation):
        try:
            return operation.reference(inputs, parameters)
        except (ValueError, IndexError) as error:
            raise TriptychError(f"{operation.kind} does not take {shapes_of(inputs)}: {error}") from None
    check_shapes(operation, inputs, parameters)
    return operation.reference(inputs, parameters)


def backward(
    operation: Operation, inputs: Arrays, parameters: Parameters, dy: np.ndarray, training: bool = False
) -> Gradients:
    """The gradients of Σ dy · y with respect to the inputs and parameters of y = operation(inputs).

    Like `evaluate`, this is for one layer on its own input, and on its own gradient with respect to the output.

    Args:
        operation: from a specification.
        inputs: float32, (N, C, H, W) or (N, features).
        parameters: float32, in the canonical layout, keyed `weight`, `bias`, ….
        dy: float32, the gradient with respect to the output.
        training: whether batch normalisation uses the statistics of the batch.

    Raises:
        TriptychError: the operation does not take arrays of these shapes.
    """
    expected = evaluated_shape(operation, inputs, parameters)
    if dy.shape != expected:
        found, of_output = ("×".join(map(str, shape)) for shape in (dy.shape, expected))
        raise TriptychError(
            f"the gradient with respect to the output of {operation.kind} is {found}, expected {of_output}"
        )
    return operation.gradients(inputs, parameters, dy, training)


def evaluated_shape(operation: Operation, inputs: Arrays, parameters: Parameters) -> tuple[int, ...]:
    """The shape of the result of `evaluate`, (N, C, H, W) or (N, features), without evaluating.

    Raises:
        TriptychError: the operation does not take inputs and parameters of these shapes.
    """
    if isinstance(operation, ArrayOperation):
        return evaluate(operation, inputs, parameters).value.shape
    if not all(array.ndim for array in inputs) or len({len(array) for array in inputs}) > 1:
        raise TriptychError(
            f"{operation.kind} takes inputs with the same number of images, but is given {shapes_of(inputs)}"
        )
    shapes = [array.shape[1:] for array in inputs]
    output = operation.output_shape(*shapes)
    for name, shape in operation.parameter_shapes(*shapes).items():
        if name not in parameters or parameters[name].shape != shape:
            found = shapes_of([parameters[name]]) if name in parameters else "missing"
            raise TriptychError(f"the {name} of {operation.kind} is {found}, expected {'×'.join(map(str, shape))}")
    return (len(inputs[0]), *output)


def evaluate_in_pieces(
    operation: Operation, inputs: Arrays, parameters: Parameters, precision: Precision = FP32
) -> Iterator[Piece]:
    """The result of `evaluate` in pieces, at a precision, and with the elements that may be infinite or NaN.

    The shapes are checked by `check_shapes`, not here. If something may overflow, the last piece is the whole result
    and replaces those before.

    Raises:
        TriptychError: nothing can be computed of arrays of these shapes.
    """
    try:
        # What a shader's functions add to the bound depends on all that the operation reads.
        in_pieces = not precision.shader or type(operation).in_shader is Operation.in_shader
        if in_pieces and not _far(inputs):
            for place, piece in operation.pieces(inputs, parameters):
                if _grown(piece):
                    break
                yield place, operation.at_precision(piece, precision, inputs, parameters)
            else:
                return
        reference = operation.reference(inputs, parameters)
        if in_pieces or _far(inputs) or _grown(reference):
            reference = operation.overflowing(inputs, parameters, reference)
        yield (...,), operation.at_precision(reference, precision, inputs, parameters)
    except (ValueError, IndexError) as error:
        if not isinstance(operation, ArrayOperation):
            raise
        raise TriptychError(f"{operation.kind} does not take {shapes_of(inputs)}: {error}") from None


def is_correctly_rounded(operation: Operation, inputs: Arrays, output: np.ndarray) -> bool:
    """Whether an output is the one right result of an operation of IEEE 754. Such an output needs no bound.

    A float64 result of +, −, ·, / or √, rounded to float32, has the same bits, since float64 has more than twice the
    digits (Figueroa, *When is double rounding innocuous?*, 1995). The answer is no where numbers are large, since
    overflow must be judged there.

    Raises:
        ValueError: the inputs' shapes do not fit each other.
    """
    if operation.ufunc is None or any(array.dtype != np.float32 for array in (*inputs, output)):
        return False
    rounded = getattr(np, operation.ufunc)
    if rounded.nin != len(inputs) or output.shape != np.broadcast_shapes(*(x.shape for x in inputs)):
        return False
    enough = _ENOUGH.get(operation.ufunc)
    with np.errstate(all="ignore"):
        return all(
            (output[place] == rounded(*parts)).all()
            and ((enough and _are_small(parts, enough)) or _are_small([output[place], *parts], _SMALL))
            for place, parts in operation.parts(inputs)
        )


def check_shapes(operation: Operation, inputs: Arrays, parameters: Parameters) -> None:
    """Check that an operation takes arrays of these shapes. An operation on arrays of any rank checks when it is
    evaluated.

    Raises:
        TriptychError: it does not.
    """
    if not isinstance(operation, ArrayOperation):
        evaluated_shape(operation, inputs, parameters)


def with_overflow(operation: Operation, inputs: Arrays, parameters: Parameters, reference: Reference) -> Reference:
    """The result of `evaluate`, with the elements that may be infinite or NaN, if any."""
    if _far(inputs) or _grown(reference):
        return operation.overflowing(inputs, parameters, reference)
    return reference


def _far(inputs: Arrays) -> bool:
    """Whether an input is so large that something may overflow."""
    with np.errstate(over="ignore", invalid="ignore"):
        return not _are_small([x for x in inputs if x.dtype != bool], _FAR)


def _are_small(arrays: Arrays, limit: float) -> bool:
    """Whether all magnitudes are below a limit of 1 or more. NaN is not."""
    return all(
        # The sum of squares takes half the time.
        (x.dtype == np.float32 and np.vdot(x, x) < limit) or np.maximum(x.max(initial=0), -x.min(initial=0)) < limit
        for x in arrays
    )


def _grown(reference: Reference) -> bool:
    """Whether the result is so large."""
    return reference.bound is not None and not reference.bound.max(initial=0) < UNIT_ROUNDOFF * _FAR
