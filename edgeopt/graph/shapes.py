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
    import onnx

    model = ir.to_model(graph)
    if isolated:
        from edgeopt.graph.isolate import check_isolated

        inferred = check_isolated(model.SerializeToString(), where=f"graph {graph.name!r}")
    else:
        try:
            inferred = onnx.shape_inference.infer_shapes(
                model, check_type=True, strict_mode=True, data_prop=True
            )
        except (onnx.shape_inference.InferenceError, ValueError) as error:
            raise InputError(
                f"shapes do not fit together: {str(error)[:300]}",
                where=f"graph {graph.name!r}",
                hint="check the model with onnx.checker",
            ) from error
    return replace(graph, types={**graph.types, **ir.from_model(inferred).types})
