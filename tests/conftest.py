"""One thread for every test and what it starts: tests are small, and several processes share two cores."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
