"""The proof of a model of one's own: its graph is the specification, each node is judged by what it was given."""
