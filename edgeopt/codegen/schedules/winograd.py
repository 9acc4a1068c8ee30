"""The template of 3x3 convolutions in Winograd's domain, for floats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from edgeopt.codegen.schedules import candidates, gemm, parts
from edgeopt.codegen.schedules.isa import isa_of, known_isa
from edgeopt.codegen.schedules.template import AT_MOST, BaseTemplate, Const, Template, round_up
from edgeopt.codegen.schedules.winograd_plan import Plan, plan_of, weight_transform
from edgeopt.core.choice import MODEL, Choice
from edgeopt.core.kernels import OpKey
from edgeopt.core.network import Array
from edgeopt.core.target import TargetSpec


class Winograd(BaseTemplate):
    """F(2x2, 3x3) or F(4x4, 3x3): transform, multiply, transform back."""

    name = "winograd"

    def plan(self, key: OpKey, target: TargetSpec) -> Plan:
        """The tiling of a key on a target."""
        isa, choice = known_isa(target), self.choice
        if choice != MODEL and not choice.form:
            own = plan_of(key, isa)
            assert own is not None
            choice = replace(choice, form=f"w{own.outputs_side}")
        plan = plan_of(key, isa, choice)
        assert plan is not None
        return plan

    def candidates(
        self, key: OpKey, target: TargetSpec, at_most: int = AT_MOST
    ) -> tuple[Choice, ...]:
        """The direct convolution as well."""
        return candidates.of_winograd(key, known_isa(target), at_most)

    def consts(self, key: OpKey, target: TargetSpec) -> tuple[Const, ...]:
        """Transformed weights and bias."""
        plan = self.plan(key, target)
        weights = Const("weights", "f32", plan.products * plan.product.weight_elements)
        return weights, Const("bias", "f32", plan.product.bias_elements)

    def scratch_bytes(self, key: OpKey, target: TargetSpec) -> int:
        """The staged band, its transform and the products."""
        plan = self.plan(key, target)
        between = plan.products * (plan.input_stride + plan.output_stride)
        return 4 * round_up(plan.stage_elements(key.in_shape[-1]) + between, 16)

    def divide(self, key: OpKey, target: TargetSpec) -> parts.Division:
        """By bands of the map, or by panels of output channels."""
        plan = self.plan(key, target)
        pieces = max(plan.bands, -(-plan.product.output_vectors // plan.product.vectors))
        cycles = parts.mac_cycles(key, known_isa(target)) / plan.outputs_side
        return parts.even(target.threads, pieces, cycles)

    def pack(
        self, key: OpKey, target: TargetSpec, constants: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Weights transformed in double precision, in panels, one product after another."""
        plan = self.plan(key, target)
        product = plan.product
        transform = weight_transform(plan.outputs_side).astype(np.float64)
        wide = product.output_vectors * product.lanes
        w = constants["w"].astype(np.float64)
        u = np.einsum("ai,oijc,bj->abco", transform, w, transform).astype(np.float32)
        u = np.pad(u, ((0, 0), (0, 0), (0, 0), (0, wide - product.outputs)))
        u = u.reshape(plan.products, -1, wide)
        width = product.vectors * product.lanes
        panels = [u[:, :, at : at + width] for at in range(0, wide, width)]
        bias = gemm.by_group(constants.get("b"), np.float32, product)
        flat = [panel.reshape(plan.products, -1) for panel in panels]
        return {"weights": np.concatenate(flat, axis=1).reshape(-1), "bias": bias}

    def primfunc(self, key: OpKey, target: TargetSpec) -> Any:
        """Emit the kernel."""
        from edgeopt.codegen.schedules.winograd_code import emit

        sizes = {const.name: const.elements for const in self.consts(key, target)}
        return emit(self.function(key, target), self.plan(key, target), known_isa(target), sizes)


WINOGRAD = Winograd()


def rule(key: OpKey, target: TargetSpec) -> Template | None:
    """3x3 convolutions of enough channels."""
    isa = isa_of(target)
    if isa is None or key.inputs != 1 or plan_of(key, isa) is None:
        return None
    return WINOGRAD
