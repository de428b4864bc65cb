"""Training in Keras: a `PyDataset`, `compile`, and `fit` with callbacks."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np
from keras import layers, ops

from common.errors import TriptychError
from common.files import written_atomically
from common.operations.loss import AUXILIARY_WEIGHT
from common.training.batches import Batch, Batches
from common.training.data import Data, Split
from common.training.recipe import Recipe, decays, trained_spec
from common.training.run import Epoch, Monitor, Step, TrainingRun
from keras_impl.backend import named_variables, record, structure
from keras_impl.graph import heads_of


def train(
    model: keras.Model,
    data: Data,
    recipe: Recipe = Recipe(),
    *,
    folder: Path | None = None,
    resume: bool = False,
    monitor: Monitor = Monitor(),
) -> list[Epoch]:
    """Train a model of this package where it is.

    Where `keras.distribution` is set to a distribution before the model is built, on JAX, each replica takes its share
    of every batch.

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
        TriptychError: the data do not fit the model, batches cannot be shared evenly, there is no such run to resume,
            or the loss is not finite; the last checkpoint is kept then.
    """
    height, width, channels = model.input_shape[1:]
    spec = trained_spec(model.name, (channels, height, width), *structure(model))
    run = TrainingRun.start("keras", spec, data, recipe, folder, resume, monitor)
    plan = Batches(spec, data, recipe)
    training = Pictures(data.train, plan, plan.batches(0))
    size, sharing = len(training.batches[0]), replicas()
    if size % sharing:
        raise TriptychError(f"{size} pictures in a step cannot be shared evenly by {sharing} devices; change the batch")
    testing = Pictures(data.test, plan, plan.test_batches(), multiple=sharing)
    with prepared(model, recipe):
        compile_model(model, recipe)
        if resume:
            run.restore(".weights.h5", model.load_weights)
        model.fit(
            training,
            validation_data=testing,
            epochs=recipe.epochs,
            initial_epoch=len(run.history),
            shuffle=False,  # the plan has shuffled
            verbose=0,
            callbacks=[Schedule(recipe), Recorder(run, plan, training)],
        )
    return run.history


def replicas() -> int:
    """How many shares a batch is divided into: 1, unless a distribution is set."""
    distribution = keras.distribution.distribution()
    return distribution.num_model_replicas if distribution else 1


def compile_model(model: keras.Model, recipe: Recipe) -> None:
    """Momentum, cross-entropy on logits, auxiliary heads by their weight, top-1 and top-5."""
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    heads = heads_of(model)
    metrics = [
        LatestCrossEntropy(name="latest"),
        keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="cross_entropy"),
        keras.metrics.SparseCategoricalAccuracy(name="top1"),
        keras.metrics.MeanMetricWrapper(among_five, name="top5"),
    ]
    branching = len(heads) > 1
    model.compile(
        optimizer=sgd(recipe),
        loss=dict.fromkeys(heads, cross_entropy) if branching else cross_entropy,
        loss_weights={name: 1.0 if name == "logits" else AUXILIARY_WEIGHT for name in heads} if branching else None,
        weighted_metrics={"logits": metrics} if branching else metrics,  # see `Pictures`
        jit_compile=keras.backend.backend() == "jax",
    )
    model.optimizer.build(model.trainable_variables)  # so that a checkpoint finds its velocities


def among_five(labels, logits):
    """Whether each label is among the five largest logits; Keras' own metric takes float32 only."""
    best = ops.top_k(logits, min(5, logits.shape[-1]))[1]
    return ops.any(ops.equal(ops.cast(ops.reshape(labels, (-1, 1)), best.dtype), best), axis=1)


def sgd(recipe: Recipe) -> keras.optimizers.Optimizer:
    """Momentum; an update from gradients that are not finite is left out, so that the weights still tell why.

    That is what a loss scale does; of 1, and never raised, it does nothing else. Weight decay is not the optimiser's
    here: Keras' own is decoupled, it bypasses the momentum (see `prepared`).
    """
    # As a NumPy number it keeps its digits; Keras would round a Python one to float32, in float64 too.
    momentum = keras.optimizers.SGD(recipe.learning_rate, momentum=np.float64(recipe.momentum))
    return keras.optimizers.LossScaleOptimizer(momentum, initial_scale=1.0, dynamic_growth_steps=2**31 - 1)


@contextmanager
def prepared(model: keras.Model, recipe: Recipe) -> Iterator[None]:
    """Give the kernels their L2 penalty and, if nothing is to be dropped, the dropouts a rate of 0; until the end."""
    decaying = [variable for name, variable in named_variables(model).items() if decays(name)]
    dropouts = [layer for layer in model.layers if isinstance(layer, layers.Dropout)]
    rates = [layer.rate for layer in dropouts]  # the probability to drop
    penalty = keras.regularizers.L2()
    penalty.l2 = np.float64(recipe.weight_decay / 2)  # the factor of Σw², whose gradient is twice l2·w; see `sgd`
    for variable in decaying:
        variable.regularizer = penalty
    for layer in dropouts:
        layer.rate = layer.rate if recipe.dropout else 0.0
    try:
        yield
    finally:
        for variable in decaying:
            variable.regularizer = None
        for layer, rate in zip(dropouts, rates, strict=True):
            layer.rate = rate


class LatestCrossEntropy(keras.metrics.Metric):
    """The mean cross-entropy of the latest batch alone; otherwise `fit` reports the mean since the beginning."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name)
        self.latest = self.add_variable((), "zeros", name="latest")

    def update_state(self, labels, logits, sample_weight=None) -> None:
        losses = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        self.latest.assign(ops.cast(ops.mean(losses), self.latest.dtype))

    def result(self):
        return ops.convert_to_tensor(self.latest)


class Schedule(keras.callbacks.Callback):
    """The learning rate of each epoch.

    Keras' velocity contains the learning rate, −ε·v in the terms of `Recipe`. When the rate changes, it is scaled with
    it; without that, Keras goes on for some steps at the old rate.

    Source: section 2.1 of Goyal et al. 2017, "momentum correction".
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        rate = self.recipe.learning_rate_at(epoch)
        before = self.recipe.learning_rate_at(max(epoch - 1, 0))
        self.model.optimizer.learning_rate = rate
        if rate != before:
            for velocity in self.model.optimizer.inner_optimizer.momentums:
                velocity.assign(velocity * (rate / before))


class Recorder(keras.callbacks.Callback):
    """Sets the batches, reports steps, ends a training whose loss is not finite, keeps a checkpoint of each epoch.

    What is dropped depends on the seed, the layer and the step, and on nothing that a checkpoint does not hold.
    """

    def __init__(self, run: TrainingRun, plan: Batches, training: Pictures) -> None:
        super().__init__()
        self.run, self.plan, self.training = run, plan, training

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.epoch, self.losses = epoch, []
        self.training.batches = self.plan.batches(epoch)
        for layer in self.model.layers:
            if isinstance(layer, layers.Dropout):  # whose state is in none of Keras' checkpoints
                seed = dropout_seed(self.plan.recipe.seed, layer.name)
                layer.seed_generator.state.assign([seed, epoch * self.plan.steps])

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        step = Step(self.epoch + 1, batch + 1, self.plan.steps, float(_of_logits(logs, "latest")))
        left_out = float(self.model.optimizer.dynamic_scale) != 1
        if left_out or not np.isfinite(logs["loss"]):
            images, *_ = self.training[batch]
            raise self.run.not_finite(step, record(self.model, images.transpose(0, 3, 1, 2), training=True))
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()  # `fit` keeps the variables to itself otherwise
        self.losses.append(step.loss)
        self.run.monitor.step(step)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        count = self.plan.test_count
        top1, top5 = (round(float(_of_logits(logs, f"val_{name}")) * count) / count for name in ("top1", "top5"))
        test_loss = float(_of_logits(logs, "val_cross_entropy"))
        ended = Epoch(self.plan.recipe.learning_rate_at(epoch), self.losses, test_loss, top1, top5)
        self.run.finish_epoch(ended, ".weights.h5", self._save)

    def _save(self, path: Path) -> None:
        with written_atomically(path) as temporary:
            beside = temporary.with_name(f"{temporary.name}.weights.h5")  # the only ending that Keras takes
            try:
                self.model.save_weights(beside)  # the optimiser's variables too
                beside.replace(temporary)
            finally:
                beside.unlink(missing_ok=True)


def dropout_seed(seed: int, layer: str) -> int:
    """The seed of a layer's masks, below 2^31: on PyTorch, Keras holds it as int32."""
    return zlib.crc32(f"{seed} {layer}".encode()) >> 1


def _of_logits(logs: dict, name: str) -> float:
    """A metric of the logits; a model with several outputs puts the output's name before the metric's."""
    prefix = "val_" if name.startswith("val_") else ""
    return logs.get(name, logs.get(f"{prefix}logits_{name.removeprefix(prefix)}"))


# Data


class Pictures(keras.utils.PyDataset):
    """Batches of the plan: images float32, (N, H, W, C), and labels int64, (N,) or a dict of them for the heads.

    Other batches can be put in its place between two epochs. Keras' own `on_epoch_end` is no place for that: `fit`
    calls it before the first epoch too.

    Devices can share batches of a `multiple` of their number only. If there are several, N is made one by repeating
    the last picture, and weights come third, (N,), that are 0 for the repetitions.
    """

    def __init__(self, split: Split, plan: Batches, batches: list[Batch], *, multiple: int = 1) -> None:
        super().__init__()
        self.split, self.plan, self.batches, self.multiple = split, plan, batches, multiple
        self.heads = list(plan.spec.outputs)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> tuple[np.ndarray | dict[str, np.ndarray], ...]:
        batch = self.batches[number]
        rows = np.arange(-(-len(batch) // self.multiple) * self.multiple)
        weights = (rows < len(batch)).astype(np.float32)
        batch = batch.take(np.minimum(rows, len(batch) - 1))
        images = np.stack([self._image(batch, row) for row in rows])
        labels = self.split.labels[batch.indices]
        for_heads = [array if len(self.heads) == 1 else dict.fromkeys(self.heads, array) for array in (labels, weights)]
        return (images, *for_heads) if self.multiple > 1 else (images, for_heads[0])

    def _image(self, batch: Batch, row: int) -> np.ndarray:
        top, left = batch.tops[row], batch.lefts[row]
        picture = self.plan.picture(self.split, batch.indices[row])
        image = picture[top : top + self.plan.height, left : left + self.plan.width]
        if batch.flips[row]:
            image = image[:, ::-1]
        return (image.astype(np.float32) + batch.shifts[row] - self.plan.mean) / self.plan.scale
