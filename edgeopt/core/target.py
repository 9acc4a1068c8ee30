"""What a kernel template needs to know of the processor it is written for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TargetSpec:
    """A processor as the schedules see it. Templates ask for features, never for a name.

    Attributes:
        arch: ``x86_64``, ``aarch64``, ``armv7em``, ``armv8m``...
        triple: LLVM triple.
        mcpu: LLVM processor name.
        features: ISA features in LLVM's spelling (``avx2``, ``fma``, ``neon``, ``dotprod``...).
        vector_bits: width of a SIMD register; 32 where there is none.
        vector_registers: how many of them.
        l1d_bytes: first-level data cache of one core; 0 where there is none.
        l2_bytes: second-level cache one core can use; 0 where there is none.
        cores: cores a deployment may use.
        threads: how many threads a network's kernels are written for; each kernel is divided
            into at most so many parts.
        compact: prefer kernels of fewer bytes where those cost time.
        narrow: store bias and multiplier of a channel in one word (`core.narrow`), at the cost of
            some scratch; only for networks whose constants all have words.
    """

    arch: str
    triple: str
    mcpu: str
    features: frozenset[str]
    vector_bits: int
    vector_registers: int
    l1d_bytes: int
    l2_bytes: int
    cores: int
    threads: int = 1
    compact: bool = False
    narrow: bool = False

    @property
    def digest_text(self) -> str:
        """Everything that changes generated code, as one line: part of cache keys."""
        features = ",".join(sorted(self.features))
        threads = f" threads={self.threads}" if self.threads > 1 else ""
        compact = " compact" * self.compact + " narrow" * self.narrow
        return (
            f"{self.triple} {self.mcpu} [{features}] v{self.vector_bits}x{self.vector_registers} "
            f"l1={self.l1d_bytes} l2={self.l2_bytes} cores={self.cores}{threads}{compact}"
        )
