"""A signal saves and stops, a second interrupt ends at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from dreamer_lightning.callbacks import Signals
from fakes import FakeLoop


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_stops_the_loop_in_good_order(tmp_path, capsys, number):
    loop = FakeLoop(tmp_path, [Signals()])
    before = signal.getsignal(number)
    loop.call("on_fit_start")
    try:
        os.kill(os.getpid(), number)
        assert not loop.should_stop
        loop.round()
        assert loop.stop_reason == "signal"
        assert capsys.readouterr().out.startswith(f"{signal.Signals(number).name}: saving and stopping")
    finally:
        loop.call("on_fit_end")
    assert signal.getsignal(number) == before


def test_second_interrupt_ends_the_process_at_once(tmp_path):
    script = (
        "import os, signal, time\n"
        "from dreamer_lightning.callbacks.signals import Signals\n"
        "signals = Signals(); signals.on_fit_start()\n"
        "os.kill(os.getpid(), signal.SIGINT); print('still here', flush=True)\n"
        "os.kill(os.getpid(), signal.SIGINT); time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (130, "still here\n")


def test_systems_without_sigusr1(tmp_path):
    script = (
        "import signal; del signal.SIGUSR1\n"
        "from dreamer_lightning.callbacks import signals\n"
        "print([number.name for number in signals.CAUGHT])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout == "['SIGINT', 'SIGTERM']\n", done.stderr
