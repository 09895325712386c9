"""What a callback is, and what may stop a run's output."""

from __future__ import annotations

import ast
import contextlib
from pathlib import Path

import pytest

from dreamer_lightning.callbacks import Callback
from dreamer_lightning.callbacks.base import tell, warn
from fakes import FakeLoop

SOURCES = Path(__file__).parents[1] / "src" / "dreamer_lightning"


def test_only_tracking_imports_wandb():
    for path in SOURCES.rglob("*.py"):
        modules = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules.add(node.module.split(".")[0])
        assert "wandb" not in modules or path.name == "tracking.py", path


def test_a_users_callback_needs_only_its_own_hooks(tmp_path):
    class Count(Callback):
        seen = 0

        def on_train_batch_end(self, metrics):
            self.seen += "loss/model" in metrics

    loop = FakeLoop(tmp_path, [Count()])
    for _ in range(6):
        loop.round()
    assert loop.callbacks[0].seen == loop.clocks.update > 0


def test_a_full_disk_under_the_log_file_does_not_end_the_run():
    """Found by benchmarks/faults: the line that tells of the full disk was what killed the run."""
    full = open("/dev/full", "w")  # noqa: SIM115 (to close it fails, too)
    with contextlib.redirect_stdout(full), contextlib.redirect_stderr(full):
        with pytest.raises(OSError, match="No space left"):
            print("env steps 1", flush=True)
        warn("checkpoint not written")
        tell("env steps 2")
    with contextlib.suppress(OSError):
        full.close()
