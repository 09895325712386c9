/* Times `dense_forward` on the shapes that take most of an update, and holds it to plain loops; `tiles.py` builds it. */

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "dense.c"

static float *numbers(long n) {
  float *x = malloc(sizeof(float) * n);
  for (long i = 0; i < n; i++) x[i] = (float)rand() / RAND_MAX - 0.5f;
  return x;
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

/* rounds rows k o: prints the milliseconds of the fastest round, which neighbours disturb least, and the largest error
 * beside the sum of what is added. */
int main(int count, char **words) {
  long rounds = atol(words[1]), n = atol(words[2]), k = atol(words[3]), o = atol(words[4]);
  float *x = numbers(n * k), *w = numbers(k * o), *bias = numbers(o), *out = numbers(n * o);
  dense asked = {.x = x, .w = w, .bias = bias, .out = out, .n = n, .k = k, .o = o, .by_k = 1, .by_o = k, .parts = 1};
  asked.room = numbers(dense_room(&asked));
  double fastest = 1e9, worst = 0.0;
  for (long i = 0; i < rounds; i++) {
    double start = now();
    dense_forward(&asked);
    double took = now() - start;
    if (took < fastest) fastest = took;
  }
  for (long r = 0; r < n; r += n / 64 + 1)
    for (long j = 0; j < o; j++) {
      double sum = bias[j], size = 1e-3;
      for (long i = 0; i < k; i++) sum += (double)x[r * k + i] * w[j * k + i], size += fabs((double)x[r * k + i] * w[j * k + i]);
      double error = fabs(out[r * o + j] - sum) / size;
      if (error > worst) worst = error;
    }
  printf("%.3f %.1e\n", 1e3 * fastest, worst);
  return 0;
}
