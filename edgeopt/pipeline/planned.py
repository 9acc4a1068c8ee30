"""What a subnet under a precision plan costs: exactly by lowering it, thousands at once by tables.

The parts of a space are independent (`edgeopt.pipeline.space_kernels`), with their bits as well:
what every choice of every block in every width adds to latency and constants, and which functions
its kernels are made of, is noted once; a candidate is then a few look-ups, and its code that of its
functions.
What a sum leaves out (a table's calibration) is measured on a few candidates, so that screening
stays safe.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeopt.codegen import cost
from edgeopt.codegen.ckernels import sizes
from edgeopt.codegen.lowbits import stored_bits, supported
from edgeopt.codegen.lower_parts import packed_key
from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import InputError
from edgeopt.core.estimates import LatencyModel
from edgeopt.core.kernels import OpKey
from edgeopt.core.lowbits import PACKED_BITS
from edgeopt.core.network import Network
from edgeopt.core.space import SearchSpace
from edgeopt.core.target import TargetSpec
from edgeopt.ofa.describe import describe
from edgeopt.ofa.genes import Genes
from edgeopt.ofa.plan_genes import PlanDomain, Planned
from edgeopt.ofa.plans import HEAD_LAYERS, layer_bits, sample
from edgeopt.ofa.pool import Costs
from edgeopt.pipeline import firmware
from edgeopt.pipeline.cache import StageCache
from edgeopt.pipeline.enumerate import lowered
from edgeopt.pipeline.kernel_store import linked_bytes
from edgeopt.pipeline.tiles import choices_of

Floats = npt.NDArray[np.float64]

#: Operators that a plan reaches.
_OPS = ("pointwise", "linear")
_BLOCK = re.compile(r"block([0-9]+)\.")
#: Candidates that screening is compared with exact costs on.
_SAMPLES = 32


def deployable_bits(target: TargetSpec) -> tuple[int, ...]:
    """Widths of weights that the kernels of a target read, smallest first."""
    packed = [b for b in PACKED_BITS if all(supported(op, b, target) for op in _OPS)]
    return (*sorted(packed), 8)


def with_bits(network: Network, bits: Mapping[str, int]) -> Network:
    """The network with the widths of layers' weights written down, by the layers' names."""
    ops = tuple(
        replace(op, attrs={**op.attrs, "weight_bits": b}) if (b := bits.get(op.name, 8)) < 8 else op
        for op in network.ops
    )
    return replace(network, ops=ops)


def describe_planned(space: SearchSpace, candidate: Planned) -> Network:
    """The shape-only network of a candidate; its layers say their bits."""
    bits = layer_bits(space, candidate.subnet, candidate.plan)
    return with_bits(describe(space, candidate.subnet), bits)


class PlanCosts:
    """Costs of candidates of a domain on a device.

    Args:
        domain: architectures and plans.
        profile: the device.
        latency: predicts its kernels.
        place: plan the memory of every candidate; without it, RAM is its lower bound.
    """

    def __init__(
        self,
        domain: PlanDomain,
        profile: DeviceProfile,
        latency: LatencyModel,
        *,
        place: bool = True,
    ) -> None:
        self.domain, self.profile, self.latency = domain, profile, latency
        self._place = place
        self._tiles = choices_of(profile)
        self._tables: _Tables | None = None

    def __call__(self, candidate: Planned) -> Costs:
        """One candidate's costs, from lowering it to kernels; its code is estimated."""
        return self._costs(candidate, lambda found: found.code_bytes_estimate)

    def linked(self, candidate: Planned, store: StageCache) -> Costs:
        """One candidate's costs with the code of its kernels as compiled for the device.

        Raises:
            InputError, ToolError: see `kernel_store.compiled`, or the toolchain is missing.
        """
        target, tiles = self.profile.target, self._tiles
        if self.profile.kind == "firmware":
            return self._costs(
                candidate, lambda found: firmware.kernel_bytes(self.profile, found.keys, store)
            )
        return self._costs(candidate, lambda found: linked_bytes(found.keys, target, store, tiles))

    def _costs(self, candidate: Planned, code: Callable[[cost.NetworkCost], int]) -> Costs:
        found = cost.evaluate(
            describe_planned(self.domain.space, candidate), "i8", self.profile.target, self._tiles,
            place=self._place,
        )  # fmt: skip
        ram_bytes, code_bytes = found.arena_bytes, code(found)
        if self.profile.kind == "firmware":  # which also states what is beside arena and kernels
            ram_bytes += firmware.outside_bytes(found.keys)
            code_bytes += sizes.runner_bytes(self.profile.target, len(found.keys))
        return Costs(
            latency=self.latency.predict(found.keys),
            ram_bytes=ram_bytes,
            flash_bytes=found.weight_bytes + code_bytes,
        )

    def screen(self, genes: Sequence[Genes]) -> tuple[Floats, Floats]:
        """Latency, RAM (not known: NaN) and flash of many candidates: see `ofa.screen.Screen`."""
        if self._tables is None:
            self._tables = _Tables(self)
        return self._tables.screen(np.asarray(genes, np.int64))


class _Tables:
    """Latency, bytes of weights and kernels of every part of a space in every width."""

    def __init__(self, costs: PlanCosts) -> None:
        self.domain = domain = costs.domain
        space, target = domain.space, costs.profile.target
        self._first = len(domain.subnets.cardinalities)
        parts = _parts(space, target)
        rows: list[OpKey] = sorted({k for keys in parts.values() for k in keys})
        packed: dict[tuple[OpKey, int], OpKey] = {
            (key, bits): key if (width := stored_bits(key, bits, target)) == 8
            else packed_key(key, width)
            for key in rows
            for bits in domain.bits
        }  # fmt: skip
        every = sorted({*rows, *packed.values()})
        known = {
            key: (estimate.value, float(size))
            for key, estimate, size in zip(
                every, costs.latency.predict_each(every), cost.packed_bytes(every, target),
                strict=True,
            )
        }  # fmt: skip

        call_bytes = sizes.call_bytes(target) if costs.profile.kind == "firmware" else 0

        def total(name: tuple[int, ...], bits: int) -> tuple[float, float]:
            found = [known[packed[key, bits]] for key in parts.get(name, ())]
            return sum(v for v, _ in found), sum(b for _, b in found) + len(found) * call_bytes

        made_of = {key: cost.code_bytes(key, target) for key in every}
        functions = {name: size for found in made_of.values() for name, size in found.items()}
        self._code = np.array(list(functions.values()), np.float64)
        number = {name: index for index, name in enumerate(functions)}

        def needed(name: tuple[int, ...], bits: int) -> npt.NDArray[np.bool_]:
            found = np.zeros(len(functions), bool)
            for key in parts.get(name, ()):
                found[[number[function] for function in made_of[packed[key, bits]]]] = True
            return found

        self._fixed, self._blocks, self._head = self._arranged(total)
        self._fixed_code, self._block_code, self._head_code = self._arranged(needed)
        self._compare(costs)

    def _arranged(
        self, of: Callable[[tuple[int, ...], int], object]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
        """``of`` by resolution, then of nothing; block, kernel, expand, bits; layer, bits."""
        space, widths = self.domain.space, self.domain.bits
        sizes, kernels, expands = space.resolutions, space.kernels, space.expands
        fixed = [of((size,), 8) for size in sizes]
        blocks = [
            [[[[of((size, i, k, e), b) for b in widths] for e in expands] for k in kernels]
             for i in range(space.block_count)] for size in sizes
        ]  # fmt: skip
        head = [
            [[of((size, -1 - i), b) for b in widths] for i in range(len(HEAD_LAYERS))]
            for size in sizes
        ]
        return np.array(fixed), np.array(blocks), np.array(head)

    def _compare(self, costs: PlanCosts) -> None:
        """How sums differ from exact costs: latency by a factor, flash by a difference."""
        space, rng = self.domain.space, random.Random(0)
        drawn = [Planned(c, sample(space, c, rng, self.domain.bits))
                 for c in (space.sample(rng) for _ in range(_SAMPLES))]  # fmt: skip
        exact = [costs(candidate) for candidate in drawn]
        table = np.array([(c.latency.value, c.flash_bytes) for c in exact], np.float64)
        sums = self._sums(np.array([self.domain.encode(c) for c in drawn]))
        factor, code = table[:, 0] / sums[:, 0], table[:, 1] - sums[:, 1]
        slack = 2 * np.array([factor.std() + 1e-9, code.std()])
        middle = np.array([factor.mean(), code.mean()])
        self._middle, self._least = middle, middle - slack

    def _sums(self, genes: npt.NDArray[np.int64]) -> Floats:
        space, domain = self.domain.space, self.domain
        size = genes[:, 0]
        found, functions = self._fixed[size].copy(), self._fixed_code[size].copy()
        pairs = genes[:, 1 + len(space.stages) : self._first]
        plan = genes[:, self._first :]
        lengths = np.column_stack(
            [np.array(s.depths)[genes[:, 1 + i]] for i, s in enumerate(space.stages)]
        )
        for index, (stage, start) in enumerate(zip(space.stages, space.stage_starts, strict=True)):
            for offset in range(stage.max_depth):
                i = start + offset
                at = (size, i, pairs[:, 2 * i], pairs[:, 2 * i + 1], plan[:, i])
                used = (lengths[:, index] > offset)[:, None]
                found += self._blocks[at] * used
                functions |= self._block_code[at] & used
        for i in range(len(HEAD_LAYERS)):
            head = (size, i, plan[:, domain.space.block_count + i])
            found += self._head[head]
            functions |= self._head_code[head]
        found[:, 1] += functions @ self._code
        return np.asarray(found)

    def screen(self, genes: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
        sums = self._sums(genes)
        ram = np.full(len(sums), np.nan)

        def joined(values: Floats) -> Floats:
            return np.column_stack([sums[:, 0] * values[0], ram, sums[:, 1] + values[1]])

        return joined(self._middle), joined(self._least)


def _parts(space: SearchSpace, target: TargetSpec) -> dict[tuple[int, ...], list[OpKey]]:
    """Kernels in int8 of the parts of a space.

    They are named by (resolution,) for what every subnet has, by (resolution, -1 - layer) for
    layers of the head, and by (resolution, block, kernel size, expansion) for elastic blocks.
    """
    found: dict[tuple[int, ...], list[OpKey]] = {}
    head = {name: -1 - index for index, name in enumerate(HEAD_LAYERS)}
    for size in space.resolutions:
        for kernel in space.kernels:
            for expand in space.expands:
                graph = lowered(space, space.uniform(kernel, expand, max, size), "i8", target)
                fixed: dict[tuple[int, ...], list[OpKey]] = {}
                for item in graph.kernels:
                    match = _BLOCK.match(item.name)
                    if match is not None and match[1] != "0":
                        name = (size, int(match[1]) - 1, kernel, expand)
                        found.setdefault(name, []).append(item.key)
                    elif item.name in head:
                        fixed.setdefault((size, head[item.name]), []).append(item.key)
                    else:
                        fixed.setdefault((size,), []).append(item.key)
                for part, keys in fixed.items():
                    if found.setdefault(part, keys) != keys:
                        raise InputError(
                            "kernels outside of the elastic blocks depend on these",
                            where=f"search space {space.name}",
                        )  # fmt: skip
    return found
