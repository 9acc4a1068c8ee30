"""Random networks compute what onnxruntime computes."""

from __future__ import annotations

import onnx
import onnx.printer
import parity
import random_graphs
from hypothesis import HealthCheck, given, note, settings

from edgeopt.graph import ir
from edgeopt.graph.fold import drop_dead, drop_identities, fold_constants
from edgeopt.graph.fuse import FUSIONS


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(random_graphs.networks())
def test_random_networks_compute_what_onnxruntime_does(model: onnx.ModelProto) -> None:
    note(onnx.printer.to_text(model))
    onnx.checker.check_model(model)
    parity.check(model)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(random_graphs.networks())
def test_a_second_run_of_a_pass_changes_nothing(model: onnx.ModelProto) -> None:
    graph = ir.from_model(onnx.shape_inference.infer_shapes(model, data_prop=True))
    for step in (fold_constants, drop_identities, drop_dead, *FUSIONS):
        graph, _ = step(graph)
        again, changed = step(graph)
        assert not changed and again is graph, step.__name__
