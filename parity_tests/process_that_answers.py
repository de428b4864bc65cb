"""A process for test_process.py: says things on every channel, answers, sleeps or dies, as it is asked."""

import os
import signal
import sys
import threading
import time
import warnings

from common.process import answering, requests


def main():
    answer = answering()
    for request in requests():
        print("from Python", flush=True)
        os.system("echo from below Python")
        match request:
            case "die":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "leave":
                raise SystemExit("no more\n \n")
            case "sleep":
                time.sleep(600)
            case "work":
                while time.process_time() < 0.2:
                    pass
                answer({})
            case "refuse":
                answer({"error": "I would rather not", "reason": 7})
            case "describe":
                answer(described())
            case _:
                answer({"pid": os.getpid(), "got": request})


def described():
    """All that could be different in a process that is a copy of another."""
    handlers = {number: str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)}
    return {
        "pid": os.getpid(),
        "session": os.getsid(0),
        "folder": os.getcwd(),
        "arguments": sys.argv[1:],
        "environment": dict(os.environ),
        "path": sys.path,
        "files": sorted(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "signals": handlers,
        "warnings": str(warnings.filters),
        "main": sys.modules["__main__"].__spec__.name,
        "encodings": [stream.encoding for stream in (sys.stdin, sys.stdout, sys.stderr)],
        "buffering": [stream.line_buffering for stream in (sys.stdout, sys.stderr)],
        "modules": sorted(sys.modules),
    }


if __name__ == "__main__":
    main()
