"""What an operation gives for arrays, and hands back, with the shapes checked first."""

from __future__ import annotations

from common.errors import TriptychError
from common.operations.arrays import Arrays, Parameters, np, shapes_of
from common.operations.operation import ArrayOperation, Operation
from common.operations.rounding import UNIT_ROUNDOFF, Gradients, Reference


def evaluate(operation: Operation, inputs: Arrays, parameters: Parameters) -> Reference:
    """What an operation should give, in float64, and how far a correct float32 implementation may be from it.

    The bound is about one layer, given that layer's own input: nothing accumulates over the depth of a network.

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
    evaluated_shape(operation, inputs, parameters)
    return operation.reference(inputs, parameters)


def backward(
    operation: Operation, inputs: Arrays, parameters: Parameters, dy: np.ndarray, training: bool = False
) -> Gradients:
    """The gradients of Σ dy · y with respect to the inputs and parameters of y = operation(inputs).

    Like `evaluate`, this is about one layer at a time, given its own input and the gradient with respect to its output.

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
    """The shape of what `evaluate` gives, (N, C, H, W) or (N, features), found without evaluating anything.

    Raises:
        TriptychError: the operation does not take inputs and parameters of these shapes.
    """
    if isinstance(operation, ArrayOperation):
        return evaluate(operation, inputs, parameters).value.shape
    if not all(array.ndim for array in inputs) or len({len(array) for array in inputs}) > 1:
        raise TriptychError(f"{operation.kind} takes batches of equally many images, but is given {shapes_of(inputs)}")
    shapes = [array.shape[1:] for array in inputs]
    output = operation.output_shape(*shapes)
    for name, shape in operation.parameter_shapes(*shapes).items():
        if name not in parameters or parameters[name].shape != shape:
            found = shapes_of([parameters[name]]) if name in parameters else "missing"
            raise TriptychError(f"the {name} of {operation.kind} is {found}, expected {'×'.join(map(str, shape))}")
    return (len(inputs[0]), *output)


def with_overflow(operation: Operation, inputs: Arrays, parameters: Parameters, reference: Reference) -> Reference:
    """What `evaluate` gave, with what may be infinite or NaN, if anything may; see the module's description."""
    sizes = (np.maximum(x.max(initial=0), -x.min(initial=0)) for x in inputs if x.dtype != bool)
    largest = max(sizes, default=0)  # NaN is below nothing
    if largest < _FAR and (reference.bound is None or reference.bound.max(initial=0) < UNIT_ROUNDOFF * _FAR):
        return reference
    return operation.overflowing(inputs, parameters, reference)


_FAR = 2.0**60
"""Far from overflow: a bound is u times the sum of all magnitudes at least; squares, and sums of 2^30, stay finite."""
