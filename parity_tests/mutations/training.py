"""Mistakes in how the three idioms train LeNet-5: momentum, weight decay, the learning rate, the loss, the pictures.

The cause that must be named is the first step whose parameters the mistake changes; a ninth step follows the first
change of the learning rate, a second one is the first that has a velocity and biases that are not 0.
"""

from functools import partial

from parity_tests.injection import Mutant

_torch = partial(Mutant, "torch_impl", "torch_impl/train.py", "lenet5", layer="")
_keras = partial(Mutant, "keras_impl", "keras_impl/train.py", "lenet5", layer="")
_tf1 = partial(Mutant, "tf1_style_impl", "tf1_style_impl/train.py", "lenet5", layer="")

MUTANTS = [
    _torch(
        "Nesterov's momentum",
        "momentum=recipe.momentum)",
        "momentum=recipe.momentum, nesterov=True)",
        cause="after step 1",
    ),
    _torch(
        "the momentum is dampened",
        "momentum=recipe.momentum)",
        "momentum=recipe.momentum, dampening=0.1)",
        cause="after step 2",
    ),
    _torch("biases decay too", '"weight_decay": 0.0', '"weight_decay": recipe.weight_decay', cause="after step 2"),
    _torch("gradients add up", "optimizer.zero_grad()", "pass", cause="after step 2"),
    _torch("the rate stays", "recipe.learning_rate_at(epoch)", "recipe.learning_rate_at(0)", cause="after step 9"),
    _torch("the loss is a sum", "/ count for name", "for name", cause="after step 1"),
    _torch("mirrored top to bottom", "image.flip(2)", "image.flip(1)", cause="after step 1"),
    _torch(
        "the colours are left alone",
        "+ torch.from_numpy(batch.shifts",
        "+ 0 * torch.from_numpy(batch.shifts",
        cause="after step 1",
    ),
    _keras(
        "the momentum is rounded to float32", "np.float64(recipe.momentum)", "recipe.momentum", cause="after step 2"
    ),
    _keras(
        "the velocity keeps the old rate", "velocity.assign(velocity * (rate / before))", "pass", cause="after step 9"
    ),
    _keras("the decay is twice as strong", "recipe.weight_decay / 2", "recipe.weight_decay", cause="after step 1"),
    _keras("nothing decays", "recipe.weight_decay / 2", "0.0", cause="after step 1"),
    _tf1(
        "the momentum is rounded to float32",
        "tf.constant(recipe.momentum, images.dtype)",
        "recipe.momentum",
        cause="after step 2",
    ),
    _tf1("the decay is twice as strong", "tf.nn.l2_loss(variable)", "tf.reduce_sum(variable**2)", cause="after step 1"),
    _tf1("biases decay too", "if decays(variable.op.name)", "", cause="after step 2"),
    _tf1(
        "Nesterov's momentum",
        "MomentumOptimizer(self.learning_rate, momentum)",
        "MomentumOptimizer(self.learning_rate, momentum, use_nesterov=True)",
        cause="after step 1",
    ),
    _tf1(
        "the rate stays", "rate = recipe.learning_rate_at(epoch)", "rate = recipe.learning_rate", cause="after step 9"
    ),
    _tf1("cropped at another place", "(picture, top, left,", "(picture, left, top,", cause="after step 1"),
]
