/* Element-wise work of the RSSM and of two-hot heads on a CPU: each function reads its inputs once and writes its
 * outputs once, where a chain of tensor operations passes through memory at every link. `fused.py` calls these and
 * holds their twins in torch.
 *
 * float32, row-major. Rows are shared out among OpenMP threads if built with OpenMP. NaN and infinity pass through as
 * in torch.
 */

#include <math.h>
#include <stdint.h>
#include <string.h>

/* Whether loops here have threads. */
long has_openmp(void) {
#ifdef _OPENMP
  return 1;
#else
  return 0;
#endif
}

#define LARGE 32768 /* numbers below which waking a second thread costs more than it saves */
#define LANES 16    /* short rows (few classes) are worked on side by side, this many at a time */

/* exp by Cody and Waite's reduction and a polynomial of degree 6, written so that it vectorises. */
static inline float exponential(float x) {
  x = x > 88.0f ? 88.0f : x;
  x = x < -87.0f ? -87.0f : x;
  float k = rintf(x * 1.44269504088896341f);
  float r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  uint32_t bits = ((uint32_t)(int32_t)k + 127u) << 23;
  float power;
  memcpy(&power, &bits, sizeof power);
  return ((p * r * r + r) + 1.0f) * power;
}

static inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

static inline float tangent(float x) { return 2.0f * sigmoid(2.0f * x) - 1.0f; }

static inline float inverse_rms(const float *x, long d, float eps) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (long j = 0; j < d; j++) sum += x[j] * x[j];
  return 1.0f / sqrtf(sum / (float)d + eps);
}

static inline void norm_silu_row(float *restrict o, const float *restrict in, const float *restrict w, long d,
                                 float eps) {
  float inverse = inverse_rms(in, d, eps);
#pragma omp simd
  for (long j = 0; j < d; j++) {
    float v = in[j] * inverse * w[j];
    o[j] = v * sigmoid(v);
  }
}

/* out = silu(x / rms(x) * weight), row by row: n groups of m rows of d numbers; row i of a group has weight[i]. */
void norm_silu(float *restrict out, const float *restrict x, const float *restrict weight, long n, long m, long d,
               float eps) {
#pragma omp parallel for schedule(static) if (n * m * d > LARGE)
  for (long row = 0; row < n * m; row++) norm_silu_row(out + row * d, x + row * d, weight + row % m * d, d, eps);
}

static inline void norm_silu_backward_row(float *restrict o, const float *restrict g, const float *restrict in,
                                          const float *restrict w, long d, float eps) {
  float inverse = inverse_rms(in, d, eps), along = 0.0f;
#pragma omp simd reduction(+ : along)
  for (long j = 0; j < d; j++) {
    float normed = in[j] * inverse, v = normed * w[j], s = sigmoid(v);
    o[j] = g[j] * s * (1.0f + v * (1.0f - s)) * w[j];
    along += o[j] * normed;
  }
  along /= (float)d;
#pragma omp simd
  for (long j = 0; j < d; j++) o[j] = (o[j] - in[j] * inverse * along) * inverse;
}

/* Both gradients of `norm_silu`, from that of its output, for what they share is most of the work. `parts` [p m d]
 * receives one sum of the weight's for each of p runs of groups, which the caller adds. */
void norm_silu_gradients(float *restrict dx, float *restrict parts, const float *restrict grad, const float *restrict x,
                         const float *restrict weight, long n, long m, long d, float eps, long p) {
  memset(parts, 0, sizeof(float) * p * m * d);
#pragma omp parallel for schedule(static) if (n * m * d > LARGE)
  for (long part = 0; part < p; part++)
    for (long row = part * n / p * m; row < (part + 1) * n / p * m; row++) {
      const float *in = x + row * d, *w = weight + row % m * d, *g = grad + row * d;
      float *o = dx + row * d, *sum = parts + (part * m + row % m) * d, inverse = inverse_rms(in, d, eps), along = 0.0f;
#pragma omp simd reduction(+ : along)
      for (long j = 0; j < d; j++) {
        float normed = in[j] * inverse, v = normed * w[j], s = sigmoid(v), slope = g[j] * s * (1.0f + v * (1.0f - s));
        sum[j] += slope * normed;
        o[j] = slope * w[j];
        along += o[j] * normed;
      }
      along /= (float)d;
#pragma omp simd
      for (long j = 0; j < d; j++) o[j] = (o[j] - in[j] * inverse * along) * inverse;
    }
}

/* out = old + sigmoid(update - 1) (tanh(sigmoid(reset) candidate) - old), with reset, candidate and update side by
 * side. */
static inline void gru_row(float *restrict o, const float *restrict in, const float *restrict b,
                           const float *restrict h, long k) {
#pragma omp simd
  for (long j = 0; j < k; j++) {
    float reset = sigmoid(in[j] + b[j]), update = sigmoid(in[2 * k + j] + b[2 * k + j] - 1.0f);
    o[j] = h[j] + update * (tangent(reset * (in[k + j] + b[k + j])) - h[j]);
  }
}

static inline void gru_backward_row(float *restrict o, float *restrict p, const float *restrict d,
                                    const float *restrict in, const float *restrict b, const float *restrict h,
                                    long k) {
#pragma omp simd
  for (long j = 0; j < k; j++) {
    float cand = in[k + j] + b[k + j], reset = sigmoid(in[j] + b[j]);
    float update = sigmoid(in[2 * k + j] + b[2 * k + j] - 1.0f), fresh = tangent(reset * cand);
    float by_fresh = d[j] * update * (1.0f - fresh * fresh);
    o[j] = by_fresh * cand * reset * (1.0f - reset);
    o[k + j] = by_fresh * reset;
    o[2 * k + j] = d[j] * (fresh - h[j]) * update * (1.0f - update);
    p[j] = d[j] * (1.0f - update);
  }
}

/* Softmax of LANES rows of c classes, beginning at `logits`; probs [c LANES]. Rows beyond the end repeat the last one.
 */
static inline void softmax_lanes(float *restrict probs, const float *restrict logits, long rows, long c) {
  float most[LANES], sum[LANES];
  for (long j = 0; j < c; j++)
    for (long l = 0; l < LANES; l++) probs[j * LANES + l] = logits[(l < rows ? l : rows - 1) * c + j];
  for (long l = 0; l < LANES; l++) most[l] = probs[l], sum[l] = 0.0f;
  for (long j = 1; j < c; j++)
#pragma omp simd
    for (long l = 0; l < LANES; l++) most[l] = probs[j * LANES + l] > most[l] ? probs[j * LANES + l] : most[l];
  for (long j = 0; j < c; j++)
#pragma omp simd
    for (long l = 0; l < LANES; l++) {
      probs[j * LANES + l] = exponential(probs[j * LANES + l] - most[l]);
      sum[l] += probs[j * LANES + l];
    }
  for (long l = 0; l < LANES; l++) sum[l] = 1.0f / sum[l];
  for (long j = 0; j < c; j++)
#pragma omp simd
    for (long l = 0; l < LANES; l++) probs[j * LANES + l] *= sum[l];
}

/* `draw` of at most LANES rows. */
static inline void draw_group(float *restrict out, const float *restrict logits, const float *restrict noise, long rows,
                              long c, float mix) {
  float probs[c * LANES], edge[LANES], u[LANES];
  int32_t pick[LANES];
  softmax_lanes(probs, logits, rows, c);
  for (long l = 0; l < LANES; l++) edge[l] = 0.0f, pick[l] = 0, u[l] = noise[l < rows ? l : rows - 1];
  for (long j = 0; j < c - 1; j++) /* without the last edge, so that rounding cannot lead past the last class */
#pragma omp simd
    for (long l = 0; l < LANES; l++) {
      edge[l] += probs[j * LANES + l] * (1.0f - mix) + mix / (float)c;
      pick[l] += edge[l] <= u[l];
    }
  for (long l = 0; l < rows; l++)
    for (long j = 0; j < c; j++) out[l * c + j] = (float)(pick[l] == j);
}

/* One-hot draws: logits [n c], uniform noise [n] -> out [n c]. The inverse distribution function of (1-mix) softmax +
 * mix/c. */
void draw(float *restrict out, const float *restrict logits, const float *restrict noise, long n, long c, float mix) {
#pragma omp parallel for schedule(static) if (n * c > LARGE / 4)
  for (long i = 0; i < n; i += LANES)
    draw_group(out + i * c, logits + i * c, noise + i, n - i < LANES ? n - i : LANES, c, mix);
}

/* `straight_through` of at most LANES rows. */
static inline void straight_through_group(float *restrict out, const float *restrict grad, const float *restrict more,
                                          const float *restrict logits, long rows, long c, float mix) {
  float probs[c * LANES], d[c * LANES], along[LANES];
  softmax_lanes(probs, logits, rows, c);
  for (long l = 0; l < LANES; l++) along[l] = 0.0f;
  for (long j = 0; j < c; j++)
    for (long l = 0; l < LANES; l++) {
      long at = (l < rows ? l : rows - 1) * c + j;
      d[j * LANES + l] = grad[at] + more[at];
      along[l] += d[j * LANES + l] * probs[j * LANES + l];
    }
  for (long l = 0; l < rows; l++)
    for (long j = 0; j < c; j++) out[l * c + j] += (d[j * LANES + l] - along[l]) * probs[j * LANES + l] * (1.0f - mix);
}

/* exp(logits - max) of one row, their sum and the max. */
static inline float exponentials(float *restrict e, const float *restrict logits, long c, float *most) {
  float m = logits[0], sum = 0.0f;
#pragma omp simd reduction(max : m)
  for (long j = 0; j < c; j++) m = logits[j] > m ? logits[j] : m;
#pragma omp simd reduction(+ : sum)
  for (long j = 0; j < c; j++) {
    e[j] = exponential(logits[j] - m);
    sum += e[j];
  }
  *most = m;
  return sum;
}

/* Expectation of symmetric bins [c] under softmax(logits [n c]); pairs of mirrored bins first, so that symmetric logits
 * give 0. */
void twohot_mean(float *restrict out, const float *restrict logits, const float *restrict bins, long n, long c) {
#pragma omp parallel for schedule(static) if (n * c > LARGE)
  for (long i = 0; i < n; i++) {
    long half = c / 2, upper = c - half;
    float e[c], most, mean = 0.0f, sum = exponentials(e, logits + i * c, c, &most);
#pragma omp simd reduction(+ : mean)
    for (long j = 0; j < half; j++) mean += (e[upper + j] - e[half - 1 - j]) / sum * bins[upper + j];
    out[i] = mean;
  }
}

/* Gradient of `twohot_mean`, whose outputs are `mean` [n], by the logits. */
void twohot_mean_backward(float *restrict d_logits, const float *restrict grad, const float *restrict logits,
                          const float *restrict bins, const float *restrict mean, long n, long c) {
#pragma omp parallel for schedule(static) if (n * c > LARGE)
  for (long i = 0; i < n; i++) {
    float e[c], most, sum = exponentials(e, logits + i * c, c, &most), scale = grad[i] / sum;
#pragma omp simd
    for (long j = 0; j < c; j++) d_logits[i * c + j] = scale * e[j] * (bins[j] - mean[i]);
  }
}

/* Cross-entropies of softmax(logits [n c]) with k two-hot targets, index and weight [k n 2] -> loss [k n]. */
void twohot_loss(float *restrict loss, const float *restrict logits, const int64_t *restrict index,
                 const float *restrict weight, long k, long n, long c) {
#pragma omp parallel for schedule(static) if (n * c > LARGE)
  for (long i = 0; i < n; i++) {
    float e[c], most, sum = exponentials(e, logits + i * c, c, &most), norm = most + logf(sum);
    for (long t = 0; t < k; t++) {
      long at = 2 * (t * n + i);
      loss[t * n + i] =
          weight[at] * (norm - logits[i * c + index[at]]) + weight[at + 1] * (norm - logits[i * c + index[at + 1]]);
    }
  }
}

/* Gradient of `twohot_loss` by the logits, from those of its outputs, grad [k n]. */
void twohot_loss_backward(float *restrict d_logits, const float *restrict grad, const float *restrict logits,
                          const int64_t *restrict index, const float *restrict weight, long k, long n, long c) {
#pragma omp parallel for schedule(static) if (n * c > LARGE)
  for (long i = 0; i < n; i++) {
    float e[c], most, sum = exponentials(e, logits + i * c, c, &most), all = 0.0f;
    for (long t = 0; t < k; t++) all += grad[t * n + i] * (weight[2 * (t * n + i)] + weight[2 * (t * n + i) + 1]);
    float scale = all / sum;
#pragma omp simd
    for (long j = 0; j < c; j++) d_logits[i * c + j] = scale * e[j];
    for (long t = 0; t < k; t++)
      for (long side = 0; side < 2; side++) {
        long at = 2 * (t * n + i) + side;
        d_logits[i * c + index[at]] -= grad[t * n + i] * weight[at];
      }
  }
}
