"""The direction of imports, and who may know what (the rules are in CONTRIBUTING.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "dreamer_lightning"
FILES = sorted(PACKAGE.rglob("*.py"))

NOUNS = {"types", "errors", "lazy"}
MODEL = NOUNS | {"ops", "nets", "optim"}
AGENT = MODEL | {"world_model", "actor_critic", "dreamer"}
BORDERS = AGENT | {"store", "envs", "data", "schedule"}
EVERYTHING = BORDERS | {"migration", "updates", "loop", "callbacks", "evaluation", "agent", "interop"}
MAY_IMPORT = {
    "errors": set(),
    "lazy": set(),
    "agents": set(),
    "types": {"errors"},
    "ops": NOUNS | {"ops"},
    "nets": NOUNS | {"ops", "nets"},
    "kernels": NOUNS | {"ops", "nets", "kernels"},
    "optim": NOUNS | {"optim"},
    "world_model": MODEL,
    "actor_critic": MODEL,
    "curiosity": MODEL | {"actor_critic", "data"},
    "losses": MODEL | {"world_model"},
    "dreamer": MODEL | {"world_model", "actor_critic"},
    "versions": MODEL | {"actor_critic", "versions"},
    "store": NOUNS | {"agents", "store", "migration"},
    "envs": NOUNS | {"store", "envs"},
    "data": NOUNS | {"envs", "data"},
    "schedule": set(),
    "migration": NOUNS,
    "sanity": AGENT,
    "updates": AGENT | {"data", "sanity"},
    "loopstate": BORDERS | {"migration"},
    "loop": BORDERS | {"updates", "sanity", "loopstate", "migration"},
    "callbacks": BORDERS | {"callbacks", "evaluation", "sanity", "explain", "kernels", ""},  # "" is __version__
    "evaluation": BORDERS | {"evaluation", "agent"},
    "agent": BORDERS
    | {
        "agents",
        "dream_env",
        "evaluation",
        "planning",
        "config",
        "configfiles",
        "commands",
        "kernels",
    },  # rebuilds a run's networks
    "interop": AGENT,
    "demo": EVERYTHING | {"agents", "configfiles", "demo", "explain", "planning"},
    "export": BORDERS | {"agents", "agent", "export", "kernels"},
    "dream_env": BORDERS | {"evaluation"},
    "offline": BORDERS | {"agent", "agents", "evaluation", "offline"},
    "planning": AGENT | {"data", "planning"},
    "commands": EVERYTHING
    | {"agents", "offline", "planning", "commands", "configfiles", "explain", "kernels", "settings", ""},
    "workshop": EVERYTHING
    | {"agents", "commands", "config", "configfiles", "kernels", "planning", "settings", "workshop"},  # sweeps parse
    "settings": NOUNS | {"configfiles", "store"},
    "configfiles": NOUNS | {"agents", "migration"},
    "explain": NOUNS | {"migration"},
    "arguments": NOUNS | {"configfiles", "explain", "commands", "migration", "store"},  # a copy to resume from
    "config": NOUNS | {"arguments", "configfiles", "explain", "commands", "migration", "settings"},
    "cli": NOUNS | {"", "arguments", "envs", "config", "configfiles", "kernels", "commands"},
    "__main__": {"cli"},
    "": AGENT | {"agent", "callbacks", "cli", "commands", "envs"},  # public names, loaded when used
}
SIMULATORS = {"dm_control", "mujoco", "ale_py", "dm_env", "cv2"}


def part(path: Path) -> str:
    """The first name below the package: ``nets`` of nets/rssm.py, ``cli`` of cli.py, empty for __init__.py."""
    name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if name == "__init__" else name


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """Dotted names that a file imports, with the imported names appended."""
    tree = ast.parse(path.read_text())
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    deferred = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if top_level_only and (node in deferred or node in typing_only):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def internal(path: Path) -> set[str]:
    """Parts of the package that a file imports."""
    parts = set()
    for name in imports(path):
        words = name.split(".")
        if words[0] == "dreamer_lightning":
            known = len(words) > 1 and ((PACKAGE / words[1]).is_dir() or (PACKAGE / f"{words[1]}.py").is_file())
            parts.add(words[1] if known else "")
    return parts


def third_party(path: Path, top_level_only: bool = False) -> set[str]:
    return {name.split(".")[0] for name in imports(path, top_level_only)} - {"dreamer_lightning"}


def calls(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]


names = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))


@names
def test_imports_point_one_way(path: Path):
    assert part(path) in MAY_IMPORT, "a new part of the package: say in this test what it may import"
    wrong = internal(path) - MAY_IMPORT[part(path)] - {"workshop"}  # of which a test below tells
    assert not wrong, f"{path.name} must not import {wrong}"


@names
def test_who_may_know_what(path: Path):
    known, mine = third_party(path), part(path)
    if mine in {"ops", "nets", "optim"}:
        assert not known & {"lightning", "torchrl", "tensordict", "wandb", "gymnasium"}
    if mine != "config":
        numbers = {"jsonargparse"} if mine == "types" else set()  # whose types say in what range a number lies
        assert not known & {"jsonargparse", "omegaconf"} - numbers
    if mine != "callbacks":
        assert "wandb" not in known
    if mine != "kernels":
        assert "ctypes" not in known
    assert not third_party(path, top_level_only=True) & SIMULATORS, "a simulator is imported where it is made"


@names
def test_no_print_no_cfg_no_device_calls(path: Path):
    for call in calls(path):
        name = ast.unparse(call.func)
        to_file = any(keyword.arg == "file" for keyword in call.keywords)
        assert name != "print" or to_file or part(path) in {"cli", "callbacks"}, f"{path.name}:{call.lineno} prints"
        assert not name.endswith(".cuda"), f"{path.name}:{call.lineno} names a device"
    words = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
    assert "cfg" not in words


@names
def test_files_and_functions_stay_small(path: Path):
    lines = path.read_text().splitlines()
    assert len(lines) <= (150 if path.name == "cli.py" else 400)
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            if body:
                assert node.end_lineno - body[0].lineno < 100, f"{node.name} is long"


def modules(path: Path) -> set[Path]:
    """Files of the package that a file imports when it is loaded, or would for its types alone."""
    tree = ast.parse(path.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    deferred = {inner for function in functions for inner in ast.walk(function)}
    found = set()
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names if node not in deferred else []:
            words = name.split(".")
            if words[0] == "dreamer_lightning":
                whole, parent = PACKAGE.joinpath(*words[1:]), PACKAGE.joinpath(*words[1:-1])
                files = [whole.with_suffix(".py"), whole / "__init__.py", parent.with_suffix(".py")]
                found |= {next((file for file in files if file.is_file()), parent / "__init__.py")}
    return found


def test_imports_run_in_no_circle():
    """Not even among those under ``TYPE_CHECKING``; the front door aside, which loads its names when they are used."""
    todo = {path: modules(path) - {path} for path in FILES if path != PACKAGE / "__init__.py"}
    while leaves := {path for path, needed in todo.items() if not needed & todo.keys()}:
        todo = {path: needed for path, needed in todo.items() if path not in leaves}
    while roots := todo.keys() - {needed for each in todo.values() for needed in each}:
        todo = {path: needed for path, needed in todo.items() if path not in roots}
    assert not todo, f"in circles, or between two: {sorted(str(path.relative_to(PACKAGE)) for path in todo)}"


def test_world_model_and_actor_critic_are_strangers():
    assert "actor_critic" not in internal(PACKAGE / "world_model.py")
    assert "world_model" not in internal(PACKAGE / "actor_critic.py")


@names
def test_nothing_imports_the_workshop(path: Path):
    """A run ends with its diagnosis and its report: the one thing that is asked of the workshop."""
    if part(path) != "workshop":
        found = {name for name in imports(path) if name.startswith("dreamer_lightning.workshop")}
        assert found <= {"dreamer_lightning.workshop.report.command.closing"}
        assert not found or (path.name == "fit.py" and not found & imports(path, top_level_only=True))


# A module's tests are in test_NAME.py, test_ROOM_NAME.py or test_ROOM.py. These are tested through the one they serve.
TESTED_IN = {
    **dict.fromkeys(("arguments", "config", "explain"), "test_cli"),
    **dict.fromkeys(("configfiles", "commands.networks"), "test_configs"),
    **dict.fromkeys((f"commands.{x}" for x in ("evaluate", "extras", "options", "run", "tables")), "test_cli"),
    **dict.fromkeys((f"commands.{x}" for x in ("build", "checks", "fit")), "test_trust"),
    "commands.rebuild": "test_package",
    **dict.fromkeys(("callbacks.health", "envs.guarded", "sanity"), "test_faults"),
    "callbacks.peers": "test_ddp",
    "callbacks.trainer": "test_cli",
    "data.arrays": "test_envs_strict",
    "data.storage": "test_replay",
    **dict.fromkeys(("errors", "types"), "test_cli"),
    "evaluation.film": "test_video",
    **dict.fromkeys((f"kernels.{x}" for x in ("recurrence", "scan", "slopes", "precision")), "test_loops"),
    **dict.fromkeys((f"kernels.{x}" for x in ("dense", "seam", "twins", "watch")), "test_accelerate"),
    "kernels.process": "test_memory",
    "loopstate": "test_resume",
    "nets.actions": "test_outputs",
    "nets.dynamics": "test_rssm",
    "nets.frozen": "test_dreamer",
    "nets.gradients": "test_actor_critic",
    "nets.normalizers": "test_returns",
    "nets.norms": "test_gru",
    "nets.upsample": "test_blocks",
    "ops.onehot": "test_latents",
    "optim.parts": "test_presets",
    "store.atomic": "test_checkpoint",
    "store.replay_files": "test_replay",
    "store.runfolder": "test_checkpoint",
    **dict.fromkeys((f"versions.{x}" for x in ("early", "v1", "v2", "v3_2023")), "test_versions"),
}
ROOM_TESTS = {
    "workshop": "test_compare",
    "workshop.bench": "test_bench",
    "workshop.parity": "test_parity_command",
    "workshop.report": "test_report",
    "workshop.results": "test_runs",
}


@names
def test_the_tests_of_a_module_are_found_by_its_name(path: Path):
    module = path.relative_to(PACKAGE).with_suffix("")
    room, dotted = ".".join(module.parts[:-1]), ".".join(module.parts)
    written = {test.stem for test in Path(__file__).parent.rglob("test_*.py")}
    named = {f"test_{module.stem}", *(f"test_{part}_{module.stem}" for part in module.parts[:-1])}
    elsewhere = {TESTED_IN.get(dotted) or ROOM_TESTS.get(room, ""), f"test_{module.parts[0]}"}
    assert module.stem.startswith("__") or (named | elsewhere) & written, f"{dotted}: where are its tests?"
    assert not (dotted in TESTED_IN and named & written), f"{dotted} has tests of its own now: not in TESTED_IN"


TEXT_FILES = {"read_text": 1, "write_text": 2, "open": 3}  # where their encoding stands among the arguments


@names
def test_text_files_name_their_encoding(path: Path):
    """Else it depends on the machine's locale."""
    for call in calls(path):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        named = len(call.args) >= TEXT_FILES.get(name, 0) or any(word.arg == "encoding" for word in call.keywords)
        if name == "open" and not named:
            owner = ast.unparse(call.func).removesuffix("open").removesuffix(".")
            modes = [arg.value for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
            named = owner in ("os", "self", "webbrowser") or any("b" in mode and len(mode) < 4 for mode in modes)
        assert named, f"{path.name}:{call.lineno}: {ast.unparse(call)}"
