"""Shape inference, in a child process where the model is not trusted."""

from __future__ import annotations

from dataclasses import replace

from edgeopt.core.errors import InputError
from edgeopt.graph import ir


def infer_graph(graph: ir.Graph, *, isolated: bool) -> ir.Graph:
    """The graph with the types that ONNX's shape inference finds.

    Raises:
        InputError: shapes contradict each other, or inference crashed.
    """
    model = ir.to_model(graph)
    try:
        if isolated:
            from edgeopt.graph.isolate import inferred_isolated

            inferred = inferred_isolated(model.SerializeToString())
        else:
            from edgeopt.graph.check import infer

            inferred = infer(model)
    except InputError as error:
        where = error.where or f"graph {graph.name!r}"
        raise InputError(error.what, where=where, hint=error.hint) from error
    return replace(graph, types={**graph.types, **ir.from_model(inferred).types})
