"""Trainings that are compared step by step: the same weights and batches must give the same steps in every framework.

`worker` trains in the process of a backend, and `race` lets all backends take each step together. `umpire` judges each
step by itself. `steps` and the `step_*` know what a step must be, and the mistakes that are made in one.
"""
