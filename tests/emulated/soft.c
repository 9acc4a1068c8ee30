/* The one function of the C library that kernels call, on processors without fused
 * multiply-add. The product is exact in double; the sum is rounded to odd, so that rounding it
 * again to float is right. */
#include <stdint.h>
#include <string.h>

float fmaf(float x, float y, float z);

float fmaf(float x, float y, float z) {
    const double p = (double)x * y, s = p + z, back = s - p;
    const double lost = (p - (s - back)) + (z - back);
    int64_t bits;
    memcpy(&bits, &s, sizeof bits);
    if (lost != 0 && !(bits & 1)) bits += (lost > 0) == (s > 0) ? 1 : -1;
    double odd;
    memcpy(&odd, &bits, sizeof odd);
    return (float)odd;
}
