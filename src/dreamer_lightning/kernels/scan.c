/* The loops over an RSSM's steps on a CPU: the scan of `scan.py`, forward and backward, and acting. `dream.c` dreams.
 *
 * A step of 16 sequences is 60 small tensor operations that wait for one another; here it is one pass over the weights.
 * Sequences do not meet within the scan, so that each thread takes some of them from the first step to the last. What
 * is not part of the recurrence (gradients of weights) is left to wide products afterwards. `loops.py` calls these.
 */

#include "dense.c"

/* The part of the hidden layer's kernel that all blocks share, [g, own + wide, own] from its row `own` on, as one
 * [wide, d]. */
static void pack_shared(float *restrict room, const float *restrict w, long wide, long d, long own, long block) {
  for (long first = 0; first < d; first += PANEL)
    for (long i = 0; i < wide; i++)
      for (long j = first; j < first + PANEL; j++) *room++ = j < d ? w[j / own * block + i * own + j % own] : 0.0f;
}

static void draw_all(float *out, const float *logits, const float *noise, long n, long c, float mix) {
  for (long i = 0; i < n; i += LANES)
    draw_group(out + i * c, logits + i * c, noise + i, n - i < LANES ? n - i : LANES, c, mix);
}

/* Sizes, and the weights in the layout of `Weights` in loops.py. */
typedef struct {
  long steps, b, d, z, u, g, v, c, parts, packed; /* packed: kernels are laid out anew */
  float unimix, eps;
  const float *deter_in, *deter_bias, *stoch_in, *stoch_bias, *in_norm, *hidden, *hidden_bias, *hidden_norm, *gates,
      *gates_bias;
  const float *post, *post_norm, *logits, *logits_bias;
  long by_post; /* post [v d] may be part of a wider kernel */
} model;

/* Numbers of room that either scan needs. */
long scan_room(const model *m) {
  long own = m->d / m->g,
       wide = packed_size(m->d, m->u) + packed_size(m->u, m->d) + packed_size(m->z, m->u) + packed_size(m->u, m->z);
  wide += m->g * (packed_size(own, own) + packed_size(own, 3 * own) + packed_size(3 * own, own));
  wide += packed_size(3 * m->u, m->d) + packed_size(m->d, 3 * m->u) + packed_size(m->d, m->v) + packed_size(m->v, m->d);
  return wide + packed_size(m->v, m->z) + packed_size(m->z, m->v) + m->b * (2 * m->d + m->v + 2 * m->u + m->z);
}

/* Where the recurrence's packed kernels are, if they are worth it, and where the room goes on. */
typedef struct {
  float *deter_in, *stoch_in, *shared, *own, *gates, *rest;
} recurrence;

static recurrence pack_recurrence(const model *m, float *room, int fresh) {
  if (!m->packed) return (recurrence){.rest = room};
  long d = m->d, z = m->z, u = m->u, g = m->g, own = d / g, wide = 3 * u, block = (own + wide) * own;
  recurrence k = {.deter_in = room};
  k.stoch_in = k.deter_in + packed_size(d, u);
  k.shared = k.stoch_in + packed_size(z, u);
  k.own = k.shared + packed_size(wide, d);
  k.gates = k.own + g * packed_size(own, own);
  k.rest = k.gates + g * packed_size(own, 3 * own);
  if (!fresh) return k;
  pack(k.deter_in, m->deter_in, d, u, 1, d);
  pack(k.stoch_in, m->stoch_in, z, u, 1, z);
  pack_shared(k.shared, m->hidden + own * own, wide, d, own, block);
  for (long i = 0; i < g; i++) {
    pack(k.own + i * packed_size(own, own), m->hidden + i * block, own, own, own, 1);
    pack(k.gates + i * packed_size(own, 3 * own), m->gates + i * own * 3 * own, own, 3 * own, 3 * own, 1);
  }
  return k;
}

/* The next deter of some rows. Besides h (deter) and s (stoch) it takes x [rows 3u], whose last third is the projected
 * action, and leaves what the backward needs in pre [rows 2 u], x, hidden [rows d] and gates [g, rows 3d/g], whose
 * blocks lie by_gates apart; y is room [rows d], and without `next` that is all. */
static void core(const model *m, const recurrence *k, long rows, const float *h, long by_h, const float *s, long by_s,
                 float *pre, float *x, float *hidden, float *y, float *gates, long by_gates, float *next,
                 long by_next) {
  long d = m->d, u = m->u, own = d / m->g, wide = 3 * u, block = (own + wide) * own, packed = k->own != NULL;
  fill(pre, 2 * u, m->deter_bias, rows, u);
  fill(pre + u, 2 * u, m->stoch_bias, rows, u);
  add(pre, 2 * u, h, by_h, k->deter_in, m->deter_in, 1, d, rows, d, u);
  add(pre + u, 2 * u, s, by_s, k->stoch_in, m->stoch_in, 1, m->z, rows, m->z, u);
  for (long r = 0; r < rows; r++)
    for (long i = 0; i < 2; i++)
      norm_silu_row(x + r * wide + i * u, pre + (2 * r + i) * u, m->in_norm + i * u, u, m->eps);
  fill(hidden, d, m->hidden_bias, rows, d);
  if (packed) add_product(hidden, d, x, wide, k->shared, rows, wide, d);
  for (long i = 0; i < m->g; i++) {
    const float *w = m->hidden + i * block, *own_kernel = packed ? k->own + i * packed_size(own, own) : NULL;
    if (!packed) add_thin(hidden + i * own, d, x, wide, w + own * own, own, 1, rows, wide, own);
    add(hidden + i * own, d, h + i * own, by_h, own_kernel, w, own, 1, rows, own, own);
  }
  for (long r = 0; r < rows; r++) norm_silu_row(y + r * d, hidden + r * d, m->hidden_norm, d, m->eps);
  for (long i = 0; i < m->g; i++) {
    float *gate = gates + i * by_gates;
    clear(gate, 3 * own, rows, 3 * own);
    const float *kernel = packed ? k->gates + i * packed_size(own, 3 * own) : NULL;
    add(gate, 3 * own, y + i * own, d, kernel, m->gates + i * own * 3 * own, 3 * own, 1, rows, own, 3 * own);
    for (long r = 0; next && r < rows; r++)
      gru_row(next + r * by_next + i * own, gate + r * 3 * own, m->gates_bias + i * 3 * own, h + r * by_h + i * own,
              own);
  }
}

typedef struct {
  float *deter, *stoch;           /* [b d] and [b z] before the first step */
  float *embed_in, *keep, *noise; /* [t b v], [t b], [t b s] */
  float *hm, *zm, *pre_in, *x, *pre_hid, *gates, *pre_post, *deters, *stochs,
      *logits; /* to be filled, as `ObserveScan` keeps them */
  float *room;
} forward;

void observe_forward(const model *m, const forward *f) {
  long b = m->b, d = m->d, z = m->z, u = m->u, g = m->g, v = m->v, own = d / g, groups = z / m->c;
  recurrence k = pack_recurrence(m, f->room, 1);
  float *post = NULL, *logit = NULL, *rest = k.rest;
  if (k.own) {
    post = k.rest, logit = pack(post, m->post, d, v, 1, m->by_post);
    rest = pack(logit, m->logits, v, z, 1, v);
  }

#pragma omp parallel for schedule(static) num_threads(m->parts)
  for (long part = 0; part < m->parts; part++) {
    long r0 = part * b / m->parts, rows = (part + 1) * b / m->parts - r0;
    float *y = rest + r0 * (d + v), *o = y + rows * d;
    const float *deter = f->deter + r0 * d, *stoch = f->stoch + r0 * z;
    for (long t = 0; t < m->steps; t++) {
      long at = t * b + r0;
      float *h = f->hm + at * d, *s = f->zm + at * z, *seen = f->pre_post + at * v, *logits = f->logits + at * z;
      for (long r = 0; r < rows; r++) {
        float keep = f->keep[at + r];
        for (long j = 0; j < d; j++) h[r * d + j] = deter[r * d + j] * keep;
        for (long j = 0; j < z; j++) s[r * z + j] = stoch[r * z + j] * keep;
      }
      float *next = f->deters + at * d, *drawn = f->stochs + at * z;
      core(m, &k, rows, h, d, s, z, f->pre_in + at * 2 * u, f->x + at * 3 * u, f->pre_hid + at * d, y,
           f->gates + (t * g * b + r0) * 3 * own, b * 3 * own, next, d);
      memcpy(seen, f->embed_in + at * v, sizeof(float) * rows * v);
      add(seen, v, next, d, post, m->post, 1, m->by_post, rows, d, v);
      for (long r = 0; r < rows; r++) norm_silu_row(o + r * v, seen + r * v, m->post_norm, v, m->eps);
      fill(logits, z, m->logits_bias, rows, z);
      add(logits, z, o, v, logit, m->logits, 1, v, rows, v, z);
      draw_all(drawn, logits, f->noise + at * groups, rows * groups, m->c, m->unimix);
      deter = next, stoch = drawn;
    }
  }
}

typedef struct {
  float *hm, *pre_in, *pre_hid, *gates, *pre_post, *logits, *keep; /* as the forward left them */
  float *grad_deter, *grad_stoch;                                  /* [t b d], [t b z] */
  float *d_logits;                                            /* gradient of the logits, to which the draws' is added */
  float *d_out, *d_post, *d_gates, *d_y, *d_hid, *d_x, *d_in; /* to be filled; d_gates [g t b 3d/g] */
  float *d_deter, *d_stoch;                                   /* [b d], [b z]: of what came before the first step */
  float *room;
} backward;

/* Where the recurrence's packed kernels are as its backward takes them, and where the room goes on. */
typedef struct {
  float *gates, *shared, *own, *deter_in, *stoch_in, *rest;
} transposed;

static transposed pack_transposed(const model *m, float *room) {
  long d = m->d, z = m->z, u = m->u, own = d / m->g, wide = 3 * u, block = (own + wide) * own;
  const float *shared = m->hidden + own * own;
  transposed k = {.gates = room};
  for (long i = 0; i < m->g; i++) room = pack(room, m->gates + i * own * 3 * own, 3 * own, own, 1, 3 * own);
  k.shared = room;
  for (long first = 0; first < wide; first += PANEL)
    for (long column = 0; column < d; column++)
      for (long j = first; j < first + PANEL; j++)
        *room++ = j < wide ? shared[column / own * block + j * own + column % own] : 0.0f;
  k.own = room;
  for (long i = 0; i < m->g; i++) room = pack(room, m->hidden + i * block, own, own, 1, own);
  k.deter_in = room;
  k.stoch_in = pack(k.deter_in, m->deter_in, u, d, d, 1);
  k.rest = pack(k.stoch_in, m->stoch_in, u, z, z, 1);
  return k;
}

/* The backward of `core`: from dh, the gradient of the next deter [rows d], to those of h and s, into d_deter and
 * d_stoch. It takes what `core` left and leaves the gradients of the gates (whose blocks lie by_d_gates apart), of y,
 * hidden, x, and of pre (d_in). */
static void core_backward(const model *m, const transposed *k, long rows, const float *dh, const float *h, long by_h,
                          const float *pre, const float *hidden, const float *gates, long by_gates, float *d_gates,
                          long by_d_gates, float *d_y, float *d_hid, float *d_x, float *d_in, float *d_deter,
                          float *d_stoch) {
  long d = m->d, z = m->z, u = m->u, own = d / m->g, wide = 3 * u;
  clear(d_y, d, rows, d);
  for (long i = 0; i < m->g; i++) {
    float *gate = d_gates + i * by_d_gates;
    for (long r = 0; r < rows; r++)
      gru_backward_row(gate + r * 3 * own, d_deter + r * d + i * own, dh + r * d + i * own,
                       gates + i * by_gates + r * 3 * own, m->gates_bias + i * 3 * own, h + r * by_h + i * own, own);
    add_product(d_y + i * own, d, gate, 3 * own, k->gates + i * packed_size(3 * own, own), rows, 3 * own, own);
  }
  for (long r = 0; r < rows; r++)
    norm_silu_backward_row(d_hid + r * d, d_y + r * d, hidden + r * d, m->hidden_norm, d, m->eps);
  clear(d_x, wide, rows, wide);
  add_product(d_x, wide, d_hid, d, k->shared, rows, d, wide);
  for (long r = 0; r < rows; r++)
    for (long i = 0; i < 2; i++)
      norm_silu_backward_row(d_in + (2 * r + i) * u, d_x + r * wide + i * u, pre + (2 * r + i) * u, m->in_norm + i * u,
                             u, m->eps);
  for (long i = 0; i < m->g; i++)
    add_product(d_deter + i * own, d, d_hid + i * own, d, k->own + i * packed_size(own, own), rows, own, own);
  add_product(d_deter, d, d_in, 2 * u, k->deter_in, rows, u, d);
  clear(d_stoch, z, rows, z);
  add_product(d_stoch, z, d_in + u, 2 * u, k->stoch_in, rows, u, z);
}

void observe_backward(const model *m, const backward *f) {
  long b = m->b, d = m->d, z = m->z, u = m->u, g = m->g, v = m->v, own = d / g, wide = 3 * u, groups = z / m->c;
  float *logits = f->room, *post = pack(logits, m->logits, z, v, v, 1);
  transposed k = pack_transposed(m, pack(post, m->post, v, d, m->by_post, 1));

#pragma omp parallel for schedule(static) num_threads(m->parts)
  for (long part = 0; part < m->parts; part++) {
    long r0 = part * b / m->parts, rows = (part + 1) * b / m->parts - r0;
    float *dh = k.rest + r0 * d, *d_deter = f->d_deter + r0 * d, *d_stoch = f->d_stoch + r0 * z;
    clear(d_deter, d, rows, d);
    clear(d_stoch, z, rows, z);
    for (long t = m->steps - 1; t >= 0; t--) {
      long at = t * b + r0, gate = (t * g * b + r0) * 3 * own;
      float *d_logits = f->d_logits + at * z, *d_out = f->d_out + at * v, *d_post = f->d_post + at * v;
      for (long i = 0, n = rows * groups; i < n; i += LANES)
        straight_through_group(d_logits + i * m->c, f->grad_stoch + at * z + i * m->c, d_stoch + i * m->c,
                               f->logits + at * z + i * m->c, n - i < LANES ? n - i : LANES, m->c, m->unimix);
      clear(d_out, v, rows, v);
      add_product(d_out, v, d_logits, z, logits, rows, z, v);
      for (long r = 0; r < rows; r++)
        norm_silu_backward_row(d_post + r * v, d_out + r * v, f->pre_post + (at + r) * v, m->post_norm, v, m->eps);
      for (long j = 0; j < rows * d; j++) dh[j] = d_deter[j] + f->grad_deter[at * d + j];
      add_product(dh, d, d_post, v, post, rows, v, d);
      core_backward(m, &k, rows, dh, f->hm + at * d, d, f->pre_in + at * 2 * u, f->pre_hid + at * d, f->gates + gate,
                    b * 3 * own, f->d_gates + at * 3 * own, m->steps * b * 3 * own, f->d_y + at * d, f->d_hid + at * d,
                    f->d_x + at * wide, f->d_in + at * 2 * u, d_deter, d_stoch);
      for (long r = 0; r < rows; r++) {
        float keep = f->keep[at + r];
        for (long j = 0; j < d; j++) d_deter[r * d + j] *= keep;
        for (long j = 0; j < z; j++) d_stoch[r * z + j] *= keep;
      }
    }
  }
}

typedef struct {
  const float *deter;                                 /* [b d] as before this step */
  const uint8_t *stoch;                               /* [b z/c]: class plus 1, or 0 for none */
  const float *action;                                /* [b a] */
  const uint8_t *first;                               /* [b] */
  const float *embed, *noise;                         /* [b e], [b z/c] */
  const float *action_in, *action_bias, *action_norm; /* [u a], [u], [u] */
  const float *post_embed, *post_bias;                /* [v e] in rows by_post apart, [v] */
  float *feat, *next;                                 /* to be filled [b d+z], [b d] */
  uint8_t *drawn;                                     /* to be filled [b z/c] */
  float *room;
  long a, e;
} acting;

long act_room(const model *m, const acting *f) { return m->b * (m->d * 6 + m->z * 3 + m->u * 6 + m->v * 2 + f->a); }

/* One step on real data for few environments, from and to what acting carries between them. */
void act_step(const model *m, const acting *f) {
  long b = m->b, d = m->d, z = m->z, u = m->u, v = m->v, wide = d + z, groups = z / m->c;
  recurrence k = {.rest = f->room};
  float *h = k.rest, *s = h + b * d, *action = s + b * z, *pre_action = action + b * f->a, *pre = pre_action + b * u,
        *x = pre + b * 2 * u;
  float *hidden = x + b * 3 * u, *y = hidden + b * d, *gates = y + b * d, *seen = gates + b * 3 * d,
        *out = seen + b * v;
  float *logits = out + b * v, *drawn = logits + b * z;
  clear(s, z, b, z);
  for (long r = 0; r < b; r++) {
    float keep = f->first[r] ? 0.0f : 1.0f;
    for (long j = 0; j < d; j++) h[r * d + j] = f->deter[r * d + j] * keep;
    for (long i = 0; i < groups; i++)
      if (f->stoch[r * groups + i]) s[r * z + i * m->c + f->stoch[r * groups + i] - 1] = keep;
    for (long j = 0; j < f->a; j++) {
      float taken = f->action[r * f->a + j] * keep, size = fabsf(taken);
      action[r * f->a + j] = size > 1.0f ? taken / size : taken;
    }
  }
  fill(pre_action, u, f->action_bias, b, u);
  add_thin(pre_action, u, action, f->a, f->action_in, 1, f->a, b, f->a, u);
  for (long r = 0; r < b; r++) norm_silu_row(x + r * 3 * u + 2 * u, pre_action + r * u, f->action_norm, u, m->eps);
  core(m, &k, b, h, d, s, z, pre, x, hidden, y, gates, b * 3 * d / m->g, f->next, d);
  fill(seen, v, f->post_bias, b, v);
  add_thin(seen, v, f->next, d, m->post, 1, m->by_post, b, d, v);
  add_thin(seen, v, f->embed, f->e, f->post_embed, 1, m->by_post, b, f->e, v);
  for (long r = 0; r < b; r++) norm_silu_row(out + r * v, seen + r * v, m->post_norm, v, m->eps);
  fill(logits, z, m->logits_bias, b, z);
  add_thin(logits, z, out, v, m->logits, 1, v, b, v, z);
  draw_all(drawn, logits, f->noise, b * groups, m->c, m->unimix);
  for (long r = 0; r < b; r++) {
    memcpy(f->feat + r * wide, f->next + r * d, sizeof(float) * d);
    memcpy(f->feat + r * wide + d, drawn + r * z, sizeof(float) * z);
    for (long i = 0; i < groups; i++) {
      uint8_t class = 0;
      for (long j = 0; j < m->c; j++)
        if (drawn[r * z + i * m->c + j] > 0.5f) class = (uint8_t)(j + 1);
      f->drawn[r * groups + i] = class;
    }
  }
}
