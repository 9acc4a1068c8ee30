"""The template of depthwise convolutions: channels in vectors, taps unrolled along a row.

f32 reads the input where it lies; the columns whose window leaves the map are emitted apart with
their taps clipped, and rows outside are skipped by loop bounds, so no inner loop branches.
int8 does the same where the processor multiplies and adds pairs; elsewhere it first widens (and
pads) a block of channels of a band of rows into scratch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeopt.codegen.schedules import candidates, parts, shared, table
from edgeopt.codegen.schedules.depthwise_parts import divide
from edgeopt.codegen.schedules.depthwise_plan import (
    Plan,
    lane_order,
    paired_isa,
    pairs_taps,
    plan_of,
)
from edgeopt.codegen.schedules.gemm import fold_bias, requantization
from edgeopt.codegen.schedules.isa import isa_of, known_isa
from edgeopt.codegen.schedules.template import (
    AT_MOST,
    BaseTemplate,
    Const,
    Template,
    is_table,
    round_up,
)
from edgeopt.core.choice import Choice
from edgeopt.core.kernels import OpKey
from edgeopt.core.network import Array
from edgeopt.core.target import TargetSpec


class Depthwise(BaseTemplate):
    """Depthwise convolution over vectors of channels."""

    name = "depthwise"

    def plan(self, key: OpKey, target: TargetSpec) -> Plan:
        """The tiling of a key on a target."""
        return plan_of(key, known_isa(target), self.choice)

    def candidates(
        self, key: OpKey, target: TargetSpec, at_most: int = AT_MOST
    ) -> tuple[Choice, ...]:
        """Tiles of pixels and vectors, and bands."""
        return candidates.of_depthwise(key, known_isa(target), at_most)

    def consts(self, key: OpKey, target: TargetSpec) -> tuple[Const, ...]:
        """Weights [vector][tap][lane] and what follows the sum."""
        plan = self.plan(key, target)
        taps = key.kernel[0] * key.kernel[1]
        if key.dtype == "f32":
            weights = Const("weights", "f32", plan.channels * taps)
            return weights, Const("bias", "f32", plan.channels)
        if not plan.slots:
            weights = Const("weights", "i8", plan.channels * taps)
            return (weights, *requantization(key, plan.channels, 1))
        weights = Const("weights", "i8", plan.channels * plan.slots * 2)
        return (weights, *requantization(key, plan.channels))

    def scratch_bytes(self, key: OpKey, target: TargetSpec) -> int:
        """Bytes of the padded band of one block of channels, or of a row of padding."""
        if key.dtype == "f32":
            return 0
        plan = self.plan(key, target)
        return plan.pad_bytes or round_up(plan.stage_elements, 64)

    def divide(self, key: OpKey, target: TargetSpec) -> parts.Division:
        """Rows or vectors of channels apart."""
        return divide(key, self.plan(key, target), known_isa(target), target.threads)

    def pack(
        self, key: OpKey, target: TargetSpec, constants: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Weights by vector of channels; for int8 pairs of vertical taps interleaved."""
        isa = known_isa(target)
        plan = self.plan(key, target)
        channels = key.in_shape[-1]
        spare = (0, plan.channels - channels)
        weights = constants["w"].reshape(channels, *key.kernel)
        full = np.pad(weights, (spare, (0, 0), (0, 0)))
        by_vector = full.reshape(plan.blocks, plan.lanes, *key.kernel)
        if key.dtype == "f32":
            bias = constants.get("b")
            if bias is None:
                bias = np.zeros(channels, np.float32)
            return {
                "weights": np.ascontiguousarray(by_vector.transpose(0, 2, 3, 1)).reshape(-1),
                "bias": np.pad(np.asarray(bias, np.float32), spare),
            }
        qparams = np.ascontiguousarray(constants["qparams"], np.int32)
        ordered: Array
        if pairs_taps(isa):
            ordered = _in_pairs(by_vector, channels % plan.lanes)
        else:
            ordered = by_vector.reshape(plan.blocks, plan.lanes, -1).swapaxes(1, 2)
            qparams = np.append(qparams, np.int32(overflows(ordered)))
        packed: dict[str, Array] = {
            "weights": np.ascontiguousarray(ordered).reshape(-1),
            "bias": np.pad(fold_bias(constants), spare),
            "multiplier": np.pad(np.asarray(constants["multiplier"], np.float32), spare),
            "qparams": qparams,
        }
        if is_table(key.activation):
            packed["lut"] = table.pack(isa, constants["lut"])
        return packed

    def primfunc(self, key: OpKey, target: TargetSpec) -> Any:
        """Emit the kernel."""
        from edgeopt.codegen.schedules import depthwise_f32, depthwise_i8, depthwise_pairs

        isa = known_isa(target)
        sizes = {const.name: const.elements for const in self.consts(key, target)}
        function, plan = self.function(key, target), self.plan(key, target)
        if key.dtype == "f32":
            return depthwise_f32.emit(function, plan, isa, sizes)
        if pairs_taps(isa):
            return depthwise_pairs.emit(function, plan, paired_isa(isa), sizes)
        return depthwise_i8.emit(function, plan, isa, sizes)

    def shared(self, key: OpKey, target: TargetSpec) -> tuple[shared.Shared, ...]:
        """The functions of rows, and of a table."""
        isa = known_isa(target)
        if key.dtype == "f32" or not pairs_taps(isa):
            return ()
        parts = self.divide(key, target).parts if target.threads > 1 else 1
        plan = self.plan(key, target)
        rows = shared.of_rows(key, plan) if parts == 1 and plan.shared else ()
        line = key.out_shape[1] * key.out_shape[2]
        return (*rows, *shared.of_table(key, isa, parts, line))


def overflows(weights: Array) -> bool:
    """Whether two neighbouring taps [vector][tap][lane] are both -128.

    Their products' sum may leave 16 bits then, and only then.
    """
    least = weights[:, : weights.shape[1] // 2 * 2] == -128
    return bool((least[:, ::2] & least[:, 1::2]).any())


def _in_pairs(weights: Array, rest: int) -> Array:
    """Weights [vector][lane][row][column] as [vector][pair of taps][lane][tap].

    Rows are in pairs, then columns of a last row. Lanes are in the order of `lane_order`, but of
    a last block of at most half its channels.
    """
    blocks, lanes, taps_h, taps_w = weights.shape
    pairs = taps_h // 2
    rows = weights[:, :, : 2 * pairs].reshape(blocks, lanes, pairs, 2, taps_w)
    ordered: Array = rows.transpose(0, 2, 4, 1, 3).reshape(blocks, -1, lanes, 2)
    if taps_h % 2:
        last = np.pad(weights[:, :, -1], ((0, 0), (0, 0), (0, taps_w % 2)))
        last = last.reshape(blocks, lanes, -1, 2).transpose(0, 2, 1, 3)
        ordered = np.concatenate([ordered, last], axis=1)
    paired = ordered[:, :, list(lane_order(lanes))]
    if 0 < rest <= lanes // 2:
        paired[-1] = ordered[-1]
    return paired


DEPTHWISE = Depthwise()


def rule(key: OpKey, target: TargetSpec) -> Template | None:
    """Depthwise keys without channel multiplier."""
    if key.op != "depthwise" or key.inputs != 1 or key.weight_bits or isa_of(target) is None:
        return None
    if key.dtype != key.out_dtype or key.dtype not in ("f32", "i8"):
        return None
    if key.in_shape[-1] != key.out_shape[-1] or (key.dtype == "i8" and key.residual):
        return None
    return DEPTHWISE
