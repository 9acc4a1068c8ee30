"""Bring a model into the form the importer reads: static, folded, fused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from edgeopt.core.errors import InputError
from edgeopt.graph import ir
from edgeopt.graph.expand import (
    expand_integer_layers,
    move_pads_behind_pairs,
    split_into_slices,
)
from edgeopt.graph.fold import drop_dead, drop_identities, fold_constants
from edgeopt.graph.fuse import FUSIONS
from edgeopt.graph.rewrite import Pass
from edgeopt.graph.sizes import check_dims
from edgeopt.graph.supported import TYPE_PRESERVING

CLEANUPS: tuple[Pass, ...] = (fold_constants, drop_identities, drop_dead)

PASSES: tuple[Pass, ...] = (
    *CLEANUPS,
    expand_integer_layers,
    split_into_slices,
    move_pads_behind_pairs,
    *FUSIONS,
)

_MAX_ROUNDS = 64


def simplify(graph: ir.Graph, infer: Callable[[ir.Graph], ir.Graph]) -> ir.Graph:
    """Fold constants until every shape is known, then fuse.

    Args:
        graph: as read from a model.
        infer: runs shape inference on a graph.

    Raises:
        InputError: a shape stays unknown.
    """
    graph = _own_inference(graph)
    for _ in range(_MAX_ROUNDS):
        graph, changed = run(graph, CLEANUPS)
        if _unknown(graph) is None:
            break
        known = len(graph.types)
        graph = _own_inference(infer(graph))
        if not changed and len(graph.types) == known:
            break
    missing = _unknown(graph)
    if missing is not None:
        node, name = missing
        raise InputError(
            f"the shape of {name!r} cannot be known before the network runs",
            where=f"node {node.name!r} ({node.op})",
            hint="export the model with fixed input sizes, or fix them with --input-shape",
        )
    check_sizes(graph)
    return run(graph, PASSES)[0]


def run(graph: ir.Graph, passes: tuple[Pass, ...]) -> tuple[ir.Graph, bool]:
    """Repeat passes until none changes anything."""
    any_change = False
    for _ in range(_MAX_ROUNDS):
        changed = False
        for step in passes:
            graph, did = step(graph)
            changed = changed or did
        any_change = any_change or changed
        if not changed:
            break
    return graph, any_change


def check_sizes(graph: ir.Graph) -> None:
    """Refuse values that are empty, or larger than any board.

    Raises:
        InputError: with the node that writes the value.
    """
    for node in graph.nodes:
        for name in node.outputs:
            if not name:
                continue
            known = graph.types[name]
            where = f"node {node.name!r} ({node.op})"
            if 0 in known.shape:
                raise InputError(
                    f"writes {name!r} of shape {list(known.shape)}, which has no elements",
                    where=where,
                    hint="a dimension became zero: check the shape of the inputs",
                )
            check_dims(known.shape, known.dtype.itemsize, where)


def _own_inference(graph: ir.Graph) -> ir.Graph:
    """Types that onnx's inference leaves out for some operators defined by others."""
    types = dict(graph.types)
    for node in graph.nodes:
        if node.op in TYPE_PRESERVING and not node.domain and node.inputs[0] in types:
            types.setdefault(node.outputs[0], types[node.inputs[0]])
    return graph if len(types) == len(graph.types) else replace(graph, types=types)


def _unknown(graph: ir.Graph) -> tuple[ir.Node, str] | None:
    for node in graph.nodes:
        for name in node.outputs:
            if name and name not in graph.types:
                return node, name
    return None
