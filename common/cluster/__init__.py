"""Work on the machines of a Dask cluster, in tasks. Each task is done by a worker that is free.

`work` defines tasks and their results. `client` hands them out. `plugin` runs in each of Dask's workers, and starts the
`task_process` in which a task is done. What is pickled is defined here, with numbers: no code of the user's.
"""

from __future__ import annotations

import importlib.util

from common.errors import TriptychError, argument


class ClusterLost(TriptychError):
    """The scheduler, or everybody who could do what is left, is gone."""


def require_dask() -> None:
    """See that it is installed.

    Raises:
        TriptychError: it is not.
    """
    if importlib.util.find_spec("distributed") is None:
        how = "pip install -c constraints.txt -e '.[dask]'"
        raise TriptychError(f"{argument('dask')} needs Dask, which is not installed; {how}")
