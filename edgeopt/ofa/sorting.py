"""Ordering every block's middle channels by importance, before smaller expansions are trained."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

State = Mapping[str, Tensor]  # tensors by parameter name; momentum and averages qualify


def channel_orders(state: State) -> dict[str, tuple[Tensor, Tensor | None]]:
    """For each elastic block (name up to ``.conv.``): order of middle and of SE channels.

    Importance is the L1 norm of the weights that read a channel (once-for-all's rule).
    """
    orders: dict[str, tuple[Tensor, Tensor | None]] = {}
    for name, weight in state.items():
        block, found, _ = name.partition("point_linear.conv.conv.weight")
        if not found:
            continue
        order = _falling(weight.abs().sum((0, 2, 3)))
        expand = state.get(f"{block}depth_conv.se.fc.expand.weight")
        inner = None if expand is None else _falling(expand.abs().sum((0, 2, 3)))
        orders[block] = (order, inner)
    return orders


def _falling(importance: Tensor) -> Tensor:
    return torch.argsort(importance, descending=True, stable=True)


@torch.no_grad()
def reorder_channels(state: State, orders: Mapping[str, tuple[Tensor, Tensor | None]]) -> None:
    """Apply ``orders`` to ``state`` in place; the largest subnet computes what it did before."""
    for block, (order, inner) in orders.items():
        rows = ["inverted_bottleneck.conv.conv.weight", "depth_conv.conv.conv.weight"]
        for part in ("inverted_bottleneck", "depth_conv"):
            leaves = ("weight", "bias", "running_mean", "running_var")
            rows += [f"{part}.bn.bn.{leaf}" for leaf in leaves]
        columns = ["point_linear.conv.conv.weight"]
        if inner is not None:
            rows += ["depth_conv.se.fc.expand.weight", "depth_conv.se.fc.expand.bias"]
            columns.append("depth_conv.se.fc.reduce.weight")
        _permute(state, [block + name for name in rows], order, 0)
        _permute(state, [block + name for name in columns], order, 1)
        if inner is not None:
            reduce = [block + f"depth_conv.se.fc.reduce.{leaf}" for leaf in ("weight", "bias")]
            _permute(state, reduce, inner, 0)
            _permute(state, [block + "depth_conv.se.fc.expand.weight"], inner, 1)


def _permute(state: State, names: list[str], order: Tensor, axis: int) -> None:
    for name in names:
        tensor = state.get(name)
        if tensor is not None:
            tensor.copy_(tensor.index_select(axis, order))
