"""The template of int8 3x3 convolutions in Winograd's domain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeopt.codegen.schedules import gemm, parts, table
from edgeopt.codegen.schedules.candidates import of_winograd_i8
from edgeopt.codegen.schedules.isa import isa_of, known_isa
from edgeopt.codegen.schedules.template import AT_MOST, BaseTemplate, Const, Template, is_table
from edgeopt.codegen.schedules.winograd_i8_plan import PRODUCTS, Plan, pays, plan_of
from edgeopt.core.choice import Choice
from edgeopt.core.kernels import OpKey
from edgeopt.core.network import Array
from edgeopt.core.target import TargetSpec

#: Twice G of F(2x2, 3x3): transformed weights are four times what the algorithm has them.
_TRANSFORM = np.array([[-2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]])


class WinogradI8(BaseTemplate):
    """F(2x2, 3x3) on integers, exact."""

    name = "winograd_i8"

    def plan(self, key: OpKey, target: TargetSpec) -> Plan:
        """The tiling of a key on a target."""
        return plan_of(key, known_isa(target), self.choice)

    def candidates(
        self, key: OpKey, target: TargetSpec, at_most: int = AT_MOST
    ) -> tuple[Choice, ...]:
        """The direct convolution, other bands and register tiles."""
        return of_winograd_i8(key, known_isa(target), at_most)

    def consts(self, key: OpKey, target: TargetSpec) -> tuple[Const, ...]:
        """Transformed weights, and what follows the sum."""
        product = self.plan(key, target).product
        weights = Const("weights", "i16", PRODUCTS * product.weight_elements)
        return (weights, *gemm.requantization(key, product.bias_elements))

    def scratch_bytes(self, key: OpKey, target: TargetSpec) -> int:
        """The staged band, its transform, and the sums of one panel."""
        plan = self.plan(key, target)
        staged = plan.stage_elements(key.in_shape[-1])
        return 2 * (staged + PRODUCTS * plan.input_stride) + 4 * PRODUCTS * plan.sum_stride

    def divide(self, key: OpKey, target: TargetSpec) -> parts.Division:
        """By bands of the map, or by panels of output channels."""
        plan = self.plan(key, target)
        # A table is applied to whole rows.
        pieces = plan.bands if is_table(key.activation) else max(plan.bands, plan.panels)
        return parts.even(target.threads, pieces, parts.mac_cycles(key, known_isa(target)) / 3)

    def pack(
        self, key: OpKey, target: TargetSpec, constants: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Weights [panel][product][pair of channels][output][channel], outputs padded."""
        plan = self.plan(key, target)
        product = plan.product
        wide = product.output_vectors * product.lanes
        u = np.einsum("ai,oijc,bj->aboc", _TRANSFORM, constants["w"].astype(np.int64), _TRANSFORM)
        spare = (0, wide - product.outputs), (0, product.reduction - u.shape[3])
        u = np.pad(u, ((0, 0), (0, 0), *spare)).reshape(PRODUCTS, wide, -1, 2)
        width = product.vectors * product.lanes
        panels = [
            u[:, at : at + width].transpose(0, 2, 1, 3).reshape(-1) for at in range(0, wide, width)
        ]
        spread = (0, wide - product.outputs)
        packed: dict[str, Array] = {
            "weights": np.concatenate(panels).astype(np.int16),
            "bias": np.pad(gemm.fold_bias(constants), spread),
            "multiplier": np.pad(np.asarray(constants["multiplier"], np.float32), spread),
            "qparams": np.ascontiguousarray(constants["qparams"], np.int32),
        }
        if is_table(key.activation):
            packed["lut"] = table.pack(known_isa(target), constants["lut"])
        return packed

    def primfunc(self, key: OpKey, target: TargetSpec) -> Any:
        """Emit the kernel."""
        from edgeopt.codegen.schedules.winograd_i8_code import emit

        sizes = {const.name: const.elements for const in self.consts(key, target)}
        return emit(self.function(key, target), self.plan(key, target), known_isa(target), sizes)


WINOGRAD_I8 = WinogradI8()


def rule(key: OpKey, target: TargetSpec) -> Template | None:
    """3x3 convolutions of enough channels where int16 pairs are multiplied."""
    isa = isa_of(target)
    return WINOGRAD_I8 if isa is not None and key.inputs == 1 and pays(key, isa) else None
