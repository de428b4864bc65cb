"""A process for test_process.py: says things on every channel, answers, sleeps or dies, as it is asked."""

import os
import signal
import time

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
            case "refuse":
                answer({"error": "I would rather not", "reason": 7})
            case _:
                answer({"pid": os.getpid(), "got": request})


if __name__ == "__main__":
    main()
