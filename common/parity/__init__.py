"""The parity harness: run one network in every backend, and judge each layer of each against the oracle.

`backends` says what can be run, `worker` runs one of them in a process of its own, `judge` compares what it recorded
with the oracle, `runner` puts these together, `networks` takes one network after the other.
"""
