"""Work handed to the machines of a Dask cluster: what a command has to do, in tasks, each done by whoever is free.

`work` says what that is, `home` hands out, `seat` is at each of the cluster's workers, `hand` is the process there in
which a task is done. Nothing is pickled but what is defined here, with numbers: no code of the user's.
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
