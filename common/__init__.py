"""What the three implementations share: specifications, names, weights, probes, proofs.

No framework is imported by importing anything in here, and NumPy only where arrays are handled.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "errors": ["TriptychError"],
        "specs": ["get_spec", "list_architectures"],
        "specs.seeded": ["random_weights"],
        "weights": ["read_weights_file", "write_weights_file"],
    },
)
