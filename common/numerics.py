"""NumPy, imported when it is first used.

`triptych list` asks operations for shapes alone, and answers before NumPy would be there.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_loader.load("numpy")

__all__ = ["np"]
