"""A precision plan given for a network: read, and held against the kernels of the board."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgeopt.codegen import lowbits
from edgeopt.codegen.lower import lower
from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import InputError
from edgeopt.core.files import read_bytes
from edgeopt.core.kernels import WITH_WEIGHTS, OpKey
from edgeopt.core.lowbits import PACKED_BITS
from edgeopt.core.network import Network
from edgeopt.core.precision import PrecisionPlan, read_plan
from edgeopt.core.target import TargetSpec

MAX_PLAN_BYTES = 16 * 2**20
#: What a bundle calls the plan of its network.
FILE_NAME = "plan.json"


def load(path: Path) -> PrecisionPlan:
    """Read a plan's file.

    Raises:
        InputError: it cannot be read, or is no plan.
    """
    data = read_bytes(path, max_bytes=MAX_PLAN_BYTES, noun="precision plan")
    return read_plan(data.decode(errors="replace"), where=str(path))


def check_board(
    plan: PrecisionPlan, network: Network, profile: DeviceProfile, *, where: str
) -> None:
    """Refuse what no kernel of a board computes.

    Layers that have few bits by the plan's default alone may keep them as int8; those that the
    plan names must have a kernel.

    Args:
        plan: of the network's layers.
        network: float, its operators named as the model's nodes.
        profile: the board.
        where: how errors name the plan.

    Raises:
        InputError: a layer that does not exist, or a precision that the board has no kernel for;
            it says which ones there are.
    """
    widths = widths_of(network, profile.target)
    layers = [op.name for op in network.ops if op.kind in ("conv2d", "linear")]
    plan.check(layers, where=where)
    for name, why in plan.obstacles(layers).items():
        raise InputError(
            f"{profile.name} cannot run it: {why}", where=f"{where}: layer {name!r}",
            hint=f"{_known(*widths[name])}, symmetric, one scale a channel or tensor",
        )  # fmt: skip
    for name, precision in plan.layers.items():
        bits, (key, packed) = precision.weight_bits, widths[name]
        if bits < 8 and bits not in packed:
            others = lowbits.supported(key.op, bits, profile.target)
            raise InputError(
                f"{profile.name} has no {key.op} kernel for weights of {bits} bits"
                + (f" and sums of {key.weight_count // key.out_shape[-1]} products" * others),
                where=f"{where}: layer {name!r}", hint=_known(key, packed),
            )  # fmt: skip


def widths_of(network: Network, target: TargetSpec) -> dict[str, tuple[OpKey, tuple[int, ...]]]:
    """Of each layer with weights its kernel as int8, and the widths that it has packed."""
    found: dict[str, tuple[OpKey, tuple[int, ...]]] = {}
    for kernel in lower(network).kernels:
        if kernel.key.op in WITH_WEIGHTS:
            key = replace(kernel.key, dtype="i8", out_dtype="i8", residual=False)
            packed = tuple(b for b in PACKED_BITS if lowbits.stored_bits(key, b, target) == b)
            found.update(dict.fromkeys(kernel.sources, (key, packed)))
    return found


def _known(key: OpKey, packed: tuple[int, ...]) -> str:
    named = ", ".join(str(width) for width in (*packed, 8))
    return f"its {key.op} kernels take weights of {named} bits"


def average_bits(network: Network) -> float | None:
    """Bits of an integer weight on average, as the plan has them; None for a float network."""
    total = bits = 0
    for op in network.ops:
        if op.kind in ("conv2d", "linear") and "w_scale" in op.constants:
            count = op.constants["w"].size
            width = op.attrs.get("weight_bits", 8)
            assert isinstance(width, int)
            total, bits = total + count, bits + count * width
    return bits / total if total else None
