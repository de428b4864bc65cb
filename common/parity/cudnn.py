"""cuDNN held to what the bounds suppose: a convolution is a sum of products."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def direct_sums() -> Iterator[None]:
    """Let PyTorch convolve on a GPU without cuDNN, unless TF32 is wanted, whose kernels are cuDNN's.

    By default, cuDNN uses a Fourier transform if it expects it to be faster: on an H100, for VGG's conv2_1 in
    channels-last order, and for GoogLeNet's 5×5 convolutions. Then integers do not give integers. PyTorch's own
    convolution is a matrix product, and exact. On a CPU, and without PyTorch, this changes nothing.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    cudnn = torch.backends.cudnn
    before = cudnn.enabled
    cudnn.enabled = before and cudnn.allow_tf32
    try:
        yield
    finally:
        cudnn.enabled = before
