"""Activations and requantization as vector expressions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from tvm import tirx

from edgeopt.codegen.schedules.emit import (
    Buffer,
    Builder,
    Expr,
    bcast,
    cast,
    const,
    dtype_of,
    intrinsic,
    join,
    part,
    powers,
    reinterpret,
    shuffle,
    vector_type,
)
from edgeopt.codegen.schedules.isa import Isa
from edgeopt.core.activations import bounds, parse_text

#: Adding this to a float of magnitude below 2**22 rounds it half to even into the low bits.
_MAGIC = 12582912.0
_MAGIC_BITS = 0x4B400000


def activate(b: Builder, text: str, x: Expr) -> Expr:
    """Apply the activation that a key names to float32 lanes."""
    if text == "none":
        return x
    function, attrs = parse_text(text)
    lanes = dtype_of(x)[1]

    def number(value: object) -> Expr:
        assert isinstance(value, (int, float))
        return const(float(value), "float32", lanes)

    if function in ("relu", "relu6", "clip"):
        low, high = bounds(function, attrs)
        return _clip(x, low, high)
    x = b.bind(x)
    if function == "hardswish":
        return x * _clip(x * number(1 / 6) + number(0.5), 0.0, 1.0)
    if function == "hardsigmoid":
        return _clip(x * number(attrs["alpha"]) + number(attrs["beta"]), 0.0, 1.0)
    if function == "leakyrelu":
        return tirx.Select(x >= number(0), x, x * number(attrs["alpha"]))
    if function == "sigmoid":
        return _sigmoid(b, x)
    if function == "silu":
        return x * _sigmoid(b, x)
    if function == "tanh":
        return _tanh(b, x)
    if function == "elu":
        negative = b.bind(tirx.min(x, number(0)))
        return tirx.Select(x > number(0), x, number(attrs["alpha"]) * _expm1(b, negative))
    if function == "gelu":
        if attrs.get("approximate") == "tanh":
            # (1 + tanh(t)) / 2 is the logistic function of 2 t, which vanishes at the far end.
            slope = number(2 * math.sqrt(2 / math.pi))
            return x * _sigmoid(b, b.bind(slope * x * (number(1) + number(0.044715) * x * x)))
        gate = _erf(b, b.bind(x * number(math.sqrt(0.5))))
        return number(0.5) * x * (number(1) + gate)
    if function == "erf":
        return _erf(b, x)
    if function == "exp":
        return exp(b, x)
    if function == "abs":
        return tirx.max(x, number(0) - x)
    if function == "sqrt":
        return intrinsic(f"llvm.sqrt.{_suffix(lanes)}", vector_type("float32", lanes), x)
    if function == "mish":
        # tanh(ln(1 + e**x)) is n / (n + 2) with n = e**x (e**x + 2), and one where that overflows.
        e = b.bind(exp(b, b.bind(tirx.min(x, number(20)))))
        n = b.bind(e * (e + number(2)))
        return x * (n / (n + number(2)))
    raise ValueError(f"unknown activation {text!r}")


def _suffix(lanes: int) -> str:
    return "f32" if lanes == 1 else f"v{lanes}f32"


def _clip(x: Expr, low: float, high: float) -> Expr:
    lanes = dtype_of(x)[1]
    if low > -math.inf:
        x = tirx.max(x, const(low, "float32", lanes))
    if high < math.inf:
        x = tirx.min(x, const(high, "float32", lanes))
    return x


def _polynomial(x: Expr, coefficients: tuple[float, ...]) -> Expr:
    lanes = dtype_of(x)[1]
    total = const(coefficients[0], "float32", lanes)
    for coefficient in coefficients[1:]:
        total = total * x + const(coefficient, "float32", lanes)
    return total


def exp(b: Builder, x: Expr) -> Expr:
    """e**x to about two units in the last place; saturates below -87 and above 88."""
    lanes = dtype_of(x)[1]
    x = b.bind(_clip(x, -87.33, 88.37))
    shifted = b.bind(x * const(1 / math.log(2), "float32", lanes) + const(_MAGIC, lanes=lanes))
    n = b.bind(shifted - const(_MAGIC, lanes=lanes))
    high, low = 0.693145751953125, 1.42860682030941723212e-6  # ln 2 in two parts (Cody, Waite)
    r = b.bind(x - n * const(high, lanes=lanes))
    r = b.bind(r - n * const(low, lanes=lanes))
    tail = (1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0)
    mantissa = _polynomial(r, tail)
    bits = reinterpret(shifted, "int32", lanes)
    biased = bits + const(127 - _MAGIC_BITS, "int32", lanes)
    power = reinterpret(tirx.shift_left(biased, const(23, "int32", lanes)), "float32", lanes)
    return mantissa * power


def log(b: Builder, x: Expr) -> Expr:
    """Natural logarithm of a normal positive float, to about two units in the last place."""
    lanes = dtype_of(x)[1]
    bits = b.bind(reinterpret(x, "int32", lanes))
    # m in [sqrt(1/2), sqrt 2), x = m * 2**n
    shifted = b.bind(bits - const(0x3F3504F3, "int32", lanes))
    n = b.bind(cast(tirx.shift_right(shifted, const(23, "int32", lanes)), "float32"))
    rest = tirx.bitwise_and(shifted, const(0x007FFFFF, "int32", lanes))
    m = reinterpret(rest + const(0x3F3504F3, "int32", lanes), "float32", lanes)
    t = b.bind(m - const(1.0, lanes=lanes))
    square = b.bind(t * t)
    tail = _polynomial(  # Cephes, logf
        t,
        (
            7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1,
            1.4249322787e-1, -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1,
            3.3333331174e-1,
        ),
    )  # fmt: skip
    y = b.bind(t * square * tail + n * const(-2.12194440e-4, lanes=lanes))
    y = b.bind(y - const(0.5, lanes=lanes) * square)
    return (t + y) + n * const(0.693359375, lanes=lanes)


def _sigmoid(b: Builder, x: Expr) -> Expr:
    one = const(1.0, lanes=dtype_of(x)[1])
    return one / (one + exp(b, const(0.0, lanes=dtype_of(x)[1]) - x))


def _expm1(b: Builder, x: Expr) -> Expr:
    # Near zero the subtraction would cancel: there the series itself is used.
    lanes = dtype_of(x)[1]
    series = x * _polynomial(x, (1 / 5040, 1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5, 1.0))
    return tirx.Select(x > const(-0.5, lanes=lanes), series, exp(b, x) - const(1.0, lanes=lanes))


def _tanh(b: Builder, x: Expr) -> Expr:
    # Rational approximation on the interval outside which tanh rounds to one.
    x = b.bind(_clip(x, -7.90531110763549805, 7.90531110763549805))
    square = b.bind(x * x)
    over = _polynomial(
        square,
        (
            -2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11,
            5.12229709037114e-08, 1.48572235717979e-05, 6.37261928875436e-04,
            4.89352455891786e-03,
        ),
    )  # fmt: skip
    under = _polynomial(
        square,
        (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03),
    )
    return x * over / under


def _erf(b: Builder, x: Expr) -> Expr:
    # Rational approximation on the interval outside which erf rounds to one.
    x = b.bind(_clip(x, -3.832506856900711, 3.832506856900711))
    square = b.bind(x * x)
    over = _polynomial(
        square,
        (
            0.00022905065861350646, 0.0034082910107109506, 0.050955695062380861,
            0.18520832239976145, 1.128379143519084,
        ),
    )  # fmt: skip
    under = _polynomial(
        square,
        (
            -1.1791602954361697e-7, 0.000023547966471313185, 0.0010179625278914885,
            0.014070470171167667, 0.11098505178285362, 0.49746925110067538, 1.0,
        ),
    )  # fmt: skip
    return x * over / under


def unfused(x: Expr) -> Expr:
    """A float value that no multiplication before it is contracted through."""
    kind, lanes = dtype_of(x)
    return intrinsic(f"llvm.arithmetic.fence.{_suffix(lanes)}", vector_type(kind, lanes), x)


def fused(x: Expr, y: Expr, z: Expr) -> Expr:
    """X * y + z in float32, rounded once."""
    kind, lanes = dtype_of(x)
    return intrinsic(f"llvm.fma.{_suffix(lanes)}", vector_type(kind, lanes), x, y, z)


class Requantizer:
    """Scaled float32 steps to int8: clamp(rint(v) + zero, lo, hi), as `core.affine` has it.

    Clamping before rounding gives the same result, since the bounds are integers, and keeps
    the value in the range where adding a constant rounds it half to even. AVX2 converts with
    rounding half to even, and its saturating packs do part of the clamping.
    """

    def __init__(self, b: Builder, isa: Isa, zero: Expr, lo: Expr, hi: Expr) -> None:
        self._b = b
        self.packs = isa.arch == "x86_64" and isa.lanes == 8
        self._narrows = isa.arch == "aarch64"
        self._low = b.bind(cast(lo - zero, "float32"), "low")
        self._high = b.bind(cast(hi - zero, "float32"), "high")
        self._offset = b.bind(zero - tirx.const(_MAGIC_BITS, "int32"), "offset")
        self._zero = b.bind(cast(zero, "int16"), "zero")
        self._least = b.bind(cast(lo, "int8"), "least")
        self._most = b.bind(cast(hi, "int8"), "most")

    def __call__(self, steps: Expr) -> Expr:
        """Int8 lanes from float32 lanes."""
        lanes = dtype_of(steps)[1]
        clamped = tirx.min(tirx.max(steps, bcast(self._low, lanes)), bcast(self._high, lanes))
        bits = reinterpret(clamped + const(_MAGIC, lanes=lanes), "int32", lanes)
        return cast(bits + bcast(self._offset, lanes), "int8")

    def store(
        self,
        buffer: Buffer,
        base: Expr,
        places: Sequence[tuple[int, int]],
        steps: Sequence[Expr],
        *,
        paired: bool = False,
        offset_of: Callable[[int], Expr] | None = None,
    ) -> None:
        """Store several float32 vectors as int8, each at (offset from ``base``, valid lanes).

        Where offsets are known only as the kernel runs, places have numbers for them, of which
        ``offset_of`` makes the offsets; of neighbours they differ by what the offsets do.

        With ``paired``, every two vectors hold sixteen channels as pairwise multiply-adds leave
        them: of each eight, four in the first vector and four in the second. Only AVX2's packs
        undo that on their way.
        """
        if self._narrows:
            assert not paired and offset_of is None
            self._narrowed(buffer, base, places, steps)
            return
        if not self.packs:
            assert not paired
            for (offset, valid), v in zip(places, steps, strict=True):
                place = offset if offset_of is None else offset_of(offset)
                self._b.store_some(buffer, base + place, self._b.bind(self(v)), valid)
            return
        for start in range(0, len(steps), 4):
            group = list(steps[start : start + 4])
            whole = self._pack(group + group[-1:] * (4 - len(group)), paired)
            wanted = places[start : start + 4]
            at = 0
            while at < len(wanted):
                run = 4 if at == 0 else 2
                while run > 1 and not _neighbours(wanted[at : at + run], run):
                    run //= 2
                offset, valid = wanted[at]
                if valid <= 0:
                    at += 1
                    continue
                value = part(whole, 8 * at, 8 * run)
                valid = 8 * (run - 1) + min(wanted[at + run - 1][1], 8)
                place = offset if offset_of is None else offset_of(offset)
                self._b.store_some(buffer, base + place, value, valid)
                at += run

    def _narrowed(
        self, buffer: Buffer, base: Expr, places: Sequence[tuple[int, int]], steps: Sequence[Expr]
    ) -> None:
        """Up to four vectors of four at a time, rounded by the conversion, narrowed saturating.

        Saturation in 16 and then 8 bits is past the clamps, so it changes nothing.
        """
        b = self._b
        for start in range(0, len(steps), 4):
            group, wanted = steps[start : start + 4], places[start : start + 4]
            words = [
                intrinsic("llvm.aarch64.neon.fcvtns.v4i32.v4f32", "int32x4", b.bind(v))
                for v in group
            ]
            halves = []
            for first in range(0, len(words), 2):
                pair = [
                    intrinsic("llvm.aarch64.neon.sqxtn.v4i16", "int16x4", b.bind(w))
                    for w in words[first : first + 2]
                ]
                half = b.bind(join(pair if len(pair) == 2 else pair * 2))
                zero = bcast(self._zero, 8)
                half = intrinsic("llvm.aarch64.neon.sqadd.v8i16", "int16x8", half, zero)
                halves.append(
                    b.bind(intrinsic("llvm.aarch64.neon.sqxtn.v8i8", "int8x8", b.bind(half)))
                )
            whole = b.bind(join(halves))
            lanes = 8 * len(halves)
            whole = tirx.max(whole, bcast(self._least, lanes))
            whole = b.bind(tirx.min(whole, bcast(self._most, lanes)))
            self._store_fours(buffer, base, wanted, whole)

    def _store_fours(
        self, buffer: Buffer, base: Expr, wanted: Sequence[tuple[int, int]], whole: Expr
    ) -> None:
        """Store vectors of four bytes each at its place, neighbours together."""
        at = 0
        while at < len(wanted):
            offset, valid = wanted[at]
            run = 1
            while (
                at + run < len(wanted)
                and wanted[at + run - 1][1] >= 4
                and wanted[at + run][0] == offset + 4 * run
            ):
                run += 1
            valid = 4 * (run - 1) + min(wanted[at + run - 1][1], 4)
            if valid > 0:
                for first, length in powers(valid):
                    self._b.store(
                        buffer, base + offset + first, part(whole, 4 * at + first, length)
                    )
            at += run

    def _pack(self, group: list[Expr], paired: bool) -> Expr:
        """32 bytes from four vectors."""
        b = self._b
        words = []
        for v in group:
            bounded = tirx.min(v, bcast(self._high, 8))
            words.append(intrinsic("llvm.x86.avx.cvt.ps2dq.256", "int32x8", bounded))
        halves = []
        for first, second in (words[:2], words[2:]):
            half = intrinsic("llvm.x86.avx2.packssdw", "int16x16", first, second)
            zero = bcast(self._zero, 16)
            halves.append(intrinsic("llvm.sadd.sat.v16i16", "int16x16", half, zero))
        packed = intrinsic("llvm.x86.avx2.packsswb", "int8x32", *halves)
        packed = tirx.max(packed, bcast(self._least, 32))
        order = [0, 1, 4, 5, 2, 3, 6, 7] if paired else [0, 4, 1, 5, 2, 6, 3, 7]
        ordered = b.bind(shuffle([reinterpret(packed, "int32", 8)], order))
        return b.bind(reinterpret(ordered, "int8", 32))


def _neighbours(places: Sequence[tuple[int, int]], count: int) -> bool:
    """Whether vectors of eight follow one another, all but the last whole."""
    if len(places) != count:
        return False
    for (offset, valid), (following, _) in pairwise(places):
        if valid < 8 or following != offset + 8:
            return False
    return True
