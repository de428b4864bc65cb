"""Mistakes in how the three idioms train LeNet-5: momentum, weight decay, the learning rate, the loss, the pictures.

Each is told at the first step whose parameters it changes. A ninth step follows the first change of the learning rate,
a fifth begins the second epoch, a second one is the first that has a velocity and biases that are not 0.
"""

from functools import partial

from parity_tests.injection import Mutant

_torch = partial(Mutant, "torch_impl", "torch_impl/train.py", "lenet5", layer="")
_keras = partial(Mutant, "keras_impl", "keras_impl/train.py", "lenet5", layer="")
_tf1 = partial(Mutant, "tf1_style_impl", "tf1_style_impl/train.py", "lenet5", layer="")

ROUNDED = "the momentum is 0.9 rounded to float32"
NESTEROV = "the momentum is Nesterov's"
TWICE = "the learning rate is 2 times what it should be, or the velocity takes in 2 times the gradient"
OLD_RATE = "the learning rate is still that of the step before"

DECOUPLED = """for group in optimizer.param_groups:
                    group["beside"] = group.get("beside") or group["weight_decay"]
                    group["weight_decay"] = 0.0
                    for parameter in group["params"]:
                        parameter.data.mul_(1 - group["lr"] * group["beside"])
                optimizer.step()"""

_TORCH = [
    _torch("Nesterov's momentum", "recipe.momentum)", "recipe.momentum, nesterov=True)", cause=NESTEROV, step=1),
    _torch(
        "the momentum is dampened",
        "recipe.momentum)",
        "recipe.momentum, dampening=0.1)",
        cause="the velocity takes in 0.9 times the gradient, a dampening of 0.1",
        step=2,
    ),
    _torch("no momentum", "recipe.momentum)", "0.0)", cause="there is no momentum", step=2),
    _torch("another momentum", "recipe.momentum)", "0.8)", cause="the momentum is 0.8, not 0.9", step=2),
    _torch(
        "biases decay too",
        '"weight_decay": 0.0',
        '"weight_decay": recipe.weight_decay',
        cause="biases decay too",
        step=2,
    ),
    _torch(
        "the decay is decoupled",
        "optimizer.step()",
        DECOUPLED,
        cause="the weight decay is decoupled, it bypasses the momentum",
        step=2,
    ),
    _torch("gradients add up", "optimizer.zero_grad()", "pass", cause="gradients add up from step to step", step=2),
    _torch(
        "clipped by norm",
        "optimizer.step()",
        "nn.utils.clip_grad_norm_(model.parameters(), 0.5); optimizer.step()",
        cause="the gradient is clipped to a norm of 0.5",
        step=1,
    ),
    _torch(
        "clipped by value",
        "optimizer.step()",
        "nn.utils.clip_grad_value_(model.parameters(), 0.01); optimizer.step()",
        cause="the gradient is clipped, each element at 0.01",
        step=1,
    ),
    _torch("the rate stays", "recipe.learning_rate_at(epoch)", "recipe.learning_rate_at(0)", cause=OLD_RATE, step=9),
    _torch(
        "the loss is a sum",
        "/ count for name",
        "for name",
        cause="the loss is summed over the batch, not averaged",
        step=1,
    ),
    _torch(
        "a layer is frozen",
        "if tensor.requires_grad}",
        "if tensor.requires_grad and not name.startswith('c1/')}",
        cause="not updated: c1/weight, c1/bias",
        step=1,
    ),
    _torch(
        "mirrored top to bottom",
        "image.flip(2)",
        "image.flip(1)",
        cause="pictures are mirrored top to bottom",
        step=1,
    ),
    _torch(
        "the colours are left alone",
        "+ torch.from_numpy(batch.shifts",
        "+ 0 * torch.from_numpy(batch.shifts",
        cause="the colours are left alone",
        step=1,
    ),
    _torch("pixels as they are", "/ self.scale", "", cause="pixels are not divided by their scale", step=1),
    _torch(
        "the first epoch again and again",
        "plan.batches(epoch)",
        "plan.batches(0)",
        cause="every epoch has the batches of the first",
        step=5,
    ),
    _torch("labels of other pictures", "self.split.labels[index]", "self.split.labels[row]", cause=None, step=1),
]

_KERAS = [
    _keras(
        "the momentum is rounded to float32", "np.float64(recipe.momentum)", "recipe.momentum", cause=ROUNDED, step=2
    ),
    _keras(
        "Nesterov's momentum",
        "np.float64(recipe.momentum))",
        "np.float64(recipe.momentum), nesterov=True)",
        cause=NESTEROV,
        step=1,
    ),
    _keras(
        "clipped by each norm",
        "np.float64(recipe.momentum))",
        "np.float64(recipe.momentum), clipnorm=0.125)",
        cause="the gradient, decay included, by each parameter is clipped to a norm of 0.125",
        step=1,
    ),
    _keras(
        "clipped by norm",
        "np.float64(recipe.momentum))",
        "np.float64(recipe.momentum), global_clipnorm=0.5)",
        cause="the gradient, decay included, is clipped to a norm of 0.5",
        step=1,
    ),
    _keras(
        "the velocity keeps the old rate",
        "velocity.assign(velocity * (rate / before))",
        "pass",
        cause="the velocity still holds the learning rate of the step before",
        step=9,
    ),
    _keras(
        "the decay is twice as strong",
        "recipe.weight_decay / 2",
        "recipe.weight_decay",
        cause="the decay is twice as strong",
        step=1,
    ),
    _keras("nothing decays", "recipe.weight_decay / 2", "0.0", cause="nothing decays", step=1),
    _keras(
        "the loss is a sum",
        "SparseCategoricalCrossentropy(from_logits=True)",
        "SparseCategoricalCrossentropy(from_logits=True, reduction='sum')",
        cause="the loss is summed over the batch, not averaged",
        step=1,
    ),
    _keras(
        "batches in reverse",
        "self.batches[number]",
        "self.batches[-1 - number]",
        cause="the batches of an epoch come in reverse order",
        step=1,
    ),
]

_TF1 = [
    _tf1(
        "the momentum is rounded to float32",
        "tf.constant(recipe.momentum, images.dtype)",
        "recipe.momentum",
        cause=ROUNDED,
        step=2,
    ),
    _tf1(
        "the decay is twice as strong",
        "tf.nn.l2_loss(variable)",
        "tf.reduce_sum(variable**2)",
        cause="the decay is twice as strong",
        step=1,
    ),
    _tf1("biases decay too", "if decays(variable.op.name)", "", cause="biases decay too", step=2),
    _tf1(
        "Nesterov's momentum",
        "MomentumOptimizer(self.learning_rate, momentum)",
        "MomentumOptimizer(self.learning_rate, momentum, use_nesterov=True)",
        cause=NESTEROV,
        step=1,
    ),
    _tf1(
        "twice the rate",
        "MomentumOptimizer(self.learning_rate",
        "MomentumOptimizer(2 * self.learning_rate",
        cause=TWICE,
        step=1,
    ),
    _tf1(
        "biases learn twice as fast",
        "optimizer.apply_gradients(gradients",
        "optimizer.apply_gradients([(2 * g if v.op.name.endswith('bias') else g, v) for g, v in gradients]",
        cause="the learning rate of biases is 2 times what it should be",
        step=1,
    ),
    _tf1(
        "clipped by value",
        "optimizer.apply_gradients(gradients",
        "optimizer.apply_gradients([(tf.clip_by_value(g, -0.01, 0.01), v) for g, v in gradients]",
        cause="the gradient, decay included, is clipped, each element at 0.01",
        step=1,
    ),
    _tf1(
        "the rate stays", "rate = recipe.learning_rate_at(epoch)", "rate = recipe.learning_rate", cause=OLD_RATE, step=9
    ),
    _tf1(
        "cropped at another place",
        "(picture, top, left,",
        "(picture, left, top,",
        cause="rows and columns of the crops are exchanged",
        step=1,
    ),
]

MUTANTS = [*_TORCH, *_KERAS, *_TF1]
