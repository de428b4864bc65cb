"""The proof of a user's model. Its graph is the specification, and each node is judged on its own inputs."""
