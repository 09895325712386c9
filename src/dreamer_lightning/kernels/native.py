"""Builds and loads `dream.c` with what it includes: once, with the machine's C compiler; without one torch does it.

Only ``load`` builds, and only ``accelerate`` calls it: a forward pass takes what ``library`` gives, and starts nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

SOURCES = [  # each includes the next
    Path(__file__).with_name(name) for name in ("dream.c", "scan.c", "dense.c", "kernels.c")
]
SWITCH = "DREAMER_KERNELS"  # "off" leaves everything to torch
FLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-fPIC"]
FALLBACKS = [["-march=native"], ["-mcpu=native"], []]  # not every compiler knows each
POINTER, LONG, FLOAT = ctypes.c_void_p, ctypes.c_long, ctypes.c_float
SIGNATURES = {  # pointers, then numbers: l(ong) and f(loat)
    "norm_silu": (3, "lllf"),
    "norm_silu_gradients": (5, "lllfl"),
    "draw": (3, "llf"),
    "twohot_mean": (3, "ll"),
    "twohot_mean_backward": (5, "ll"),
    "twohot_loss": (4, "lll"),
    "twohot_loss_backward": (5, "lll"),
}
STRUCTURED = {  # pointers to the structures in `loops` and `dense`, and what comes back
    "has_openmp": (0, LONG),
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

_library: ctypes.CDLL | None = None


def library() -> ctypes.CDLL | None:
    """The compiled kernels, if ``load`` has put them to use."""
    return _library


@contextlib.contextmanager
def unused() -> Iterator[None]:
    """No compiled kernels inside."""
    global _library
    before, _library = _library, None
    try:
        yield
    finally:
        _library = before


def unload() -> None:
    """Let torch do the work."""
    global _library
    _library = None


def load() -> str:
    """Put the kernels to use; builds them if no build is kept. Returns why there are none, in a line for people."""
    global _library
    if _library is None:
        _library, reason = _load()
        return reason
    return ""


@functools.cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    if os.environ.get(SWITCH, "").lower() in ("off", "0", "no", "false"):
        return None, f"switched off by {SWITCH}"
    if os.name != "posix":
        return None, f"they are built on Linux and macOS only, not on {platform.system()}"
    if not compiler():
        return None, "no C compiler (cc, gcc or clang) is installed"
    try:
        loaded = ctypes.CDLL(str(built()))
    except (OSError, subprocess.SubprocessError, RuntimeError) as error:  # the last: a user without a home folder
        said = getattr(error, "stderr", None) or str(error)
        return None, f"{compiler()} could not build them: {said.strip().splitlines()[0] if said.strip() else error}"
    for name, (pointers, numbers) in SIGNATURES.items():
        function = getattr(loaded, name)
        function.argtypes = [POINTER] * pointers + [LONG if kind == "l" else FLOAT for kind in numbers]
        function.restype = None
    for name, (pointers, result) in STRUCTURED.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = [POINTER] * pointers, result
    return loaded, ""


def compiler() -> str | None:
    """The C compiler: that of ``CC``, else the first of cc, gcc and clang."""
    names = (os.environ.get("CC") or "cc", "cc", "gcc", "clang")
    return next((found for name in names if (found := shutil.which(name))), None)


def built() -> Path:
    """The shared library of these sources on this machine; built if no folder keeps it yet.

    One process of the machine builds while the others wait, and find what it has made.
    """
    openmp = openmp_of_torch()
    name, errors = f"kernels-{key(openmp)}.so", []
    for folder in folders():
        if mine(folder, stat.S_ISDIR) and mine(folder / name):
            return folder / name
    for folder in folders():
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not mine(folder, stat.S_ISDIR):
                raise OSError(f"{folder} is not a folder of this user")
            folder.chmod(0o700)
            with lock(folder / "lock"):
                if not mine(folder / name):
                    with tempfile.TemporaryDirectory(dir=folder) as scratch:
                        build(Path(scratch) / name, openmp)
                        os.replace(Path(scratch) / name, folder / name)  # whole or not at all
            return folder / name
        except OSError as error:  # a folder that cannot be written to
            errors.append(error)
    raise errors[-1]


def key(openmp: str | None) -> str:
    """Changes with all that a build depends on: sources, compiler, C library, OpenMP, processor."""
    compile_with = compiler() or "cc"
    version = subprocess.run([compile_with, "--version"], capture_output=True, text=True, timeout=60).stdout
    known = [*(source.read_bytes() for source in SOURCES), compile_with, version, c_library(), openmp, FLAGS]
    return hashlib.sha256(repr([*known, FALLBACKS, processor()]).encode()).hexdigest()[:16]


def c_library() -> str:
    """Name and version of the C library, or of the system where it has no name of its own."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):  # not GNU's
        return f"{platform.libc_ver()} {platform.platform()}"


def mine(path: Path, kind: Callable[[int], bool] = stat.S_ISREG) -> bool:
    """Whether a file or folder is there and belongs to this user; a link in its place does not count."""
    try:
        state = path.lstat()
    except OSError:
        return False
    return kind(state.st_mode) and state.st_uid == os.getuid()


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """One process at a time."""
    import fcntl

    with path.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # let go when the file is closed
        yield


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
                    subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
                ctypes.CDLL(str(target))
                return
            except subprocess.TimeoutExpired:  # a busy machine: other flags would only make other numbers
                raise
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
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    except OSError:
        return f"{platform.machine()} {platform.processor()} {platform.node()}"


def folders() -> list[Path]:
    """Where builds are kept: the user's cache, else a folder of the user's among the system's temporary files."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path(os.path.expanduser("~"), ".cache")) / "dreamer_lightning"
    return [*([home] if home.is_absolute() else []), Path(tempfile.gettempdir()) / f"dreamer_lightning-{os.getuid()}"]
