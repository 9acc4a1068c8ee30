/* Tests of the host programs' helpers. */
#include "edgeopt_program.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static int failures;

static void check(int holds, const char *what) {
    if (!holds) {
        (void)printf("failed: %s\n", what);
        ++failures;
    }
}

static int near(double a, double b) { return a - b < 1e-9 && b - a < 1e-9; }

static void quantiles(void) {
    uint64_t values[] = {40, 10, 30, 20};
    edgeopt_sort(values, 4);
    check(values[0] == 10 && values[1] == 20 && values[2] == 30 && values[3] == 40, "sorted");
    check(near(edgeopt_quantile(values, 4, 0.5), 25.0), "median of an even count");
    check(near(edgeopt_quantile(values, 3, 0.5), 20.0), "median of an odd count");
    check(near(edgeopt_quantile(values, 4, 0.0), 10.0), "smallest");
    check(near(edgeopt_quantile(values, 4, 1.0), 40.0), "largest");
    check(near(edgeopt_quantile(values, 4, 0.1), 13.0), "interpolated");
    check(near(edgeopt_quantile(values, 1, 0.9), 10.0), "of one value");
    check(near(edgeopt_quantile(values, 0, 0.5), 0.0), "of none");
}

static void sorting_large_values(void) {
    uint64_t values[] = {UINT64_MAX, 0, UINT64_MAX - 1, (uint64_t)1 << 63};
    edgeopt_sort(values, 4);
    check(values[0] == 0 && values[1] == (uint64_t)1 << 63 && values[3] == UINT64_MAX,
          "differences beyond 63 bits do not overflow");
}

static void filling(void) {
    float floats[1000], again[1000];
    int32_t words[1000];
    int64_t longs[1000];
    unsigned char bytes[4096];
    int seen[256] = {0};
    int i, distinct = 0;
    double sum = 0.0;
    uint64_t seed = 7, same = 7;
    edgeopt_fill(floats, sizeof floats, "f32", &seed);
    edgeopt_fill(again, sizeof again, "f32", &same);
    check(memcmp(floats, again, sizeof floats) == 0, "the same seed gives the same values");
    edgeopt_fill(again, sizeof again, "f32", &same);
    check(memcmp(floats, again, sizeof floats) != 0, "the seed moves on");
    for (i = 0; i < 1000; ++i) {
        check(floats[i] >= -1.0f && floats[i] < 1.0f, "floats within [-1, 1)");
        sum += (double)floats[i];
    }
    check(fabs(sum) < 100.0, "floats centred");
    edgeopt_fill(words, sizeof words, "i32", &seed);
    edgeopt_fill(longs, sizeof longs, "i64", &seed);
    for (i = 0; i < 1000; ++i) {
        check(words[i] >= -1000 && words[i] <= 1000, "i32 within 1000");
        check(longs[i] >= -1000 && longs[i] <= 1000, "i64 within 1000");
    }
    edgeopt_fill(bytes, sizeof bytes, "i8", &seed);
    for (i = 0; i < 4096; ++i) {
        distinct += seen[bytes[i]]++ == 0;
    }
    check(distinct == 256, "bytes over their whole range");
}

static void allocating(void) {
    size_t alignment;
    for (alignment = 1; alignment <= 4096; alignment *= 2) {
        unsigned char *block = (unsigned char *)edgeopt_alloc(100, alignment);
        check((uintptr_t)block % alignment == 0, "aligned");
        memset(block, 1, 100);
    }
}

int main(void) {
    uint64_t before = edgeopt_now_ns();
    quantiles();
    sorting_large_values();
    filling();
    allocating();
    check(edgeopt_number("--n", "-12", -12, 5) == -12, "a number at its limit");
    check(edgeopt_pin(-1) != 0 && edgeopt_pin(1L << 40) != 0, "no such processor");
    check(edgeopt_now_ns() >= before, "the clock does not go back");
    return failures == 0 ? 0 : 1;
}
