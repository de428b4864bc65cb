"""Dask clusters for test_cluster.py: a scheduler and workers in processes of their own, as a shell starts them."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]


MODULES = "common.cluster.task_process", "common.parity.worker", "common.process.template"
"""Of the processes in which tasks are done."""


class Cluster:
    """A scheduler and the workers that it has, each by what was started."""

    def __init__(self, folder):
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{found.getsockname()[1]}"
        self.folder = folder
        port = self.address.partition(":")[2]
        self.scheduler = self.start("scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard")
        self.workers = []

    def start(self, what, *arguments, **variables):
        # A shell starts its background jobs with Ctrl-C ignored, and every process inherits that: not those here.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
        log = (self.folder / "log").open("a")
        return subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.dask_{what}", *arguments],
            env=environment,
            cwd=self.folder,
            stdout=log,
            stderr=log,
        )

    def add(self, *, threads=1, **variables):
        """A worker, which nobody starts again when it dies; its place is the folder that commands run in elsewhere."""
        scratch = self.folder / f"scratch{len(self.workers)}"
        options = ("--no-nanny", "--no-dashboard", "--nthreads", str(threads), "--local-directory", str(scratch))
        worker = self.start("worker", self.address, *options, **variables)
        self.workers.append(worker)
        return worker

    def end(self):
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()

    def inside(self, ask):
        """What the scheduler says."""
        from distributed import Client

        with Client(self.address, timeout=30, set_as_default=False) as client:
            return client.run_on_scheduler(ask)

    def wait(self, workers, timeout=60):
        deadline = time.monotonic() + timeout
        while (there := self.inside(lambda dask_scheduler: len(dask_scheduler.workers))) != workers:
            assert time.monotonic() < deadline, f"{there} workers are there, not {workers}"
            time.sleep(0.1)

    def processes(self):
        """The processes in which tasks are done, and what these have started."""
        found = []
        for worker in self.workers:
            if worker.poll() is None:
                for child in psutil.Process(worker.pid).children(recursive=True):
                    try:
                        if any(name in child.cmdline() for name in MODULES):
                            found.append(child)
                    except (psutil.NoSuchProcess, psutil.ZombieProcess):  # it ended after it was listed
                        pass
        return found


@contextmanager
def cluster_of(folder, *workers):
    cluster = Cluster(folder)
    try:
        for options in workers:
            cluster.add(**options)
        cluster.wait(len(workers))
        yield cluster
    finally:
        cluster.end()
