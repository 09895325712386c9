"""Free pages go back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

HOLES = """
import os, torch
from dreamer_lightning.callbacks import Memory
from dreamer_lightning.kernels.process import keep_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

keep_memory()
many = [torch.ones(25_000) for _ in range(2000)]  # 200 MB
many = many[-1:]  # keeps the heap from shrinking at its end
before = resident()
Memory().on_validation_end()
print(before - resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heap")
def test_free_pages_go_back_after_an_evaluation():
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    assert float(done.stdout) > 150
