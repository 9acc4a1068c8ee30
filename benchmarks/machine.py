"""What one core can do at most, measured: multiply-adds and bytes a second. And timed calls.

The C here is compiled for the machine it runs on; nothing of it goes into a product.
"""

from __future__ import annotations

import ctypes
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgeopt.core.network import Array
from edgeopt.core.target import TargetSpec

SOURCE = r"""
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif
#if defined(__AVX512F__)
enum { LANES = 16 };
#elif defined(__AVX2__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif
typedef float vf __attribute__((vector_size(LANES * 4)));
typedef int32_t vi __attribute__((vector_size(LANES * 4)));

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}

/* Twelve chains hide the latency of a multiply-add (4 or 5 cycles, two a cycle). */
#define ALL(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11)
#define START(i) vf a##i = {(float)i};
#define STEP(i) a##i = a##i * x + y;
#define SUM(i) s += a##i;
double peak_float(void) { /* multiply-accumulates a nanosecond */
    vf x = {0}, y = {0}, s = {0};
    x += 0.999999f, y += 1e-6f;
    ALL(START)
    double begin = now();
    for (int n = 0; n < 100000; ++n) { ALL(STEP) __asm__ volatile(""); }
    double ns = now() - begin;
    ALL(SUM)
    volatile float sink = s[0];
    (void)sink;
    return 12.0 * 100000 * LANES / ns;
}

#if defined(__AVX512VNNI__)
#define DOT(a) _mm512_dpbusd_epi32(a, p, q)
enum { PER_LANE = 4 };
typedef __m512i dot_t;
#elif defined(__AVX512BW__)
#define DOT(a) _mm512_madd_epi16(p, a)
enum { PER_LANE = 2 };
typedef __m512i dot_t;
#elif defined(__AVX2__)
#define DOT(a) _mm256_madd_epi16(p, a) /* sums find ports of their own */
enum { PER_LANE = 2 };
typedef __m256i dot_t;
#elif defined(__ARM_FEATURE_DOTPROD)
#define DOT(a) vdotq_s32(a, vreinterpretq_s8_s32(p), vreinterpretq_s8_s32(q))
enum { PER_LANE = 4 };
typedef int32x4_t dot_t;
#elif defined(__aarch64__)
#define DOT(a) vpadalq_s16(a, vmull_s8(vreinterpret_s8_s32(vget_low_s32(p)), \
                                       vreinterpret_s8_s32(vget_low_s32(q))))
enum { PER_LANE = 2 };
typedef int32x4_t dot_t;
#else
#define DOT(a) ((a) * p + q)
enum { PER_LANE = 1 };
typedef vi dot_t;
#endif
#define DSTART(i) dot_t d##i = (dot_t)(vi){i};
#if defined(__aarch64__)
#define HIDE(v, u) __asm__ volatile("" : "+w"(v), "+w"(u))
#else
#define HIDE(v, u) __asm__ volatile("" : "+x"(v), "+x"(u))
#endif
#define DSTEP(i) d##i = DOT(d##i); HIDE(p, d##i);
#define DKEEP(i) sum += ((vi)d##i)[0];
double peak_integer(void) { /* int8 multiply-accumulates a nanosecond */
    dot_t p = (dot_t)((vi){0} + 0x01010101), q = (dot_t)((vi){0} + 0x02020202);
    ALL(DSTART)
    double begin = now();
    for (int n = 0; n < 100000; ++n) { ALL(DSTEP) }
    double ns = now() - begin;
    int32_t sum = 0;
    ALL(DKEEP)
    volatile int32_t sink = sum;
    (void)sink;
    return 12.0 * 100000 * LANES * PER_LANE / ns;
}

/* Bytes a nanosecond of reading `bytes` again and again: eight independent sums. */
double read_rate(const float *data, size_t bytes, int times) {
    vf s[8] = {{0}};
    size_t n = bytes / sizeof(vf) / 8 * 8;
    const vf *v = (const vf *)data;
    double begin = now();
    for (int t = 0; t < times; ++t) {
        for (size_t i = 0; i < n; i += 8)
            for (int j = 0; j < 8; ++j) s[j] += v[i + (size_t)j];
        __asm__ volatile("" : : : "memory");
    }
    double ns = now() - begin;
    volatile float sink = (s[0] + s[1] + s[2] + s[3] + s[4] + s[5] + s[6] + s[7])[0];
    (void)sink;
    return (double)(n * sizeof(vf)) * times / ns;
}

typedef int32_t (*kernel)(void *, void *, void *, void *, void *, void *, void *, void *, void *,
                          void *);
/* Nanoseconds a call, `count` times the mean of `inner` calls; unused pointers are ignored. */
void time_calls(kernel f, void **p, int count, int inner, double *ns) {
    for (int i = 0; i < count; ++i) {
        double begin = now();
        for (int j = 0; j < inner; ++j)
            f(p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8], p[9]);
        ns[i] = (now() - begin) / inner;
    }
}
"""


@dataclass(frozen=True, slots=True)
class Peaks:
    """The most one core reached.

    Attributes:
        float_gflops: fused multiply-adds on float vectors, two operations each.
        integer_gops: int8 products and sums by the instructions the kernels use.
        read_gbs: bytes read a nanosecond, by the size of the buffer in bytes, rising.
    """

    float_gflops: float
    integer_gops: float
    read_gbs: tuple[tuple[int, float], ...]

    def bandwidth(self, footprint_bytes: int) -> float:
        """Gigabytes a second from the smallest level that holds a footprint."""
        for size, rate in self.read_gbs:
            if footprint_bytes <= 2 * size:
                return rate
        return self.read_gbs[-1][1]

    def compute(self, precision: str) -> float:
        """Operations a nanosecond."""
        return self.float_gflops if precision == "f32" else self.integer_gops


class Machine:
    """The compiled probes; `measure` may be repeated, the best counts."""

    def __init__(self, folder: Path) -> None:
        source, shared = folder / "machine.c", folder / "machine.so"
        source.write_text(SOURCE)
        subprocess.run(
            ["gcc", "-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC", "-w",
             "-o", str(shared), str(source)],
            check=True,
        )  # fmt: skip
        self._library = ctypes.CDLL(str(shared))
        for name in ("peak_float", "peak_integer", "read_rate"):
            getattr(self._library, name).restype = ctypes.c_double
        self._best: dict[object, float] = {}
        self._data: Array | None = None

    def measure(self, l1d_bytes: int, l2_bytes: int) -> Peaks:
        """The best of everything so far and one more round; buffers are half of each level."""
        best = self._best
        for name in ("peak_float", "peak_integer"):
            for _ in range(10):
                found = 2 * getattr(self._library, name)()
                best[name] = max(best.get(name, 0.0), found)
        sizes = (l1d_bytes // 2, l2_bytes // 2, 8 << 20, 128 << 20)
        # Written once: untouched memory is one page of zeros, which no bandwidth is needed for.
        if self._data is None:
            self._data = np.ones(sizes[-1] // 4 + 16, np.float32)
        data = self._data
        start = data.ctypes.data + -data.ctypes.data % 64
        for size in sizes:
            times = max((4 << 20) // size, 1)
            for _ in range(10 if size < 1 << 20 else 3):
                found = self._library.read_rate(
                    ctypes.c_void_p(start), ctypes.c_size_t(size), times
                )
                best[size] = max(best.get(size, 0.0), found)
        rates = tuple((size, best[size]) for size in sizes)
        return Peaks(best["peak_float"], best["peak_integer"], rates)

    def peak(self, precision: str) -> float:
        """Operations a nanosecond at this moment."""
        name = "peak_float" if precision == "f32" else "peak_integer"
        found = [2 * float(getattr(self._library, name)()) for _ in range(2)]
        return max(found)

    def time(self, function: object, pointers: list[int], count: int, inner: int) -> list[float]:
        """Nanoseconds of ``count`` samples of a kernel, each the mean of ``inner`` calls."""
        ns = np.zeros(count)
        given = (ctypes.c_void_p * 10)(*pointers)
        self._library.time_calls(
            ctypes.cast(function, ctypes.c_void_p), given, count, inner,  # type: ignore[arg-type]
            ns.ctypes.data_as(ctypes.c_void_p),
        )  # fmt: skip
        return list(ns)


def without_avx512(target: TargetSpec) -> TargetSpec:
    """An x86-64 processor as one that has AVX2 and no more."""
    features = frozenset(f for f in target.features if not f.startswith("avx512"))
    return replace(
        target, mcpu="x86-64-v3", features=features, vector_bits=256, vector_registers=16
    )
