"""What a pass over a `Graph` looks things up in, and the edits it collects."""

from __future__ import annotations

from collections.abc import Callable

from edgeopt.core.network import Array
from edgeopt.graph.ir import Graph, Node

#: Takes a graph and returns it with whether it changed; a second run changes nothing.
Pass = Callable[[Graph], tuple[Graph, bool]]


class Rewrite:
    """A pass under way: edits take effect together when it finishes."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.uses = graph.uses()
        self.producers = graph.producers()
        self.replaced: dict[str, Node] = {}  # by the first output of the node it replaces
        self.dropped: set[str] = set()
        self.constants: dict[str, Array] = {}

    def constant(self, name: str) -> Array | None:
        """The value of a constant."""
        return self.graph.constants.get(name)

    def scalar(self, name: str) -> float | None:
        """The value of a constant of one element."""
        value = self.constant(name)
        return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None

    def only(self, name: str, op: str, domain: str = "") -> Node | None:
        """The node writing ``name`` if it is an ``op`` and this is its only reader."""
        node = self.producers.get(name)
        if node is None or self.uses[name] != 1 or self.touched(node):
            return None
        return node if node.op == op and node.domain == domain else None

    def touched(self, node: Node) -> bool:
        """Whether an edit of this pass concerns the node already."""
        return node.outputs[0] in self.dropped or node.outputs[0] in self.replaced

    def replace(self, node: Node, new: Node, *gone: Node) -> None:
        """Put ``new`` in the place of a node, and drop others."""
        self.replaced[node.outputs[0]] = new
        self.dropped.update(item.outputs[0] for item in gone)

    def store(self, stem: str, value: Array) -> str:
        """Add a constant under a name like ``stem``; returns the name."""
        name = stem
        while name in self.graph.constants or name in self.constants or name in self.graph.types:
            name += "_"
        self.constants[name] = value
        return name

    def finish(self) -> tuple[Graph, bool]:
        """The edited graph, and whether there was any edit."""
        if not self.replaced and not self.dropped:
            return self.graph, False
        nodes = [
            self.replaced.get(node.outputs[0], node)
            for node in self.graph.nodes
            if node.outputs[0] not in self.dropped
        ]
        return self.graph.with_nodes(nodes, self.constants), True
