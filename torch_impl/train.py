"""Training in PyTorch: a `Dataset`, a `DataLoader`, and a plain loop, in one process or in several."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import isfinite
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, default_collate

from common.files import written_atomically
from common.operations.loss import AUXILIARY_WEIGHT
from common.training.batches import Batch, Batches
from common.training.data import Data, Split
from common.training.recipe import Recipe, decays, trained_spec
from common.training.run import Epoch, Monitor, Step, TrainingRun
from torch_impl.backend import named_parameters, record, structure
from torch_impl.distributed import Team


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

    In several processes, as `torchrun` starts them, each takes its share of every batch, and all end with the same
    weights. The first of them writes, and tells the monitor.

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
        TriptychError: the data do not fit the model, there is no such run to resume, the loss is not finite, or another
            process of the training has ended; the last checkpoint is kept then.
    """
    team = Team(model)
    spec = trained_spec(model.architecture, model.image_shape, *structure(model))
    run = TrainingRun.start("torch", spec, data, recipe, folder, resume, monitor, leads=team.rank == 0)
    plan = Batches(spec, data, recipe)
    optimizer = sgd(model, recipe)
    dtype = next(model.parameters()).dtype
    torch.manual_seed(recipe.seed + team.rank)  # of the dropout: each process has its own masks
    generator = torch.cuda if team.device.type == "cuda" else torch  # that they are drawn from

    def save(path: Path, generators: list[torch.Tensor]) -> None:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "generators": generators}
        with written_atomically(path) as temporary:
            torch.save(state, temporary)

    def restore(path: Path) -> None:
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if len(state["generators"]) == team.size:  # other masks are drawn by another number of processes
            generator.set_rng_state(state["generators"][team.rank])

    if resume:
        run.restore(".pt", restore)

    with team.sharing(model) as network:
        for epoch in range(len(run.history), recipe.epochs):
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate_at(epoch)
            training_mode(model, dropout=recipe.dropout)
            losses, batches = [], plan.batches(epoch)
            shares = loader(data.train, plan, team.shares(batches))
            for number, (batch, (images, labels)) in enumerate(zip(batches, shares, strict=True), start=1):
                outputs = network(images.to(team.device, dtype))
                loss, total = losses_of(outputs, labels.to(team.device), len(batch))
                of_all, minimised = team.sum(torch.stack([loss, total])).tolist()
                step = Step(epoch + 1, number, plan.steps, of_all)
                if not isfinite(minimised):
                    ((images, _),) = loader(data.train, plan, [batch])
                    raise run.not_finite(step, record(model, images.to(dtype).numpy()))
                optimizer.zero_grad()
                (team.size * total).backward()  # the mean of the processes' gradients is now the sum of the shares
                optimizer.step()
                losses.append(step.loss)
                run.monitor.step(step)
            model.eval()
            tested = evaluate(model, loader(data.test, plan, team.shares(plan.test_batches())), team)
            ended = Epoch(recipe.learning_rate_at(epoch), losses, *tested)
            run.finish_epoch(ended, ".pt", partial(save, generators=team.gather(generator.get_rng_state())))
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
    outputs: torch.Tensor | dict[str, torch.Tensor], labels: torch.Tensor, batch_size: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The cross-entropy of the logits, and what is minimised: with the auxiliary heads, where there are any.

    Both are means over a batch; of one with more pictures than these, `batch_size`, they are the share that these have.
    """
    heads = outputs if isinstance(outputs, dict) else {"logits": outputs}
    count = batch_size or len(labels)
    losses = {name: functional.cross_entropy(x, labels, reduction="sum") / count for name, x in heads.items()}
    auxiliary = [loss for name, loss in losses.items() if name != "logits"]
    return losses["logits"], losses["logits"] + AUXILIARY_WEIGHT * sum(auxiliary) if auxiliary else losses["logits"]


@torch.no_grad()
def evaluate(model: nn.Module, batches: DataLoader, team: Team | None = None) -> tuple[float, float, float]:
    """The mean cross-entropy, and the shares whose class has the largest, and is among the five largest, logits."""
    loss, top1, top5, count = 0.0, 0, 0, 0
    like = next(model.parameters())
    for images, labels in batches:
        logits, labels = model(images.to(like)), labels.to(like.device)
        loss += functional.cross_entropy(logits, labels, reduction="sum").item()
        ranked = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        top1 += ranked[:, 0].sum().item()
        top5 += ranked.sum().item()
        count += len(labels)
    if team:  # each process has seen some of them
        loss, top1, top5, count = team.sum(torch.tensor([loss, top1, top5, count], dtype=torch.float64)).tolist()
    return loss / count, top1 / count, top5 / count


# Data


class Pictures(Dataset):
    """Pictures of a split, cropped, mirrored, recoloured and normalised as a batch of the plan says."""

    def __init__(self, split: Split, plan: Batches, batches: list[Batch]) -> None:
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


def loader(split: Split, plan: Batches, batches: list[Batch]) -> DataLoader:
    """The batches of the plan: images float32, (N, C, H, W), and labels int64, (N,); N is 0 where one is empty."""
    nothing = torch.empty(0, *plan.spec.input_shape), torch.empty(0, dtype=torch.int64)
    return DataLoader(
        Pictures(split, plan, batches),
        batch_sampler=_Rows(batches),
        collate_fn=lambda rows: default_collate(rows) if rows else nothing,
    )
