"""What a core can do at most, by instruction class, from the facts of its profile."""

from __future__ import annotations

from dataclasses import dataclass

from edgeopt.core.device import DeviceProfile

#: A clock for processors that do not tell theirs.
ASSUMED_CLOCK_HZ = 2_000_000_000

#: Cycles of a multiply and an addition of floats in software: about 40 to 60 instructions each
#: where integers have no multiplication that keeps 64 bits.
SOFT_FLOAT_CYCLES = 100.0


@dataclass(frozen=True, slots=True)
class Peaks:
    """Upper bounds of one core.

    Attributes:
        clock_hz: cycles a second.
        lanes: 32-bit elements of a vector register; 1 where there is none.
        macs_per_cycle: multiply-accumulates a cycle, by precision (``f32``, ``i8``).
        l2_bytes: the largest cache that only this core uses, 0 where there is none.
        last_bytes: the last cache before memory, 0 where there is none.
        cores: how many such cores there are.
        assumed: which of the facts the profile does not have, in words.
    """

    clock_hz: int
    lanes: int
    macs_per_cycle: dict[str, float]
    l2_bytes: int
    last_bytes: int
    cores: int
    assumed: tuple[str, ...]

    def macs_per_ns(self, precision: str) -> float:
        """Multiply-accumulates a nanosecond of one core."""
        return self.macs_per_cycle[precision] * self.clock_hz / 1e9


def peaks_of(profile: DeviceProfile) -> Peaks:
    """The bounds that follow from what a profile says of its processor.

    Sources of the rates that are not in the profile: SDOT and VPDPBUSD make four products a 32-bit
    lane (Arm DDI 0487, Intel SDM); SMULL, SMLAL and SADALP make sixteen in three instructions;
    VPMADDWD and SMLAD make two a lane; MVE executes a 128-bit instruction in two beats
    (Arm Cortex-M55 Technical Reference Manual, 101051: two 32-bit beats a cycle).
    """
    assumed = []
    clock_hz = profile.clock_hz
    if clock_hz is None:
        clock_hz = ASSUMED_CLOCK_HZ
        assumed.append("clock")
    features = profile.features
    lanes = max(1, profile.vector_bits // 32)
    issue = float(profile.vector_issue or 0)
    if not issue:
        # Microcontrollers start one multiplication a cycle; other cores of today two.
        small = profile.kind == "firmware"
        issue = (0.5 if "mve" in features else 1.0) if small else 2.0
        if not small:
            assumed.append("vector pipes")
    floats = lanes * issue
    if not _has_floats(profile):
        floats = 1 / SOFT_FLOAT_CYCLES
    elif lanes == 1:
        floats = 1 / 3  # VFMA takes 3 cycles (Cortex-M4 Technical Reference Manual, 100166)
    # A larger processor whose first cache alone is known has others that are not.
    inner = profile.l1d_bytes if profile.kind == "firmware" else None
    return Peaks(
        clock_hz=clock_hz,
        lanes=lanes,
        macs_per_cycle={"f32": floats, "i8": lanes * issue * _products_a_lane(profile)},
        l2_bytes=profile.l2_bytes or profile.l1d_bytes or 0,
        last_bytes=profile.l3_bytes or profile.l2_bytes or inner or 0,
        cores=profile.cores,
        assumed=tuple(assumed),
    )


def _has_floats(profile: DeviceProfile) -> bool:
    if profile.arch in ("x86_64", "aarch64"):
        return True
    return any(
        name.startswith(("vfp", "fp-armv8", "fp", "mve.fp")) or name in ("f", "d", "zfinx")
        for name in profile.features
    )


def _products_a_lane(profile: DeviceProfile) -> float:
    """Products of int8 that an instruction adds up for each 32-bit lane."""
    if {"avx512vnni", "avxvnni", "dotprod", "mve"} & profile.features:
        return 4.0
    if profile.arch == "aarch64":
        return 16 / 3 / 4
    if profile.arch == "x86_64" or "dsp" in profile.features:
        return 2.0
    return 1.0
