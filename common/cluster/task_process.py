"""The process in which tasks are done, beside Dask's worker: `python -m common.cluster.task_process WORK THREADS`.

What crashes or fills the memory ends this, and the worker lives to tell it; and it can be ended at any moment, with all
that it has started, which no thread of the worker could be.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
import traceback
from pathlib import Path

from common.cluster.work import Work
from common.errors import one_line
from common.process import answering, requests
from common.process.sparing import spare_imports

IDLE = 600.0
"""Seconds after which it ends if nobody asks: whoever handed out the tasks may have been killed."""


def main() -> None:
    """Do what is asked: of each file that holds a task, write what comes of it into that file."""
    path, threads = sys.argv[1:]
    answer = answering()
    spare_imports()
    work: Work = pickle.loads(Path(path).read_bytes())
    with work.ready(int(threads)) as do:
        asked = requests()
        while True:
            idle = threading.Timer(IDLE, os._exit, [0])
            idle.daemon = True
            idle.start()
            file = Path(next(asked))
            idle.cancel()
            try:
                made = do(pickle.loads(file.read_bytes()))
                file.write_bytes(pickle.dumps((work.environment(), made)))
                answer({})
            except Exception as error:
                answer({"error": one_line(error), "traceback": traceback.format_exc()})


if __name__ == "__main__":
    main()
