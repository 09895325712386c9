"""Builds and loads `dream.c` with what it includes: once, with the machine's C compiler; without one torch does it."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

SOURCES = [
    Path(__file__).with_name(name) for name in ("dream.c", "scan.c", "dense.c", "kernels.c")
]  # each includes the next
SWITCH = "DREAMER_KERNELS"  # "off" leaves everything to torch
FLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-fPIC"]
FALLBACKS = [["-march=native"], ["-mcpu=native"], []]  # not every compiler knows each
POINTER, LONG, FLOAT = ctypes.c_void_p, ctypes.c_long, ctypes.c_float
SIGNATURES = {  # pointers, then numbers: l(ong) and f(loat)
    "norm_silu": (3, "lllf"),
    "norm_silu_backward": (4, "lllf"),
    "norm_silu_weight": (4, "lllfl"),
    "norm_silu_gradients": (5, "lllfl"),
    "gru": (4, "lll"),
    "gru_backward": (6, "lll"),
    "draw": (3, "llf"),
    "straight_through": (4, "llf"),
    "twohot_mean": (3, "ll"),
    "twohot_mean_backward": (5, "ll"),
    "twohot_loss": (4, "lll"),
    "twohot_loss_backward": (5, "lll"),
}
STRUCTURED = {  # pointers to the structures in `loops`, and what comes back
    "scan_room": (1, LONG),
    "observe_forward": (2, None),
    "observe_backward": (2, None),
    "act_room": (2, LONG),
    "act_step": (2, None),
    "dense_room": (1, LONG),
    "dense_forward": (1, None),
    "mlp_room": (1, LONG),
    "mlp_forward": (1, None),
    "dream_packed": (2, LONG),
    "dream_room": (1, LONG),
    "dream_pack": (2, None),
    "dream_step": (2, None),
    "retrace_room": (2, LONG),
    "retrace_backward": (2, None),
}


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels; None if they are switched off or cannot be built here, see ``why_not``."""
    if why_not():
        return None
    loaded = ctypes.CDLL(str(built()))
    for name, (pointers, numbers) in SIGNATURES.items():
        function = getattr(loaded, name)
        function.argtypes = [POINTER] * pointers + [LONG if kind == "l" else FLOAT for kind in numbers]
        function.restype = None
    for name, (pointers, result) in STRUCTURED.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = [POINTER] * pointers, result
    return loaded


@functools.cache
def why_not() -> str:
    """Why there are no kernels, in a line for people; empty if there are."""
    if os.environ.get(SWITCH, "").lower() in ("off", "0", "no", "false"):
        return f"switched off by {SWITCH}"
    if os.name != "posix":
        return f"they are built on Linux and macOS only, not on {platform.system()}"
    if not compiler():
        return "no C compiler (cc, gcc or clang) is installed"
    try:
        ctypes.CDLL(str(built()))
    except (OSError, subprocess.SubprocessError, RuntimeError) as error:  # the last: a user without a home folder
        said = getattr(error, "stderr", None) or str(error)
        return f"{compiler()} could not build them: {said.strip().splitlines()[0] if said.strip() else error}"
    return ""


def compiler() -> str | None:
    """The C compiler: that of ``CC``, else the first of cc, gcc and clang."""
    names = (os.environ.get("CC") or "cc", "cc", "gcc", "clang")
    return next((found for name in names if (found := shutil.which(name))), None)


@functools.cache
def built() -> Path:
    """The shared library of this source, compiler and processor; built if it is not in the cache yet."""
    openmp = openmp_of_torch()
    known = [*(source.read_bytes() for source in SOURCES), compiler(), openmp, FLAGS, processor()]
    name = f"kernels-{hashlib.sha256(repr(known).encode()).hexdigest()[:16]}.so"
    for folder in folders():
        here = folder / name
        if here.is_file() and here.stat().st_uid == os.getuid():  # nobody else's, in a folder that is shared
            return here
    errors = []
    for folder in folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                made = Path(scratch) / name
                build(made, openmp)
                os.replace(made, folder / name)  # whole or not at all, also if two processes build at once
            return folder / name
        except OSError as error:  # a folder that cannot be written to
            errors.append(error)
    raise errors[-1]


def build(target: Path, openmp: str | None) -> None:
    """Compile to ``target``, with the threads of torch's own OpenMP if it has one that can be linked."""
    compile_with = compiler() or "cc"
    attempts = [(native, [openmp]) for native in FALLBACKS] if openmp else []
    attempts += [(native, []) for native in FALLBACKS]
    for i, (native, linked) in enumerate(attempts):
        pragmas = ["-fopenmp"] if linked else ["-fopenmp-simd"]
        # of "-fopenmp" only the compiling: linking it would bring a second OpenMP with threads of its own
        with tempfile.TemporaryDirectory() as scratch:
            part = f"{scratch}/kernels.o"
            compile_ = [compile_with, *FLAGS, *native, *pragmas, "-c", str(SOURCES[0]), "-o", part]
            link = [compile_with, "-shared", part, *linked, "-lm", "-o", str(target)]
            try:
                for command in (compile_, link):
                    subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
                ctypes.CDLL(str(target))
                return
            except (subprocess.SubprocessError, OSError):
                if i == len(attempts) - 1:
                    raise


def openmp_of_torch() -> str | None:
    """GNU OpenMP's library as torch brings it; None where it has another or none."""
    home = Path(torch.__file__).parent
    found = [*home.glob("lib/libgomp*.so*"), *home.parent.glob("torch.libs/libgomp*.so*")]
    return str(found[0]) if found else None


def processor() -> str:
    """What decides which instructions this machine has."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    except OSError:
        return f"{platform.machine()} {platform.processor()} {platform.node()}"


def folders() -> list[Path]:
    """Where builds are kept: the user's cache, else the system's folder for temporary files."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return [cache / "dreamer_lightning", Path(tempfile.gettempdir()) / f"dreamer_lightning-{os.getuid()}"]
