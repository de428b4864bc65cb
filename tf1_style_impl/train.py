"""Training in TensorFlow 1 style: placeholders, a second tower on the same variables, an optimiser, a session loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow.compat.v1 as tf

from common.operations.loss import AUXILIARY_WEIGHT
from common.training.batches import Batch, Batches
from common.training.data import Data, Split
from common.training.recipe import Recipe, decays, keep_prob, trained_spec
from common.training.run import Epoch, Monitor, Step, TrainingRun
from tf1_style_impl import layers
from tf1_style_impl.backend import named_variables, structure
from tf1_style_impl.catalogue import BUILDERS
from tf1_style_impl.graph import ARCHITECTURE


def train(
    session: tf.Session,
    data: Data,
    recipe: Recipe = Recipe(),
    *,
    folder: Path | None = None,
    resume: bool = False,
    monitor: Monitor = Monitor(),
) -> list[Epoch]:
    """Train the variables of a session; what training needs is added to its graph.

    Args:
        session: as `build` makes it, with the weights to start from.
        data: pictures and labels; see `common.training.data`.
        recipe: epochs, learning rate and the like.
        folder: where a checkpoint is kept after each epoch, and summaries for TensorBoard; none are if it is not given.
        resume: continue the run in `folder`, from its checkpoint; to the bit as if it had never stopped.
        monitor: is told of every step and epoch.

    Returns:
        what came of each epoch.

    Raises:
        TriptychError: the data do not fit the model, there is no such run to resume, or the loss is not finite; the
            last checkpoint is kept then.
    """
    graph = session.graph
    (architecture,) = graph.get_collection(ARCHITECTURE)
    height, width, channels = graph.get_tensor_by_name("images:0").shape[1:]
    spec = trained_spec(architecture, (channels, height, width), *structure(session))
    run = TrainingRun.start("tf1", spec, data, recipe, folder, resume, monitor)
    plan = Batches(spec, data, recipe)
    with graph.as_default():
        tower = Tower(plan)
        saver = tf.train.Saver(tower.checkpointed, max_to_keep=None)  # the run forgets the old ones
        session.run(tf.variables_initializer(tower.own_variables))
        if resume:
            run.restore("", lambda path: saver.restore(session, str(path)))
        writer = tf.summary.FileWriter(str(folder), graph) if folder else None

        for epoch in range(len(run.history), recipe.epochs):
            losses = []
            rate = recipe.learning_rate_at(epoch)
            for number, feed in enumerate(tower.input.feeds(data.train, plan.batches(epoch)), start=1):
                feed |= {tower.learning_rate: rate, tower.keep_prob: keep_prob(spec) if recipe.dropout else 1.0}
                try:
                    loss, summary, _ = session.run([tower.loss, tower.summary, tower.train_op], feed)
                except tf.errors.InvalidArgumentError:
                    loss, recorded = session.run([tower.loss, tower.layers], feed)
                    step = Step(epoch + 1, number, plan.steps, float(loss))
                    raise run.not_finite(step, recorded) from None
                losses.append(float(loss))
                run.monitor.step(Step(epoch + 1, number, plan.steps, float(loss)))
                if writer:
                    writer.add_summary(summary, epoch * plan.steps + number)
            tested = evaluate(session, tower, tower.input.feeds(data.test, plan.test_batches()))
            ended = Epoch(rate, losses, *tested)
            run.finish_epoch(ended, "", lambda path: saver.save(session, str(path), write_meta_graph=False))
        if writer:
            writer.close()
    return run.history


class Tower:
    """The network once more in the same graph, on the same variables, as it is while training, and its optimiser."""

    def __init__(self, plan: Batches) -> None:
        graph, spec, recipe = tf.get_default_graph(), plan.spec, plan.recipe
        step = tf.train.get_or_create_global_step()
        existing = set(tf.global_variables()) - {step}
        self.input = Input(plan)
        images = graph.get_tensor_by_name("images:0")
        self.learning_rate = tf.placeholder(images.dtype, [])
        self.keep_prob = tf.placeholder(images.dtype, [])  # the probability to keep, not to drop
        classes = spec.num_classes
        with (
            tf.variable_scope(tf.get_variable_scope(), reuse=True, dtype=images.dtype),
            tf.name_scope("train") as scope,
            layers.training(recipe.seed, step) as updates,
        ):
            pixels = tf.cast(self.input.pixels, images.dtype)
            outputs = BUILDERS[spec.name](pixels, self.keep_prob, num_classes=classes)
        self.layers = {layer.name: graph.get_tensor_by_name(f"{scope}{layer.name}:0") for layer in spec.layers}

        heads = outputs if isinstance(outputs, dict) else {"logits": outputs}
        losses = {name: cross_entropy(self.input.labels, logits) for name, logits in heads.items()}
        auxiliary = [AUXILIARY_WEIGHT * tf.reduce_mean(loss) for name, loss in losses.items() if name != "logits"]
        decaying = [variable for variable in tf.trainable_variables() if decays(variable.op.name)]
        decay = recipe.weight_decay * tf.add_n([tf.nn.l2_loss(variable) for variable in decaying])  # Σw² / 2
        self.loss = tf.reduce_mean(losses["logits"])
        total = tf.add_n([self.loss, *auxiliary, decay])
        momentum = tf.constant(recipe.momentum, images.dtype)  # a number it would round to float32
        optimizer = tf.train.MomentumOptimizer(self.learning_rate, momentum)
        gradients = optimizer.compute_gradients(total)
        # Nothing is applied unless the loss is finite, so that the weights still tell why it is not.
        with tf.control_dependencies([tf.check_numerics(total, "loss"), *updates]):
            self.train_op = optimizer.apply_gradients(gradients, global_step=step)
        scalars = {"loss": self.loss, "learning_rate": self.learning_rate}
        self.summary = tf.summary.merge([tf.summary.scalar(name, value) for name, value in scalars.items()])
        self.own_variables = [variable for variable in tf.global_variables() if variable not in existing]
        # By names that do not tell how many times this session has been trained.
        variables = named_variables(graph)
        velocities = {
            f"{name}/momentum": optimizer.get_slot(v, "momentum") for name, v in variables.items() if v.trainable
        }
        self.checkpointed = {"global_step": step, **variables, **velocities}

        logits = graph.get_tensor_by_name("logits:0")  # as they are when not training
        self.test_losses = cross_entropy(self.input.labels, logits)
        best = tf.nn.top_k(logits, min(5, classes)).indices
        self.ranked = tf.equal(tf.cast(best, tf.int64), self.input.labels[:, None])


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Of each picture, (N,)."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)


def evaluate(
    session: tf.Session, tower: Tower, feeds: Iterator[dict[tf.Tensor, np.ndarray]]
) -> tuple[float, float, float]:
    """The mean cross-entropy, and the shares whose class has the largest, and is among the five largest, logits."""
    loss, top1, top5, count = 0.0, 0, 0, 0
    for feed in feeds:
        images = session.run(tower.input.pixels, feed)
        losses, ranked = session.run([tower.test_losses, tower.ranked], {"images:0": images, **feed})
        loss += losses.sum(dtype=np.float64)
        top1 += ranked[:, 0].sum()
        top5 += ranked.sum()
        count += len(images)
    return float(loss / count), float(top1 / count), float(top5 / count)


# Data


class Input:
    """Placeholders for pictures and for what the plan does to them, and the tensor `pixels` that comes of it."""

    def __init__(self, plan: Batches) -> None:
        self.plan = plan
        self.pictures = tf.placeholder(tf.uint8, [None, *plan.picture_size, plan.channels])
        self.tops, self.lefts = tf.placeholder(tf.int32, [None]), tf.placeholder(tf.int32, [None])
        self.flips = tf.placeholder(tf.bool, [None])
        self.shifts = tf.placeholder(tf.float32, [None, plan.channels])
        self.labels = tf.placeholder(tf.int64, [None])
        # As constants, TensorFlow would combine them and multiply by an inverse: other roundings.
        self.mean, self.scale = tf.placeholder(tf.float32, [plan.channels]), tf.placeholder(tf.float32, [plan.channels])

        def crop(place: Sequence[tf.Tensor]) -> tf.Tensor:
            picture, top, left, flip = place
            image = tf.image.crop_to_bounding_box(picture, top, left, plan.height, plan.width)
            return tf.cond(flip, lambda: tf.reverse(image, axis=[1]), lambda: image)

        images = tf.map_fn(crop, (self.pictures, self.tops, self.lefts, self.flips), fn_output_signature=tf.uint8)
        images = tf.ensure_shape(images, [None, plan.height, plan.width, plan.channels])
        self.pixels = (tf.cast(images, tf.float32) + self.shifts[:, None, None, :] - self.mean) / self.scale

    def feeds(self, split: Split, batches: Sequence[Batch]) -> Iterator[dict[tf.Tensor, np.ndarray]]:
        """The batches of the plan as `feed_dict`s."""
        for batch in batches:
            yield {
                self.pictures: self.plan.pictures(split, batch),
                self.tops: batch.tops,
                self.lefts: batch.lefts,
                self.flips: batch.flips,
                self.shifts: batch.shifts,
                self.labels: split.labels[batch.indices],
                self.mean: self.plan.mean,
                self.scale: self.plan.scale,
            }
