"""The parity harness: run one network in every backend, and judge each layer of each against the oracle.

`backends` says what can be run, `worker` is the process that runs one of them, and its export, `judge` compares what
was recorded with the oracle, `runner` puts these together, `networks` takes one network after the other.
"""
