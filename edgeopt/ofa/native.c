/* Functions that make training on CPU faster (see native.py). Maps are channels last.
 *
 * Gradient of depthwise weights: gw[ky][kx][c] = sum over n,y,x of
 * g[n][y][x][c] * in[n][y*stride+ky-pad][x*stride+kx-pad][c]. Channels in steps of 8.
 * A block of channels of one image stays in the first-level cache over all kernel rows. */
#include <stddef.h>
#include <string.h>

typedef float v8 __attribute__((vector_size(32)));

static inline v8 load8(const float *p)
{
    v8 v;
    memcpy(&v, p, sizeof v);
    return v;
}

#define DEFINE(K, B)                                                                              \
    static void block_##K##_##B(const float *in, const float *g, float *gw, long n, long h,       \
                                long w, long ho, long wo, long c, long stride, long c0)           \
    {                                                                                             \
        enum { PAD = (K) / 2 };                                                                   \
        v8 acc[K][K][B];                                                                          \
        memset(acc, 0, sizeof acc);                                                               \
        long first = (PAD + stride - 1) / stride;                                                 \
        long last = (w - (K) + PAD) / stride; /* last x whose whole window is inside */           \
        if (w - (K) + PAD < 0) last = -1;                                                         \
        if (last >= wo) last = wo - 1;                                                            \
        for (long i = 0; i < n; i++)                                                              \
            for (long ky = 0; ky < (K); ky++) {                                                   \
                v8 row[K][B];                                                                     \
                memcpy(row, acc[ky], sizeof row);                                                 \
                for (long y = 0; y < ho; y++) {                                                   \
                    long iy = y * stride + ky - PAD;                                              \
                    if (iy < 0 || iy >= h) continue;                                              \
                    const float *src = in + ((i * h + iy) * w) * c + c0;                          \
                    const float *grad = g + ((i * ho + y) * wo) * c + c0;                         \
                    for (long x = 0; x < wo; x++) {                                               \
                        long ix = x * stride - PAD;                                               \
                        const float *at = src + ix * c;                                           \
                        v8 gv[B];                                                                 \
                        for (int b = 0; b < (B); b++) gv[b] = load8(grad + x * c + 8 * b);        \
                        if (x >= first && x <= last) {                                            \
                            for (int kx = 0; kx < (K); kx++)                                      \
                                for (int b = 0; b < (B); b++)                                     \
                                    row[kx][b] += gv[b] * load8(at + kx * c + 8 * b);             \
                        } else {                                                                  \
                            for (int kx = 0; kx < (K); kx++)                                      \
                                if (ix + kx >= 0 && ix + kx < w)                                  \
                                    for (int b = 0; b < (B); b++)                                 \
                                        row[kx][b] += gv[b] * load8(at + kx * c + 8 * b);         \
                        }                                                                         \
                    }                                                                             \
                }                                                                                 \
                memcpy(acc[ky], row, sizeof row);                                                 \
            }                                                                                     \
        for (int k = 0; k < (K) * (K); k++)                                                       \
            for (int b = 0; b < (B); b++)                                                         \
                memcpy(gw + k * c + c0 + 8 * b, &acc[k / (K)][k % (K)][b], sizeof(v8));           \
    }                                                                                             \
    static void all_##K##_##B(const float *in, const float *g, float *gw, long n, long h, long w, \
                              long ho, long wo, long c, long stride, long *c0)                    \
    {                                                                                             \
        for (; *c0 + 8 * (B) <= c; *c0 += 8 * (B))                                                \
            block_##K##_##B(in, g, gw, n, h, w, ho, wo, c, stride, *c0);                          \
    }

DEFINE(3, 2)
DEFINE(3, 1)
DEFINE(5, 2)
DEFINE(5, 1)
DEFINE(7, 1)

int depthwise_grad(const float *in, const float *g, float *gw, long n, long h, long w, long ho,
                   long wo, long c, long stride, long kernel)
{
    long c0 = 0;
    if (c % 8) return 1;
    if (kernel == 3) {
        all_3_2(in, g, gw, n, h, w, ho, wo, c, stride, &c0);
        all_3_1(in, g, gw, n, h, w, ho, wo, c, stride, &c0);
    } else if (kernel == 5) {
        all_5_2(in, g, gw, n, h, w, ho, wo, c, stride, &c0);
        all_5_1(in, g, gw, n, h, w, ho, wo, c, stride, &c0);
    } else if (kernel == 7) {
        all_7_1(in, g, gw, n, h, w, ho, wo, c, stride, &c0);
    } else {
        return 1;
    }
    return 0;
}

/* Batch normalization with batch statistics, and the activation behind it, over a map seen as
 * [m][c]. act: 0 none, 1 relu, 2 hardswish. Sums run in float over tiles of rows, then in double.
 */
enum { TILE = 64, MAX_CHANNELS = 4096 };

static inline float act_value(float z, int act)
{
    if (act == 1) return z > 0.0f ? z : 0.0f;
    if (act == 2) {
        float r = z + 3.0f;
        r = r < 0.0f ? 0.0f : r;
        r = r > 6.0f ? 6.0f : r;
        return z * r * (1.0f / 6.0f);
    }
    return z;
}

static inline float act_slope(float z, int act)
{
    if (act == 1) return z > 0.0f ? 1.0f : 0.0f;
    if (act == 2) {
        float inside = z * (1.0f / 3.0f) + 0.5f;
        inside = z < -3.0f ? 0.0f : inside;
        return z > 3.0f ? 1.0f : inside;
    }
    return 1.0f;
}

#define NORM(ACT)                                                                                 \
    static void forward_##ACT(const float *restrict x, float *restrict y,                         \
                              const float *restrict a, const float *restrict b, long m, long c)   \
    {                                                                                             \
        for (long i = 0; i < m; i++)                                                              \
            for (long j = 0; j < c; j++) y[i * c + j] = act_value(x[i * c + j] * a[j] + b[j], ACT); \
    }                                                                                             \
    static void sums_##ACT(const float *restrict x, const float *restrict g,                      \
                           const float *restrict a, const float *restrict b,                      \
                           float *restrict s1, float *restrict s2, long rows, long c)             \
    {                                                                                             \
        for (long i = 0; i < rows; i++)                                                           \
            for (long j = 0; j < c; j++) {                                                        \
                float v = x[i * c + j];                                                           \
                float d = g[i * c + j] * act_slope(v * a[j] + b[j], ACT);                         \
                s1[j] += d;                                                                       \
                s2[j] += d * v;                                                                   \
            }                                                                                     \
    }                                                                                             \
    static void backward_##ACT(const float *restrict x, const float *restrict g,                  \
                               const float *restrict a, const float *restrict b,                  \
                               const float *restrict p, const float *restrict q,                  \
                               float *restrict dx, long m, long c)                                \
    {                                                                                             \
        for (long i = 0; i < m; i++)                                                              \
            for (long j = 0; j < c; j++) {                                                        \
                float v = x[i * c + j];                                                           \
                float d = g[i * c + j] * act_slope(v * a[j] + b[j], ACT);                         \
                dx[i * c + j] = a[j] * d + p[j] * v + q[j];                                       \
            }                                                                                     \
    }

NORM(0)
NORM(1)
NORM(2)

/* y = act(a*x + b) with a = gamma/sigma, b = beta - mean*a; these and rstd = 1/sigma are written. */
int norm_forward(const float *x, const float *gamma, const float *beta, float eps, int act, long m,
                 long c, float *y, float *a, float *b, float *mean, float *rstd)
{
    static _Thread_local double d1[MAX_CHANNELS], d2[MAX_CHANNELS];
    static _Thread_local float t1[MAX_CHANNELS], t2[MAX_CHANNELS];
    if (c > MAX_CHANNELS) return 1;
    memset(d1, 0, sizeof(double) * (size_t)c);
    memset(d2, 0, sizeof(double) * (size_t)c);
    const float *origin = x; /* sums are of differences to the first row: no cancellation */
    for (long i0 = 0; i0 < m; i0 += TILE) {
        long rows = m - i0 < TILE ? m - i0 : TILE;
        memset(t1, 0, sizeof(float) * (size_t)c);
        memset(t2, 0, sizeof(float) * (size_t)c);
        for (long i = i0; i < i0 + rows; i++)
            for (long j = 0; j < c; j++) {
                float v = x[i * c + j] - origin[j];
                t1[j] += v;
                t2[j] += v * v;
            }
        for (long j = 0; j < c; j++) {
            d1[j] += (double)t1[j];
            d2[j] += (double)t2[j];
        }
    }
    for (long j = 0; j < c; j++) {
        double mu = d1[j] / (double)m, var = d2[j] / (double)m - mu * mu;
        double r = 1.0 / __builtin_sqrt((var > 0 ? var : 0) + (double)eps), scale = (double)gamma[j] * r;
        rstd[j] = (float)r;
        mean[j] = (float)(mu + (double)origin[j]);
        a[j] = (float)scale;
        b[j] = (float)((double)beta[j] - (mu + (double)origin[j]) * scale);
    }
    if (act == 0) forward_0(x, y, a, b, m, c);
    else if (act == 1) forward_1(x, y, a, b, m, c);
    else forward_2(x, y, a, b, m, c);
    return 0;
}

/* Gradients of x, gamma and beta from that of y. */
int norm_backward(const float *x, const float *g, const float *a, const float *b, const float *mean,
                  const float *rstd, int act, long m, long c, float *dx, float *dgamma,
                  float *dbeta)
{
    static _Thread_local double d1[MAX_CHANNELS], d2[MAX_CHANNELS];
    static _Thread_local float t1[MAX_CHANNELS], t2[MAX_CHANNELS];
    if (c > MAX_CHANNELS) return 1;
    memset(d1, 0, sizeof(double) * (size_t)c);
    memset(d2, 0, sizeof(double) * (size_t)c);
    for (long i0 = 0; i0 < m; i0 += TILE) {
        long rows = m - i0 < TILE ? m - i0 : TILE;
        memset(t1, 0, sizeof(float) * (size_t)c);
        memset(t2, 0, sizeof(float) * (size_t)c);
        if (act == 0) sums_0(x + i0 * c, g + i0 * c, a, b, t1, t2, rows, c);
        else if (act == 1) sums_1(x + i0 * c, g + i0 * c, a, b, t1, t2, rows, c);
        else sums_2(x + i0 * c, g + i0 * c, a, b, t1, t2, rows, c);
        for (long j = 0; j < c; j++) {
            d1[j] += (double)t1[j];
            d2[j] += (double)t2[j];
        }
    }
    for (long j = 0; j < c; j++) {
        double mu = (double)mean[j], r = (double)rstd[j];
        double hat = (d2[j] - mu * d1[j]) * r; /* sum of dz * xhat */
        dgamma[j] = (float)hat;
        dbeta[j] = (float)d1[j];
        double slope = -(double)a[j] * hat * r / (double)m;
        t1[j] = (float)slope;
        t2[j] = (float)(-(double)a[j] * d1[j] / (double)m - slope * mu);
    }
    if (act == 0) backward_0(x, g, a, b, t1, t2, dx, m, c);
    else if (act == 1) backward_1(x, g, a, b, t1, t2, dx, m, c);
    else backward_2(x, g, a, b, t1, t2, dx, m, c);
    return 0;
}
