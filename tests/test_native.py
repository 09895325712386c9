"""The kernels are built once, by whom and where they may be, and never by a forward pass."""

import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dreamer_lightning import kernels
from dreamer_lightning.kernels import native, seam
from dreamer_lightning.nets.blocks import MLP

needs_kernels = pytest.mark.skipif(bool(native.load()), reason=f"no compiled kernels: {native.load()}")
ASK = "import torch; from dreamer_lightning import kernels; from dreamer_lightning.nets.blocks import MLP; "
ASK += "mlp = MLP(4, 4, 1); print(kernels.accelerate(mlp)); print(mlp(torch.ones(2, 4)).shape)"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Empty folders to build in."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(native.tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"PATH": "", "CC": ""}, "no C compiler (cc, gcc or clang) is installed"),
        ({"DREAMER_KERNELS": "off"}, "switched off by DREAMER_KERNELS"),
        ({"CC": "/bin/false"}, "/bin/false could not build them"),
    ],
)
def test_without_a_compiler_torch_does_the_work(change, said, tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "TMPDIR": str(tmp_path), **change}
    done = subprocess.run([sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    why, shape = done.stdout.splitlines()
    assert why.startswith(f"no compiled kernels ({said}")
    assert shape == "torch.Size([2, 4])"


def test_a_forward_pass_builds_nothing(tmp_path):
    ask = "import torch; from dreamer_lightning.nets.blocks import MLP; MLP(4, 4, 1)(torch.ones(2, 4)); "
    ask += "from dreamer_lightning.kernels.twins import FastMLP; from dreamer_lightning.kernels.watch import adopt; "
    ask += "mlp = MLP(4, 4, 1); assert adopt(mlp, FastMLP); mlp(torch.ones(2, 4))"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", ask], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("*.so"))


@needs_kernels
def test_built_once_and_kept(cache):
    """The second process finds the library of the first."""
    made = native.built()
    assert made.parent == cache / "cache" / "dreamer_lightning"
    assert {path.name for path in made.parent.iterdir()} == {made.name, "lock"}  # nothing left of the build
    stamp = made.stat().st_mtime_ns
    assert native.built() == made
    assert made.stat().st_mtime_ns == stamp


@needs_kernels
def test_a_cache_that_cannot_be_written_is_passed_over(cache, monkeypatch):
    (cache / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache / "file"))
    folder = native.built().parent
    assert folder.parent == cache
    assert folder.stat().st_mode & 0o777 == 0o700


@needs_kernels
def test_a_folder_that_is_not_ones_own_is_refused(cache, monkeypatch):
    """Somebody may have put a folder or a link where ours would be among the system's temporary files."""
    (cache / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache / "file"))
    (cache / "theirs").mkdir()
    native.folders()[1].symlink_to(cache / "theirs")
    with pytest.raises(OSError, match="is not a folder of this user"):
        native.built()
    assert not list((cache / "theirs").iterdir())


@needs_kernels
def test_one_process_builds_while_the_others_wait(cache):
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache / "cache")}
    log = cache / "compiler"
    log.write_text(f'#!/bin/sh\n[ "$1" = --version ] || echo built >> {cache}/log\nexec {native.compiler()} "$@"\n')
    log.chmod(0o700)
    ask = "from dreamer_lightning.kernels import native; print(native.load())"
    start = [sys.executable, "-c", ask]
    running = [subprocess.Popen(start, env={**environment, "CC": str(log)}, stdout=subprocess.PIPE) for _ in range(3)]
    assert [process.communicate(timeout=120)[0].strip() for process in running] == [b""] * 3
    assert len((cache / "log").read_text().split()) == 2  # compiled and linked


@needs_kernels
@pytest.mark.parametrize("part", ["compiler", "c_library", "processor"])
def test_another_compiler_library_or_processor_is_another_build(part, monkeypatch, tmp_path):
    before = native.key(None)
    other = tmp_path / "cc"
    other.write_text("#!/bin/sh\necho 13.2\n")
    other.chmod(0o700)
    monkeypatch.setattr(native, part, lambda: str(other))
    after = native.key(None)
    assert after != before
    if part == "compiler":  # the same one, updated
        other.write_text("#!/bin/sh\necho 14.1\n")
        assert native.key(None) != after


@needs_kernels
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_without_openmp_a_trial_decides(factor, monkeypatch):
    """One thread against all of torch's: the kernels serve if they are faster all the same, and the line says so."""
    monkeypatch.setattr(seam, "trial", lambda: factor)
    monkeypatch.setattr(native.library(), "has_openmp", lambda: 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    try:
        said = str(kernels.accelerate(MLP(4, 4, 1)))
        assert (native.library() is not None) == (factor > 1)
    finally:
        native.load()
    wanted = (
        "compiled kernels on one thread, 2.0 times as fast" if factor > 1 else "one thread they are 2.0 times slower"
    )
    assert wanted in said


@needs_kernels
def test_the_trial_is_short():
    start = time.perf_counter()
    assert seam.trial(0.1) > 0
    assert time.perf_counter() - start < 5


HERE = Path(__file__).resolve().parents[1]
NO_X86 = platform.machine() not in ("x86_64", "AMD64")
ARM = shutil.which("aarch64-linux-gnu-gcc") and shutil.which("qemu-aarch64")


@pytest.mark.slow
@pytest.mark.skipif(not (HERE / "benchmarks").is_dir(), reason="needs the clone")
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--flags=-march=native"], id="native"),
        pytest.param(
            ["--flags=-mavx2 -mfma"], id="avx2", marks=pytest.mark.skipif(NO_X86, reason="not an x86 processor")
        ),
        pytest.param(["--flags=-msse2"], id="sse2", marks=pytest.mark.skipif(NO_X86, reason="not an x86 processor")),
        pytest.param(
            ["--cc=aarch64-linux-gnu-gcc", "--flags=", "--run=qemu-aarch64 -L /usr/aarch64-linux-gnu"],
            id="arm64",
            marks=pytest.mark.skipif(not ARM, reason="needs gcc-aarch64-linux-gnu and qemu-user"),
        ),
    ],
)
def test_the_tiles_of_each_instruction_set_are_right(options):
    """The table's row of the sizes that `dense.c` takes by itself: milliseconds, and the error beside float64."""
    script = [sys.executable, str(HERE / "benchmarks" / "tiles.py"), "--rounds=1", "--blocks", *options]
    table = subprocess.run(script, check=True, capture_output=True, text=True).stdout
    *times, error = [float(cell) for cell in table.strip().splitlines()[-1].split("|")[4:-1]]
    assert len(times) == 3
    assert error < 1e-6
