/* Dense layers on a CPU: products over packed panels of a kernel, and an MLP's layers in one pass.
 *
 * A thread takes BLOCK rows at a time through all layers, so that what is between them stays in its cache.
 */

#include "kernels.c"

/* Numbers in a vector, rows that are worked on at once (they hold 2 ROWS vectors of sums), and rows that one thread takes
 * through all layers. `benchmarks/tiles.py` tries others. */
#ifndef ROWS
#ifdef __AVX512F__ /* 32 registers of 16 numbers */
#define WIDE 16
#define ROWS 8
#define BLOCK 32
#elif defined(__AVX2__) /* 16 registers of 8: 12 of sums, 2 of the kernel, 1 of x */
#define WIDE 8
#define ROWS 6
#define BLOCK 48
#elif defined(__aarch64__) /* 32 registers of 4; of wider vectors GCC keeps the sums on the stack */
#define WIDE 4
#define ROWS 8
#define BLOCK 32
#else /* 16 registers of 4 */
#define WIDE 4
#define ROWS 6
#define BLOCK 48
#endif
#endif
#define PANEL (2 * WIDE) /* columns that are worked on at once */

typedef float vec __attribute__((vector_size(4 * WIDE), aligned(4), may_alias));

/* Numbers that a packed kernel of k inputs and n outputs takes. */
static long packed_size(long k, long n) { return k * ((n + PANEL - 1) / PANEL * PANEL); }

/* A kernel of k inputs and n outputs, any strides, as panels [n/PANEL, k, PANEL] filled up with zeros. Returns where
 * the room goes on. */
static float *pack(float *restrict room, const float *restrict w, long k, long n, long by_k, long by_n) {
  for (long first = 0; first < n; first += PANEL)
    for (long i = 0; i < k; i++)
      for (long j = 0; j < PANEL; j++) *room++ = first + j < n ? w[i * by_k + (first + j) * by_n] : 0.0f;
  return room;
}

/* A panel of `columns` columns: out [rows columns] += x [rows k] times a kernel whose rows lie by_k apart, and have
 * PANEL columns. */
static inline __attribute__((always_inline)) void tile(const int rows, float *restrict out, long by_out,
                                                       const float *restrict x, long by_x, const float *restrict panel,
                                                       long by_k, long k, long columns) {
  vec sum[ROWS][2];
  float edge[ROWS][PANEL];
  for (int r = 0; r < rows; r++) {
    if (columns < PANEL) memcpy(edge[r], out + r * by_out, sizeof(float) * columns);
    const float *from = columns < PANEL ? edge[r] : out + r * by_out;
    sum[r][0] = *(const vec *)from, sum[r][1] = *(const vec *)(from + WIDE);
  }
  for (long i = 0; i < k; i++) {
    if (i % WIDE == 0) /* the rows after these: a matrix of megabytes comes too late otherwise */
      for (int r = 0; r < rows; r++) __builtin_prefetch(x + (r + rows) * by_x + i);
    vec left = *(const vec *)(panel + i * by_k), right = *(const vec *)(panel + i * by_k + WIDE);
    for (int r = 0; r < rows; r++) sum[r][0] += x[r * by_x + i] * left, sum[r][1] += x[r * by_x + i] * right;
  }
  for (int r = 0; r < rows; r++) {
    float *to = columns < PANEL ? edge[r] : out + r * by_out;
    *(vec *)to = sum[r][0], *(vec *)(to + WIDE) = sum[r][1];
    if (columns < PANEL) memcpy(out + r * by_out, edge[r], sizeof(float) * columns);
  }
}

/* `tile` for any number of rows. */
static void tiles(float *restrict out, long by_out, const float *restrict x, long by_x, const float *restrict panel,
                  long by_k, long rows, long k, long columns) {
  long r = 0;
  for (; r + ROWS <= rows; r += ROWS) tile(ROWS, out + r * by_out, by_out, x + r * by_x, by_x, panel, by_k, k, columns);
  for (; r + 4 <= rows; r += 4) tile(4, out + r * by_out, by_out, x + r * by_x, by_x, panel, by_k, k, columns);
  for (; r < rows; r++) tile(1, out + r * by_out, by_out, x + r * by_x, by_x, panel, by_k, k, columns);
}

/* out [rows n] += x [rows k] times a packed kernel; rows of both lie by_out and by_x apart. */
static void add_product(float *restrict out, long by_out, const float *restrict x, long by_x,
                        const float *restrict packed, long rows, long k, long n) {
  for (long first = 0; first < n; first += PANEL, packed += k * PANEL)
    tiles(out + first, by_out, x, by_x, packed, PANEL, rows, k, n - first < PANEL ? n - first : PANEL);
}

/* The same of few rows, which are not worth packing a kernel for: it is read once where it lies, element (i, j) at i
 * by_k + j by_n, one of which is 1. */
static void add_thin(float *restrict out, long by_out, const float *restrict x, long by_x, const float *restrict w,
                     long by_k, long by_n, long rows, long k, long n) {
  long j = 0;
  if (by_n == 1) {
    for (; j + PANEL <= n; j += PANEL) tiles(out + j, by_out, x, by_x, w + j, by_k, rows, k, PANEL);
    for (long i = 0; i < k; i++)
      for (long r = 0; r < rows; r++)
        for (long l = j; l < n; l++) out[r * by_out + l] += x[r * by_x + i] * w[i * by_k + l];
    return;
  }
  for (; j + 4 <= n; j += 4)
    for (long r = 0; r < rows; r++) {
      const float *in = x + r * by_x, *row = w + j * by_n;
      vec sum[4] = {{0.0f}, {0.0f}, {0.0f}, {0.0f}};
      long i = 0;
      for (; i + WIDE <= k; i += WIDE)
        for (int l = 0; l < 4; l++) sum[l] += *(const vec *)(in + i) * *(const vec *)(row + l * by_n + i);
      for (int l = 0; l < 4; l++) {
        float all = 0.0f;
        for (int lane = 0; lane < WIDE; lane++) all += sum[l][lane];
        for (long rest = i; rest < k; rest++) all += in[rest] * row[l * by_n + rest];
        out[r * by_out + j + l] += all;
      }
    }
  for (; j < n; j++)
    for (long r = 0; r < rows; r++)
      for (long i = 0; i < k; i++) out[r * by_out + j] += x[r * by_x + i] * w[j * by_n + i];
}

/* Either: `packed` is NULL for few rows. */
static void add(float *out, long by_out, const float *x, long by_x, const float *packed, const float *w, long by_k,
                long by_n, long rows, long k, long n) {
  if (packed)
    add_product(out, by_out, x, by_x, packed, rows, k, n);
  else
    add_thin(out, by_out, x, by_x, w, by_k, by_n, rows, k, n);
}

static inline void fill(float *restrict out, long by_out, const float *restrict row, long rows, long n) {
  for (long r = 0; r < rows; r++) memcpy(out + r * by_out, row, sizeof(float) * n);
}

static inline void clear(float *restrict out, long by_out, long rows, long n) {
  for (long r = 0; r < rows; r++) memset(out + r * by_out, 0, sizeof(float) * n);
}

#define MOST 8 /* hidden layers */

typedef struct {
  const float *x; /* [n in] */
  float *sums[MOST],
      *outs[MOST]; /* to be filled [n u]: each layer before and after norm and SiLU, or NULL; of the last, the result */
  float *weights[3 * MOST]; /* kernel [u .], bias and norm of each layer */
  float *room;
  long n, in, u, layers, parts, packed;
  float eps;
} mlp;

long mlp_room(const mlp *m) {
  return packed_size(m->in, m->u) + (m->layers - 1) * packed_size(m->u, m->u) + m->parts * 2 * BLOCK * m->u;
}

/* Layers of a product, an RMS norm and SiLU each. */
void mlp_forward(const mlp *m) {
  float *rest = m->room;
  for (long i = 0, in = m->in; m->packed && i < m->layers; i++, in = m->u)
    rest = pack(rest, m->weights[3 * i], in, m->u, 1, in);
#pragma omp parallel for schedule(static) num_threads(m->parts)
  for (long part = 0; part < m->parts; part++) {
    float *room = rest + part * 2 * BLOCK * m->u;
    long last = (part + 1) * m->n / m->parts, u = m->u;
    for (long r0 = part * m->n / m->parts; r0 < last; r0 += BLOCK) {
      long rows = last - r0 < BLOCK ? last - r0 : BLOCK, in = m->in;
      const float *from = m->x + r0 * in, *packed = m->room;
      for (long i = 0; i < m->layers; i++, in = u) {
        float *sums = m->sums[i] ? m->sums[i] + r0 * u : room,
              *to = m->outs[i] ? m->outs[i] + r0 * u : room + BLOCK * u;
        fill(sums, u, m->weights[3 * i + 1], rows, u);
        add(sums, u, from, in, m->packed ? packed : NULL, m->weights[3 * i], 1, in, rows, in, u);
        packed += packed_size(in, u);
        for (long r = 0; r < rows; r++) norm_silu_row(to + r * u, sums + r * u, m->weights[3 * i + 2], u, m->eps);
        from = to;
      }
    }
  }
}

typedef struct {
  const float *x, *w, *bias; /* [n k]; element (i, j) of the kernel at i by_k + j by_o; [o] or NULL */
  float *out, *room;         /* to be filled [n o]; `packed_size` numbers */
  long n, k, o, by_k, by_o, parts;
} dense;

long dense_room(const dense *m) { return packed_size(m->k, m->o); }

/* out = x w + bias. */
void dense_forward(const dense *m) {
  pack(m->room, m->w, m->k, m->o, m->by_k, m->by_o);
#pragma omp parallel for schedule(static) num_threads(m->parts)
  for (long part = 0; part < m->parts; part++) {
    long last = (part + 1) * m->n / m->parts;
    for (long r0 = part * m->n / m->parts; r0 < last; r0 += BLOCK) {
      long rows = last - r0 < BLOCK ? last - r0 : BLOCK;
      float *out = m->out + r0 * m->o;
      if (m->bias)
        fill(out, m->o, m->bias, rows, m->o);
      else
        clear(out, m->o, rows, m->o);
      add_product(out, m->o, m->x + r0 * m->k, m->k, m->room, rows, m->k, m->o);
    }
  }
}
