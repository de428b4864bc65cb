"""One operation, one room: everything about an operation is in one file of this package.

`conv` and `dense` share `sums`. Everything that slides a window shares `windows`. `operation` is the base class, and
`evaluation` calls it. `rounding` defines bounds, `overflow` says when float32 overflows, `mistake` how a mistake is
made on purpose, and `onnx_table` which class reads which of ONNX's operators.
"""

from common.operations.activations import ReLU, ScaledTanh, Sigmoid, Softmax
from common.operations.arithmetic import Add
from common.operations.arrangement import Concat, Dropout, Flatten, SelectChannels
from common.operations.arrays import Shape, shapes_of
from common.operations.batch_norm import BatchNorm
from common.operations.conv import Conv
from common.operations.dense import Dense
from common.operations.evaluation import backward, evaluate, evaluated_shape
from common.operations.lrn import LRN
from common.operations.operation import Operation
from common.operations.pooling import AdaptiveAveragePool, Average, AveragePool, GlobalAveragePool, MaxPool
from common.operations.sub_sampling import SubSampling
from common.operations.windows import SAME, Padding, Pair, Windowed, same_padding

__all__ = [
    "LRN",
    "SAME",
    "AdaptiveAveragePool",
    "Add",
    "Average",
    "AveragePool",
    "BatchNorm",
    "Concat",
    "Conv",
    "Dense",
    "Dropout",
    "Flatten",
    "GlobalAveragePool",
    "MaxPool",
    "Operation",
    "Padding",
    "Pair",
    "ReLU",
    "ScaledTanh",
    "SelectChannels",
    "Shape",
    "Sigmoid",
    "Softmax",
    "SubSampling",
    "Windowed",
    "backward",
    "evaluate",
    "evaluated_shape",
    "same_padding",
    "shapes_of",
]
