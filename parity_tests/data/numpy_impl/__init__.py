"""LeNet in NumPy: a framework that is a page long, for test_add_a_backend.py."""

from numpy_impl.backend import build, load_weights, read_weights

__all__ = ["build", "load_weights", "read_weights"]
