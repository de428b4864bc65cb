"""A network read from a graph: its nodes, each with its operation, in an order in which they can be computed."""

from common.graphs.graph import Graph, Node
from common.graphs.onnx_reader import read_graph

__all__ = ["Graph", "Node", "read_graph"]
