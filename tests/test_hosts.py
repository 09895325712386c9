"""Several machines: network namespaces with an address each, joined by a bridge. Needs root; minutes long."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dreamer_lightning.callbacks.peers import EXIT
from dreamer_lightning.store import runfolder

HERE = Path(__file__).parent
FIT = ["-m", "dreamer_lightning", "fit", "gym.yaml", "debug.yaml", "--run_dir", "run", "--fabric.accelerator", "cpu"]
FIT += ["--evaluation.every", "0", "--evaluation.random_episodes", "0", "--checkpoint.every", "200"]
NUMBERS = itertools.count()  # the system takes its time to forget a name
pytestmark = pytest.mark.slow


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Hosts:
    """Machines ``host0`` to ``host3`` at 10.77.0.1 to 10.77.0.4, which see one folder."""

    def __init__(self, folder: Path):
        self.folder, self.name = folder, f"dl{os.getpid() % 10000}{next(NUMBERS)}"
        self.running: list[subprocess.Popen] = []

    def make(self) -> None:
        ip("link", "add", self.name, "type", "bridge")
        ip("link", "set", self.name, "up")
        for i in range(4):
            ip("netns", "add", f"{self.name}h{i}")
            ip("link", "add", f"{self.name}v{i}", "type", "veth", "peer", "name", "wire", "netns", f"{self.name}h{i}")
            ip("link", "set", f"{self.name}v{i}", "master", self.name, "up")
            ip("-n", f"{self.name}h{i}", "addr", "add", f"10.77.0.{i + 1}/24", "dev", "wire")
            for link in ("wire", "lo"):
                ip("-n", f"{self.name}h{i}", "link", "set", link, "up")

    def remove(self) -> None:
        for process in self.running:
            if process.poll() is None:
                process.kill()
            process.wait(20)
        for i in range(4):
            subprocess.run(["ip", "netns", "del", f"{self.name}h{i}"], capture_output=True)
        subprocess.run(["ip", "link", "del", self.name], capture_output=True)

    def silence(self, i: int) -> None:
        """Pull the cable: nothing is refused, nothing is closed."""
        ip("link", "set", f"{self.name}v{i}", "down")

    def start(self, count: int, *command: str) -> list[subprocess.Popen]:
        """The same command on each of the first hosts, as people would type it there; what it says is in ``logN``."""
        env = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "NODE_RANK")}
        env |= {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled", "GLOO_SOCKET_IFNAME": "wire", "HOSTS": str(count)}
        env |= {"MASTER_ADDR": "10.77.0.1", "MASTER_PORT": "29555"}
        env["PYTHONPATH"] = f"{HERE}{os.pathsep}{env.get('PYTHONPATH', '')}"
        processes = []
        for i in range(count):
            inside = f'hostname host{i} && exec "$0" "$@"'
            words = ["ip", "netns", "exec", f"{self.name}h{i}", "unshare", "--uts", "sh", "-c", inside, sys.executable]
            with (self.folder / f"log{i}").open("w") as log:
                there = {"cwd": self.folder, "env": {**env, "NODE_RANK": str(i)}, "stdout": log, "stderr": log}
                processes.append(subprocess.Popen([*words, *command], **there))
        self.running += processes
        return processes

    def said(self, i: int) -> str:
        return (self.folder / f"log{i}").read_text()

    def run(self, count: int, *command: str) -> None:
        """Until all have ended well."""
        codes = [process.wait(400) for process in self.start(count, *command)]
        assert codes == [0] * count, [self.said(i) for i in range(count)]


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    if not (shutil.which("ip") and shutil.which("unshare")):
        pytest.skip("needs ip (iproute2) and unshare (util-linux)")
    made = Hosts(tmp_path)
    try:
        made.make()
    except subprocess.CalledProcessError as error:
        made.remove()
        pytest.skip(f"network namespaces are not allowed here: {error.stderr.strip()}")
    try:
        yield made
    finally:
        made.remove()


def until_saved(hosts: Hosts, processes: list[subprocess.Popen]) -> None:
    deadline = time.monotonic() + 300
    while not runfolder.checkpoints(hosts.folder / "run") and time.monotonic() < deadline:
        assert all(process.poll() is None for process in processes), [hosts.said(i) for i in range(len(processes))]
        time.sleep(0.1)


@pytest.mark.parametrize("count", [2, 4])
def test_hosts_agree_with_one_process(hosts: Hosts, count: int):
    hosts.run(count, str(HERE / "ddp_gradients.py"), str(hosts.folder), "reinforce")
    ranks = [torch.load(hosts.folder / f"rank{rank}.pt") for rank in range(count)]
    whole = torch.load(hosts.folder / "whole.pt")
    for rank in ranks:
        assert torch.equal(rank["range"], ranks[0]["range"])
        assert all(torch.equal(rank["grads"][name], grad) for name, grad in ranks[0]["grads"].items())
    torch.testing.assert_close(ranks[0]["range"], whole["range"])
    for name, want in whole["grads"].items():
        assert (ranks[0]["grads"][name] - want).norm() <= 2e-4 * want.norm(), name


def test_a_run_of_two_hosts_goes_on_with_four_and_with_one(hosts: Hosts):
    hosts.run(2, *FIT, "--fabric.num_nodes", "2", "--env_steps", "200")
    assert [hosts.said(i).count("updates to come") for i in (0, 1)] == [1, 0], "rank 0 alone speaks"
    steps = 200
    for count in (4, 1):
        found = runfolder.latest_complete(hosts.folder / "run")
        assert runfolder.read_manifest(found)["env_step"] == steps
        steps += 80  # a multiple of what four ranks play in a round
        more = ["--resume", "run", "--fabric.num_nodes", str(count), "--env_steps", str(steps)]
        hosts.run(count, "-m", "dreamer_lightning", "fit", *more)
        assert "resumed at update" in hosts.said(0)
        assert runfolder.read_manifest(runfolder.latest_complete(hosts.folder / "run"))["world_size"] == count


@pytest.mark.parametrize("how", ["dead", "silent"])
@pytest.mark.parametrize("which", [0, 1])
def test_a_host_that_is_gone_ends_the_other_with_a_line_and_a_usable_checkpoint(hosts: Hosts, how: str, which: int):
    """Within 20 s if it died, within 75 s if nothing is heard of it: a minute of silence, and what looking takes."""
    processes = hosts.start(2, *FIT, "--fabric.num_nodes", "2", "--env_steps", "1e8")
    until_saved(hosts, processes)
    start = time.monotonic()
    if how == "dead":
        processes[which].kill()
    else:
        hosts.silence(which)
    assert processes[1 - which].wait(120) == EXIT, hosts.said(1 - which)
    took = time.monotonic() - start
    print(f"{how} host{which}: the other ended after {took:.1f} s")
    assert took < (20 if how == "dead" else 75)
    said = [line for line in hosts.said(1 - which).splitlines() if "go on from the last checkpoint by --resume" in line]
    assert len(said) == 1
    assert f"host{which}" in said[0]
    assert "Traceback" not in hosts.said(1 - which)
    assert runfolder.latest_complete(hosts.folder / "run")


def test_a_slow_host_is_named(hosts: Hosts):
    processes = hosts.start(2, *FIT, "--fabric.num_nodes", "2", "--env_steps", "1e8")
    until_saved(hosts, processes)
    over = threading.Event()

    def hold() -> None:
        while not over.wait(0.05):
            processes[1].send_signal(signal.SIGSTOP)
            over.wait(0.4)
            processes[1].send_signal(signal.SIGCONT)

    thread = threading.Thread(target=hold)
    thread.start()
    deadline = time.monotonic() + 120
    while "is slow" not in hosts.said(0) and time.monotonic() < deadline:
        time.sleep(0.5)
    over.set()
    thread.join()
    assert "warning: rank 1 on host1 is slow: others wait" in hosts.said(0), hosts.said(0)
