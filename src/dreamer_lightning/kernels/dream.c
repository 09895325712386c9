/* Dreams on a CPU: a step of them, and their gradient by the actions. Dreams do not meet: a thread takes BLOCK of them
 * at a time through all layers of a step, or of all steps backward, without leaving its cache.
 */

#include "scan.c"

typedef struct {
  float *feat, *next, *action_in, *noise; /* [n d+z], to be filled [n d+z], [n u], [n s] */
  float *prior[3 * MOST + 2]; /* kernel [u .], bias and norm of each layer; kernel [z .] and bias of the logits */
  float *packed, *room;       /* of `dream_pack`; of one step */
  long layers;
} dream;

long dream_packed(const model *m, const dream *f) {
  return scan_room(m) + f->layers * packed_size(m->d + m->u, m->u) + packed_size(m->d + m->u, m->z);
}

long dream_room(const model *m) { return m->parts * BLOCK * (7 * m->u + 2 * m->d + 3 * m->d / m->g + m->z); }

/* Pack the kernels of the recurrence and of the prior, once for all steps of a dream. */
void dream_pack(const model *m, const dream *f) {
  float *at = pack_recurrence(m, f->packed, 1).rest;
  for (long i = 0, in = m->d; i < f->layers; i++, in = m->u) at = pack(at, f->prior[3 * i], in, m->u, 1, in);
  long in = f->layers ? m->u : m->d;
  pack(at, f->prior[3 * f->layers], in, m->z, 1, in);
}

void dream_step(const model *m, const dream *f) {
  long n = m->b, d = m->d, z = m->z, u = m->u, wide = d + z, groups = z / m->c;
  recurrence k = pack_recurrence(m, f->packed, 0);
#pragma omp parallel for schedule(static) num_threads(m->parts)
  for (long part = 0; part < m->parts; part++) {
    float *pre = f->room + part * dream_room(m) / m->parts, *x = pre + BLOCK * 2 * u, *hidden = x + BLOCK * 3 * u,
          *y = hidden + BLOCK * d;
    float *sums = y + BLOCK * d, *units = sums + BLOCK * u, *logits = units + BLOCK * u, *gate = logits + BLOCK * z;
    long last = (part + 1) * n / m->parts;
    for (long r0 = part * n / m->parts; r0 < last; r0 += BLOCK) {
      long rows = last - r0 < BLOCK ? last - r0 : BLOCK, by_in = wide, in = d;
      float *feat = f->feat + r0 * wide, *next = f->next + r0 * wide, *from = next, *packed = k.rest;
      for (long r = 0; r < rows; r++) memcpy(x + r * 3 * u + 2 * u, f->action_in + (r0 + r) * u, sizeof(float) * u);
      core(m, &k, rows, feat, wide, feat + d, wide, pre, x, hidden, y, gate, 0, next, wide);
      for (long i = 0; i < f->layers; i++, by_in = in = u, from = units) {
        fill(sums, u, f->prior[3 * i + 1], rows, u);
        add_product(sums, u, from, by_in, packed, rows, in, u);
        packed += packed_size(in, u);
        for (long r = 0; r < rows; r++) norm_silu_row(units + r * u, sums + r * u, f->prior[3 * i + 2], u, m->eps);
      }
      fill(logits, z, f->prior[3 * f->layers + 1], rows, z);
      add_product(logits, z, from, by_in, packed, rows, in, z);
      for (long r = 0; r < rows; r++)
        draw_all(next + r * wide + d, logits + r * z, f->noise + (r0 + r) * groups, groups, m->c, m->unimix);
    }
  }
}

typedef struct {
  float *feat, *action_in, *grad; /* [t+1 n d+z] as dreamed, [t n u], [t+1 n d+z]: gradient of feat */
  float *d_action;                /* to be filled [t n u]: gradient of the projected actions */
  float *prior[3 * MOST + 2];     /* as in `dream` */
  float *room;
  long layers;
} retrace;

static long retrace_block(const model *m, const retrace *f) {
  return BLOCK * ((13 + f->layers) * m->u + 11 * m->d + 3 * m->z);
}

long retrace_room(const model *m, const retrace *f) {
  long own = m->d / m->g, wide = m->d + m->u, prior = f->layers * (packed_size(wide, m->u) + packed_size(m->u, wide));
  prior += m->g * packed_size(own, own); /* the blocks' own kernels lie there both ways, where a scan has one */
  return scan_room(m) + prior + packed_size(wide, m->z) + packed_size(m->z, wide) + m->parts * retrace_block(m, f);
}

/* The gradient of a finished dream by its actions. A block of dreams goes backward from its last step: each step's
 * layers are computed again from the states that are known, then their gradients. */
void retrace_backward(const model *m, const retrace *f) {
  long n = m->b, d = m->d, z = m->z, u = m->u, wide = d + z, groups = z / m->c, own = d / m->g, layers = f->layers,
       top = layers ? u : d;
  recurrence k = pack_recurrence(m, f->room, 1);
  transposed back = pack_transposed(m, k.rest);
  float *ahead[MOST + 1], *behind[MOST + 1], *at = back.rest;
  for (long i = 0, in = d; i <= layers; i++, in = u) {
    long out = i < layers ? u : z;
    ahead[i] = at, at = pack(at, f->prior[3 * i], in, out, 1, in);
    behind[i] = at, at = pack(at, f->prior[3 * i], out, in, in, 1);
  }
#pragma omp parallel for schedule(static) num_threads(m->parts)
  for (long part = 0; part < m->parts; part++) {
    float *pre = at + part * retrace_block(m, f), *x = pre + BLOCK * 2 * u, *d_x = x + BLOCK * 3 * u,
          *d_in = d_x + BLOCK * 3 * u;
    float *units = d_in + BLOCK * 2 * u, *hidden = units + BLOCK * u, *y = hidden + BLOCK * d, *gates = y + BLOCK * d;
    float *d_gates = gates + BLOCK * 3 * d, *d_hid = d_gates + BLOCK * 3 * d, *dh = d_hid + BLOCK * d,
          *d_deter = dh + BLOCK * d;
    float *logits = d_deter + BLOCK * d, *d_logits = logits + BLOCK * z, *d_stoch = d_logits + BLOCK * z,
          *sums = d_stoch + BLOCK * z;
    float *d_sums = sums + layers * BLOCK * u, *d_units = d_sums + BLOCK * u;
    long last = (part + 1) * n / m->parts;
    for (long r0 = part * n / m->parts; r0 < last; r0 += BLOCK) {
      long rows = last - r0 < BLOCK ? last - r0 : BLOCK;
      clear(d_deter, d, rows, d);
      clear(d_stoch, z, rows, z);
      for (long t = m->steps - 1; t >= 0; t--) {
        const float *feat = f->feat + (t * n + r0) * wide, *next = feat + n * wide,
                    *grad = f->grad + ((t + 1) * n + r0) * wide;
        for (long r = 0; r < rows; r++)
          memcpy(x + r * 3 * u + 2 * u, f->action_in + (t * n + r0 + r) * u, sizeof(float) * u);
        core(m, &k, rows, feat, wide, feat + d, wide, pre, x, hidden, y, gates, BLOCK * 3 * own, NULL, 0);
        const float *from = next;
        for (long i = 0, in = d, by_in = wide; i < layers; i++, by_in = in = u, from = units) {
          float *sum = sums + i * BLOCK * u;
          fill(sum, u, f->prior[3 * i + 1], rows, u);
          add_product(sum, u, from, by_in, ahead[i], rows, in, u);
          for (long r = 0; r < rows; r++) norm_silu_row(units + r * u, sum + r * u, f->prior[3 * i + 2], u, m->eps);
        }
        fill(logits, z, f->prior[3 * layers + 1], rows, z);
        add_product(logits, z, from, layers ? u : wide, ahead[layers], rows, top, z);

        clear(d_logits, z, rows, z);
        for (long r = 0; r < rows; r++)
          for (long i = 0; i < groups; i += LANES)
            straight_through_group(d_logits + r * z + i * m->c, grad + r * wide + d + i * m->c,
                                   d_stoch + r * z + i * m->c, logits + r * z + i * m->c,
                                   groups - i < LANES ? groups - i : LANES, m->c, m->unimix);
        for (long r = 0; r < rows; r++)
          for (long j = 0; j < d; j++) dh[r * d + j] = d_deter[r * d + j] + grad[r * wide + j];
        const float *above = d_logits;
        for (long i = layers, by = z; i > 0; i--, above = d_sums, by = u) {
          clear(d_units, u, rows, u);
          add_product(d_units, u, above, by, behind[i], rows, by, u);
          for (long r = 0; r < rows; r++)
            norm_silu_backward_row(d_sums + r * u, d_units + r * u, sums + ((i - 1) * BLOCK + r) * u,
                                   f->prior[3 * i - 1], u, m->eps);
        }
        add_product(dh, d, above, layers ? u : z, behind[0], rows, layers ? u : z, d);
        core_backward(m, &back, rows, dh, feat, wide, pre, hidden, gates, BLOCK * 3 * own, d_gates, BLOCK * 3 * own, y,
                      d_hid, d_x, d_in, d_deter, d_stoch);
        for (long r = 0; r < rows; r++)
          memcpy(f->d_action + (t * n + r0 + r) * u, d_x + r * 3 * u + 2 * u, sizeof(float) * u);
      }
    }
  }
}
