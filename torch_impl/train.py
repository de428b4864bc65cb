"""Training in PyTorch: a `Dataset`, a `DataLoader`, and a plain loop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from common.files import written_atomically
from common.training.data import Data, Split
from common.training.plan import Batch, Plan
from common.training.recipe import AUXILIARY_WEIGHT, Recipe, decays, trained_spec
from common.training.run import Epoch, Monitor, Run, Step
from torch_impl.backend import named_parameters, record, structure


def train(
    model: nn.Module,
    data: Data,
    recipe: Recipe = Recipe(),
    *,
    folder: Path | None = None,
    resume: bool = False,
    monitor: Monitor = Monitor(),
) -> list[Epoch]:
    """Train a model of this package where it is; it ends in evaluation mode.

    Args:
        model: as `build` makes it, with the weights to start from.
        data: pictures and labels; see `common.training.data`.
        recipe: epochs, learning rate and the like.
        folder: where a checkpoint is kept after each epoch; none is if it is not given.
        resume: continue the run in `folder`, from its checkpoint; to the bit as if it had never stopped.
        monitor: is told of every step and epoch.

    Returns:
        what came of each epoch.

    Raises:
        TriptychError: the data do not fit the model, there is no such run to resume, or the loss is not finite; the
            last checkpoint is kept then.
    """
    spec = trained_spec(model.architecture, model.image_shape, structure(model)[1])
    run = Run.start("torch", spec, data, recipe, folder, resume, monitor)
    plan = Plan(spec, data, recipe)
    optimizer = sgd(model, recipe)
    dtype = next(model.parameters()).dtype
    torch.manual_seed(recipe.seed)  # of the dropout

    def save(path: Path) -> None:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state()}
        with written_atomically(path) as temporary:
            torch.save(state, temporary)

    def restore(path: Path) -> None:
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])

    if resume:
        run.restore(".pt", restore)

    for epoch in range(len(run.history), recipe.epochs):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate_at(epoch)
        training_mode(model, dropout=recipe.dropout)
        losses = []
        for number, (images, labels) in enumerate(loader(data.train, plan, plan.batches(epoch)), start=1):
            images = images.to(dtype)
            loss, total = losses_of(model(images), labels)
            step = Step(epoch + 1, number, plan.steps, loss.item())
            if not torch.isfinite(total):
                raise run.not_finite(step, record(model, images.numpy()))
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            losses.append(step.loss)
            monitor.step(step)
        model.eval()
        tested = evaluate(model, loader(data.test, plan, plan.test_batches()))
        run.finish_epoch(Epoch(recipe.learning_rate_at(epoch), losses, *tested), ".pt", save)
    model.eval()
    return run.history


def sgd(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """Momentum and L2 weight decay; `torch.optim.SGD` adds the decay to the gradient, before the momentum."""
    parameters = {name: tensor for name, tensor in named_parameters(model).items() if tensor.requires_grad}
    groups = [
        {"params": [p for name, p in parameters.items() if decays(name)], "weight_decay": recipe.weight_decay},
        {"params": [p for name, p in parameters.items() if not decays(name)], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum)


def training_mode(model: nn.Module, *, dropout: bool) -> None:
    """Normalise by the batch, return the auxiliary heads, and drop, unless `dropout` is false."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):  # its p is the probability to drop
            module.train(dropout)


def losses_of(
    outputs: torch.Tensor | dict[str, torch.Tensor], labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The cross-entropy of the logits, and what is minimised: with the auxiliary heads, where there are any."""
    heads = outputs if isinstance(outputs, dict) else {"logits": outputs}
    losses = {name: functional.cross_entropy(logits, labels) for name, logits in heads.items()}
    auxiliary = [loss for name, loss in losses.items() if name != "logits"]
    return losses["logits"], losses["logits"] + AUXILIARY_WEIGHT * sum(auxiliary) if auxiliary else losses["logits"]


@torch.no_grad()
def evaluate(model: nn.Module, batches: DataLoader) -> tuple[float, float, float]:
    """The mean cross-entropy, and the shares whose class has the largest, and is among the five largest, logits."""
    loss, top1, top5, count = 0.0, 0, 0, 0
    dtype = next(model.parameters()).dtype
    for images, labels in batches:
        logits = model(images.to(dtype))
        loss += functional.cross_entropy(logits, labels, reduction="sum").item()
        ranked = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        top1 += ranked[:, 0].sum().item()
        top5 += ranked.sum().item()
        count += len(labels)
    return loss / count, top1 / count, top5 / count


# Data


class Pictures(Dataset):
    """Pictures of a split, cropped, mirrored, recoloured and normalised as a batch of the plan says."""

    def __init__(self, split: Split, plan: Plan, batches: list[Batch]) -> None:
        self.split, self.plan, self.batches = split, plan, batches
        self.mean, self.scale = (torch.from_numpy(array)[:, None, None] for array in (plan.mean, plan.scale))

    def __getitem__(self, place: tuple[int, int]) -> tuple[torch.Tensor, int]:
        """The picture in a row of a batch, float32, (C, H, W), and its label."""
        batch, row = self.batches[place[0]], place[1]
        index = batch.indices[row]
        picture = torch.from_numpy(self.plan.picture(self.split, index)).permute(2, 0, 1)
        top, left = batch.tops[row], batch.lefts[row]
        image = picture[:, top : top + self.plan.height, left : left + self.plan.width]
        if batch.flips[row]:
            image = image.flip(2)
        image = image.float() + torch.from_numpy(batch.shifts[row])[:, None, None]
        return (image - self.mean) / self.scale, int(self.split.labels[index])


class _Rows:
    """The batch sampler: for each batch, the places of its rows."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for number, batch in enumerate(self.batches):
            yield [(number, row) for row in range(len(batch))]


def loader(split: Split, plan: Plan, batches: list[Batch]) -> DataLoader:
    """The batches of the plan: images float32, (N, C, H, W), and labels int64, (N,)."""
    return DataLoader(Pictures(split, plan, batches), batch_sampler=_Rows(batches))
