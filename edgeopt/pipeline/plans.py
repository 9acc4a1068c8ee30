"""A precision plan given for a network: read, and held against the kernels of the board."""

from __future__ import annotations

from pathlib import Path

from edgeopt.codegen.lowbits import supported
from edgeopt.codegen.lower import lower
from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import InputError
from edgeopt.core.files import read_bytes
from edgeopt.core.kernels import WITH_WEIGHTS
from edgeopt.core.lowbits import PACKED_BITS
from edgeopt.core.network import Network
from edgeopt.core.precision import PrecisionPlan, read_plan

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
    kernels = {
        source: kernel.key.op
        for kernel in lower(network).kernels
        if kernel.key.op in WITH_WEIGHTS
        for source in kernel.sources
    }
    layers = [op.name for op in network.ops if op.kind in ("conv2d", "linear")]
    plan.check(layers, where=where)
    for name, why in plan.obstacles(layers).items():
        raise InputError(
            f"{profile.name} cannot run it: {why}", where=f"{where}: layer {name!r}",
            hint=f"{_known(kernels[name], profile)}, symmetric, one scale a channel or tensor",
        )  # fmt: skip
    for name, precision in plan.layers.items():
        bits, op = precision.weight_bits, kernels[name]
        if bits < 8 and not supported(op, bits, profile.target):
            raise InputError(
                f"{profile.name} has no {op} kernel for weights of {bits} bits",
                where=f"{where}: layer {name!r}", hint=_known(op, profile),
            )  # fmt: skip


def _known(op: str, profile: DeviceProfile) -> str:
    bits = [bits for bits in PACKED_BITS if supported(op, bits, profile.target)]
    named = ", ".join(str(width) for width in sorted([*bits, 8]))
    return f"its {op} kernels take weights of {named} bits"


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
