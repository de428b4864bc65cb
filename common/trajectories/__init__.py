"""Trainings that are compared step by step: from the same weights, the same batches take every framework the same way.

`worker` trains in the process of a backend, `race` has all go in step, `umpire` judges each step by itself, `steps` and
the `step_*` know what a step must be, and which mistakes are made in one.
"""
