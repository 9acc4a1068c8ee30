"""The template of pointwise, general and grouped convolutions and linear layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeopt.codegen.schedules import candidates, packing, parts, shared, table
from edgeopt.codegen.schedules.gemm_parts import divide
from edgeopt.codegen.schedules.gemm_plan import Plan, plan_of, suited
from edgeopt.codegen.schedules.isa import Isa, isa_of, known_isa
from edgeopt.codegen.schedules.template import (
    AT_MOST,
    BYTES,
    BaseTemplate,
    Const,
    Template,
    elements,
    is_table,
    round_up,
)
from edgeopt.core.choice import Choice
from edgeopt.core.kernels import OpKey
from edgeopt.core.lowbits import fits
from edgeopt.core.network import Array
from edgeopt.core.target import TargetSpec

#: Depthwise keys reach this template only with several outputs a channel.
OPS = ("pointwise", "conv2d", "depthwise", "linear")


class Gemm(BaseTemplate):
    """Tiled products of staged or in-place activations with panels of packed weights."""

    name = "gemm"

    def plan(self, key: OpKey, target: TargetSpec) -> Plan:
        """The tiling of a key on a target."""
        return plan_of(key, _isa(key, target), self.choice)

    def candidates(
        self, key: OpKey, target: TargetSpec, at_most: int = AT_MOST
    ) -> tuple[Choice, ...]:
        """Register tiles, loop orders, partial sums and bands near the model's best."""
        return candidates.of_gemm(key, _isa(key, target), at_most)

    def consts(self, key: OpKey, target: TargetSpec) -> tuple[Const, ...]:
        """Weights and bias; for int8 the requantization as well."""
        plan = self.plan(key, target)
        weights = Const("weights", key.dtype, plan.weight_elements)
        if plan.is_packed:
            size = plan.groups * packing.group_bytes(plan, _isa(key, target))
            weights = Const("weights", "u8", size)
        if key.dtype == "f32":
            return weights, Const("bias", "f32", plan.bias_elements)
        extra = 1 if needs_flag(plan, _isa(key, target)) else 0
        return (weights, *requantization(key, plan.bias_elements, extra))

    def scratch_bytes(self, key: OpKey, target: TargetSpec) -> int:
        """Bytes of the staged band of input rows."""
        stage = self.plan(key, target).stage
        return 0 if stage is None else round_up(stage.elements * BYTES[stage.dtype], 64)

    def divide(self, key: OpKey, target: TargetSpec) -> parts.Division:
        """Rows, tiles of a row, or panels of output channels apart."""
        return divide(key, self.plan(key, target), _isa(key, target), target.threads)

    def pack(
        self, key: OpKey, target: TargetSpec, constants: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Weights to panels, zero points folded into the bias, all padded to whole vectors.

        Raises:
            ValueError: a weight does not fit the key's bits.
        """
        plan = self.plan(key, target)
        weights = constants["w"]
        window = plan.window
        taps = window.taps_h * window.taps_w
        grouped = weights.reshape(plan.groups, plan.outputs, taps, window.run)
        spare = window.run_packed - window.run
        wide = plan.output_vectors * plan.lanes
        full = in_vectors(np.pad(grouped, ((0, 0), (0, 0), (0, 0), (0, spare))), plan)
        if plan.is_packed and not fits(weights, plan.bits):
            raise ValueError(f"a weight does not fit {plan.bits} bits")
        if plan.bits == 2:  # outputs that are not there; there is no zero
            full = np.where(full == 0, np.int8(1), full)
        isa = _isa(key, target)
        panels = []
        width = plan.vectors * plan.lanes
        for group in full:
            for start in range(0, wide, width):
                some = panel(isa, group[start : start + width], plan.pack)
                if plan.is_packed:
                    vectors = min(width, wide - start) // plan.lanes
                    some = packing.pack_panel(plan, isa, some, vectors)
                panels.append(some)
        packed: dict[str, Array] = {"weights": np.concatenate(panels)}
        if key.dtype == "f32":
            packed["bias"] = by_group(constants.get("b"), np.float32, plan)
        else:
            offset = 128 if isa.unsigned else 0
            folded = fold_bias(constants, offset)
            packed["bias"] = by_group(folded, np.int32, plan)
            packed["multiplier"] = by_group(constants["multiplier"], np.float32, plan)
            qparams = np.ascontiguousarray(constants["qparams"], np.int32)
            if needs_flag(plan, isa):
                qparams = np.append(qparams, np.int32(overflows(full, plan.pack)))
            packed["qparams"] = qparams
            if is_table(key.activation):
                packed["lut"] = table.pack(isa, constants["lut"])
        return packed

    def primfunc(self, key: OpKey, target: TargetSpec) -> Any:
        """Emit the kernel."""
        from edgeopt.codegen.schedules import gemm_code, gemm_shared

        sizes = {const.name: const.elements for const in self.consts(key, target)}
        isa, plan = _isa(key, target), self.plan(key, target)
        module = gemm_shared if self._shares(key, target) else gemm_code
        return module.emit(self.function(key, target), plan, isa, sizes)

    def shared(self, key: OpKey, target: TargetSpec) -> tuple[shared.Shared, ...]:
        """The functions of panels, and of a table."""
        isa, parts = _isa(key, target), self._parts(key, target)
        panels = self._shares(key, target)
        found = shared.of_panels(self.plan(key, target), isa) if panels else ()
        return (*found, *shared.of_table(key, isa, parts, elements(key.out_shape)))

    def _parts(self, key: OpKey, target: TargetSpec) -> int:
        return self.divide(key, target).parts if target.threads > 1 else 1

    def _shares(self, key: OpKey, target: TargetSpec) -> bool:
        """Whether the kernel is calls of shared functions, which compute all of a panel."""
        return self._parts(key, target) == 1 and self.plan(key, target).shared


def _isa(key: OpKey, target: TargetSpec) -> Isa:
    isa = isa_of(target)
    assert isa is not None
    return suited(key, isa)


def panel(isa: Isa, weights: Array, pack: int) -> Array:
    """Weights [outputs, taps, run] in the order in which the inner loop reads them."""
    outputs, taps, run = weights.shape
    block = 2 * pack if isa.dot == "along" else pack
    whole = run // block * block
    pieces = []
    for tap in range(taps):
        blocks = weights[:, tap, :whole].reshape(outputs, -1, block)
        steps = blocks.transpose(1, 0, 2)
        if weights.dtype == np.int8 and isa.dot == "pair8":  # of four outputs, pair after pair
            steps = steps.reshape(-1, outputs // 4, 4, 2, 2).transpose(0, 1, 3, 2, 4)
        pieces.append(steps.reshape(-1))
        pieces.append(weights[:, tap, whole:].reshape(-1))
    return np.concatenate(pieces)


def needs_flag(plan: Plan, isa: Isa) -> bool:
    """Whether the kernel is told if sums of two products leave 16 bits; of few bits none do."""
    return isa.adds_products and not plan.is_packed


def overflows(weights: Array, pack: int) -> bool:
    """Whether two products that are added in 16 bits can leave them: both weights are -128."""
    together = 2 if pack == 4 else pack
    run = weights.shape[-1] // (2 * together) * (2 * together)
    least = (weights[..., :run] == -128).reshape(*weights.shape[:-1], -1, 2, together)
    return bool(least.all(axis=-2).any())


def requantization(key: OpKey, channels: int, extra: int = 0) -> tuple[Const, ...]:
    """Constants that turn int32 sums into int8; ``extra`` more of ``qparams``."""
    table = (Const("lut", "i8", 256),) if is_table(key.activation) else ()
    return (
        Const("bias", "i32", channels),
        Const("multiplier", "f32", channels),
        Const("qparams", "i32", 4 + extra),
        *table,
    )


def fold_bias(constants: Mapping[str, Array], offset: int = 0) -> Array:
    """The bias with the input's zero point (and an offset of the activations) folded in."""
    weights = constants["w"]
    sums = weights.reshape(weights.shape[0], -1).astype(np.int64).sum(axis=1)
    bias = constants.get("b")
    start = np.zeros_like(sums) if bias is None else bias.astype(np.int64)
    zero = int(constants["qparams"][0]) + offset
    # int32 wraps exactly as the accumulators do
    folded: Array = (start - zero * sums).astype(np.int32)
    return folded


def in_vectors(values: Array, plan: Plan) -> Array:
    """Values [groups, outputs, ...] in whole vectors: of zeros at the end, or of outputs again."""
    spare = plan.output_vectors * plan.lanes - plan.outputs
    if plan.overlaps:
        last = plan.outputs - plan.lanes
        return np.concatenate([values[:, : last + spare], values[:, last:]], axis=1)
    filled: Array = np.pad(values, ((0, 0), (0, spare), *((0, 0),) * (values.ndim - 2)))
    return filled


def by_group(values: Array | None, dtype: type[np.generic], plan: Plan) -> Array:
    """Values a channel, each group in whole vectors."""
    if values is None:
        return np.zeros(plan.bias_elements, dtype)
    grouped = np.asarray(values, dtype).reshape(plan.groups, plan.outputs)
    return in_vectors(grouped, plan).reshape(-1)


GEMM = Gemm()


def rule(key: OpKey, target: TargetSpec) -> Template | None:
    """Every conv-like or linear key in one precision."""
    if key.op not in OPS or key.inputs != 1 or isa_of(target) is None:
        return None
    if key.dtype != key.out_dtype or key.dtype not in ("f32", "i8"):
        return None
    if key.dtype == "i8" and key.residual:
        return None
    if key.weight_bits and not packing.reads(key, known_isa(target)):
        return None
    return GEMM
