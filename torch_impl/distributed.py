"""Several processes that train one model: each takes its share of every batch, and what they compute is added up."""

import atexit
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from common.errors import TriptychError
from common.training.batches import Batch
from common.training.run import launched


class Team:
    """The processes that train one model together; most often this one alone, and then nothing is exchanged.

    There are several if `torchrun` has started them, or if torch.distributed is initialised already.
    """

    def __init__(self, model: nn.Module) -> None:
        """Meet the others: over NCCL if the model is on a GPU, which must be this process' own, else over Gloo.

        Raises:
            TriptychError: they are not found.
        """
        self.device = next(model.parameters()).device
        self.rank, self.size = 0, 1
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        if launched()[1] > 1 and not distributed.is_initialized():
            try:
                distributed.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
            except (ValueError, distributed.DistError) as error:
                raise TriptychError(f"the processes do not meet, start them with torchrun: {error}") from None
            atexit.register(_leave)
        if distributed.is_initialized():
            self.rank, self.size = distributed.get_rank(), distributed.get_world_size()

    def shares(self, batches: Sequence[Batch]) -> list[Batch]:
        """What this process takes of each batch: every `size`-th picture. It may be nothing."""
        return [batch.part(self.rank, self.size) for batch in batches]

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of what each process has; the same bits in all of them."""
        total = tensor.detach().to(self.device, copy=True)
        if self.size > 1:
            distributed.all_reduce(total)
        return total

    def gather(self, value: Any) -> list[Any]:
        """What each process has, in the order of their ranks."""
        values = [value] * self.size
        if self.size > 1:
            distributed.all_gather_object(values, value)
        return values

    @contextmanager
    def sharing(self, model: nn.Module) -> Iterator[nn.Module]:
        """The model to be called while training; the parameters are those of the first process.

        Of several processes, `backward` gives each the *mean* of their gradients. Batch normalisation takes mean and
        variance of the whole batch.

        Raises:
            TriptychError: another process has ended.
        """
        if self.size == 1:
            yield model
            return
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.forward = partial(normalise_together, norm)
        try:
            yield DistributedDataParallel(model)
        except RuntimeError as error:
            if isinstance(error, distributed.DistError) or "gloo" in str(error):  # which raises nothing more particular
                raise TriptychError(
                    f"process {self.rank} of {self.size} cannot go on, since another has ended; continue with --resume"
                ) from None
            raise
        finally:
            for norm in norms:
                del norm.forward


def _leave() -> None:
    """Leave the other processes, at exit.

    A thread of Gloo's that drops its last work while the interpreter is being closed aborts the process (PyTorch 2.13:
    it waits for a lock that is gone); it gets the time to do so before.
    """
    distributed.destroy_process_group()
    time.sleep(0.1)


class _Sum(torch.autograd.Function):
    """The sum over all processes. Each of them depends on it, so that its gradient is the sum of theirs."""

    @staticmethod
    def forward(context: Any, tensor: torch.Tensor) -> torch.Tensor:
        total = tensor.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        return _Sum.apply(gradient)


def normalise_together(norm: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
    """`norm` of this process' share, (N, C, H, W), by mean and variance of the whole batch; N may be 0.

    `nn.SyncBatchNorm` does so too, but on GPUs only, and it is no `nn.BatchNorm2d`.
    """
    if not norm.training:
        return nn.BatchNorm2d.forward(norm, x)
    over, per_channel = (0, 2, 3), (1, -1, 1, 1)
    count = _Sum.apply(x.new_tensor(x.numel() // x.shape[1]))
    mean = _Sum.apply(x.sum(over)) / count
    centred = x - mean.view(per_channel)
    variance = _Sum.apply(centred.square().sum(over)) / count
    with torch.no_grad():
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * count / (count - 1), norm.momentum)  # what is stored is unbiased
        norm.num_batches_tracked += 1
    return centred * (norm.weight / (variance + norm.eps).sqrt()).view(per_channel) + norm.bias.view(per_channel)
