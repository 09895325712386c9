"""The command line: commands, one-line mistakes, own classes, runs and their resumption."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import lightning
import pytest
import torch
import yaml

import dreamer_lightning
from dreamer_lightning import cli, commands, config, configfiles, explain, migration
from dreamer_lightning.arguments import options_of, rewrite
from dreamer_lightning.commands.extras import check_loggers
from dreamer_lightning.commands.options import Duration
from dreamer_lightning.commands.run import Run
from dreamer_lightning.envs import Custom
from dreamer_lightning.store import atomic, runfolder
from dreamer_lightning.types import Count, UserError

OWN = """
import gymnasium, numpy as np, torch
from dreamer_lightning.nets.encoders import Encoder
from dreamer_lightning.types import Count, Specs

class Line(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-9, 9, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = 0.0, 0
        return np.array([self.x, self.t / 9], np.float32), {}

    def step(self, action):
        self.x, self.t = self.x + float(action[0]), self.t + 1
        return np.array([self.x, self.t / 9], np.float32), -abs(self.x), False, self.t >= 20, {}

class Flat(Encoder):
    def __init__(self, specs: Specs, *, width: int = 8):
        super().__init__()
        self.embed_dim, self.net = width, torch.nn.LazyLinear(width)

    def forward(self, obs):
        return self.net(torch.cat([obs[key] for key in sorted(obs)], -1))
""".replace("torch.nn.LazyLinear(width)", "torch.nn.Linear(sum(s.size for s in specs.obs.values()), width)")
MINE = """
env: {class_path: dreamer_lightning.envs.Custom, init_args: {path: "own_classes:Line"}}
encoder: {class_path: own_classes.Flat, init_args: {width: "${size.units}"}}
"""
QUICK = [
    "--evaluation.every=0",
    "--evaluation.random_episodes=0",
    "--wandb.mode=disabled",
    "--train_ratio=64",
    "--log_every=2",
]


@pytest.fixture(scope="module")
def mine(tmp_path_factory) -> Path:
    """A user's folder: classes in a file beside the config that names them."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "own_classes.py").write_text(OWN)
    (folder / "mine.yaml").write_text(MINE)
    return folder


@pytest.fixture(scope="module")
def run(mine: Path) -> Run:
    """A tiny run with the user's own classes, through the Python door."""
    options = dict(part.removeprefix("--").split("=") for part in QUICK)
    return dreamer_lightning.fit(
        mine / "mine.yaml", "debug.yaml", seed=3, updates=4, run_dir=str(mine / "run"), learning_starts=16, **options
    )


def fails(capsys, *args: str) -> str:
    """The one line on stderr of a command that exits with 2 and says nothing else."""
    assert cli.main(list(args)) == 2
    said = capsys.readouterr()
    lines = said.err.strip().splitlines()
    assert len(lines) == 1, lines
    assert not said.out
    return lines[0]


def test_no_arguments_list_commands_and_three_examples(capsys):
    assert cli.main([]) == 0
    said = capsys.readouterr().out
    for command in cli.COMMANDS:
        assert f"  {command} " in said
    assert said.count("\n  dreamer-lightning ") == 3


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_explains_every_option(capsys, command: str):
    assert cli.main([command, "--help"]) == 0
    short = capsys.readouterr().out
    assert short.startswith(f"usage: dreamer-lightning {command}")
    for option in options_of(cli.COMMANDS[command])[1]:
        assert option.help, f"{command} --{option.name} has no help"
        assert f"\n  --{option.name}" in short
    function = config.function_of(cli.COMMANDS[command])
    parser = config.make_parser(command, [function])
    for action in parser._actions:
        assert action.help, f"{command} {action.option_strings} has no help"
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help", "all"])
    assert stop.value.code == 0
    assert "usage: dreamer-lightning" in capsys.readouterr().out


QUICK_LINES = ["--help", "fit --help", "fit --list", "evaluate -h", "fitt", "fit dmc.yaml --lr 1e-4", "fit dcm.yaml"]


@pytest.mark.parametrize("line", QUICK_LINES)
def test_help_and_slips_import_nothing_heavy(line: str):
    command = [sys.executable, "-X", "importtime", "-m", "dreamer_lightning", *line.split()]
    done = subprocess.run(command, capture_output=True, text=True)
    imported = {said.rpartition("|")[2].strip() for said in done.stderr.splitlines()}
    assert "dreamer_lightning.cli" in imported
    assert not imported & {"torch", "lightning", "jsonargparse", "omegaconf", "numpy"}


@pytest.mark.parametrize("config", [[], ["--config", "dmc.yaml"]])
def test_help_of_a_class(capsys, config):
    with pytest.raises(SystemExit) as stop:
        cli.main(["fit", *config, "--optimizer.help", "dreamer_lightning.optim.LaProp"])
    assert stop.value.code == 0
    assert "--optimizer.warmup" in capsys.readouterr().out


def test_print_config_prints_yaml(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["fit", "--config", "dmc.yaml", "--size.units", "32", "--print_config"])
    assert stop.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["value"]["init_args"]["units"] == 32


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("fitt", "unknown command 'fitt' (did you mean fit?)"),
        ("fit", "fit needs a config: --config NAME, one of"),
        ("fit --config", "--config: needs a file after it"),
        ("fit --config dcm.yaml", "--config: no file 'dcm.yaml' (looked in"),
        ("fit --config debug.yaml", "--env is missing"),
        ("fit --config dmc.yaml --env_stepz 3", "unknown option --env_stepz (did you mean --env_steps"),
        ("fit --config dmc.yaml --fabric.callbacks [nowhere.Mine]", "--fabric.callbacks: cannot import nowhere: No"),
        (
            "fit --config dmc.yaml --fabric.callbacks [json.JSONDecodr]",
            "json has no 'JSONDecodr' (did you mean JSONDec",
        ),
        (
            """fit --config dmc.yaml --fabric.callbacks [{"class_path":"test_cli.Watch","init_args":{"nme":1}}]""",
            "--fabric.callbacks: test_cli.Watch cannot be made: ",
        ),
        ("fit --config dmc.yaml --fabric.callbacks [3.5e]", "--fabric.callbacks: cannot import 3: No module named"),
        (
            """fit --config dmc.yaml --fabric.loggers [{"class_path":"lightning.fabric.loggers.CSVLoger"}]""",
            "--fabric.loggers: lightning.fabric.loggers has no 'CSVLoger' (did you mean CSVLogger",
        ),
        (
            "fit dmc.yaml --fabric.loggers [CSVLoger]",
            "lightning.fabric.loggers has no 'CSVLoger' (did you mean CSVLogger",
        ),
        (
            "fit dmc.yaml --fabric.loggers CSVLogger",
            "--fabric.loggers: expected a list such as '[a, b]', got CSVLogger",
        ),
        (
            "fit dmc.yaml --fabric.callbacks [test_cli.Epochs]",
            "Epochs has on_train_epoch_end, which has no moment here",
        ),
        ("fit --config dmc.yaml --size.unit 3", "unknown option --size.unit (did you mean --size.units"),
        ("fit --config dmc.yaml loose", "unknown option loose"),
        ("fit --config dmc.yaml --seed x", "--seed: expected int, got x"),
        ("fit --config dmc.yaml --env_steps lots", "--env_steps: expected a whole number such as 100000, 1e5 or 100K"),
        ("fit --config dmc.yaml --max_time soon", "--max_time: expected a time such as 90s, 10m, 2h"),
        (
            "fit --config dmc.yaml --actor_critic.gradient up",
            "--actor_critic.gradient: expected class by its dotted path, got up",
        ),
        ("fit --config dmc.yaml --env.tsk x", "--env.tsk: DMC has no option 'tsk' (did you mean task?)"),
        ("fit --config dmc.yaml --env.task walkr_walk", "no dm_control task 'walkr_walk'"),
        (
            "fit --config dmc.yaml --encoder.vector.unts 3",
            "--encoder.vector.unts: SymlogMLPEncoder has no option 'unts'",
        ),
        ("fit --config dmc.yaml --encoder.vector.units x", "--encoder.vector.units: expected int, got x"),
        ("fit --config dmc.yaml --encoder nowhere.Mine", "--encoder: No module named 'nowhere'"),
        (
            "fit --config dmc.yaml --encoder torch.nn.Linear",
            "--encoder: Expected 'torch.nn.Linear' to be a subclass of",
        ),
        ("fit --config dmc.yaml --env mine", "--env: expected class by its dotted path, got mine"),
        (
            "fit --config dmc.yaml --replay.storage disk",
            "--replay.storage: expected one of memory, memmap, device, got disk",
        ),
        ("fit --config dmc.yaml --replay.episodes true", "--replay.episodes is --replay EpisodeReplay now"),
        ("fit --config dmc.yaml --replay.seed 3", "--replay.seed: Replay gets its seed from fit itself"),
        ("fit --config dmc.yaml --replay.capacity 1e12", "replay.capacity: 1000000000000 steps need"),
        ("fit --config dmc.yaml --replay.capacity 9", "hold no window of 65 records"),
        (
            "fit --config dmc.yaml --batch_size 3 --actor_critic.imag_length 0",
            "imag_length: 0 is too small; give 1",
        ),
        ("fit --config dmc.yaml --env_steps null", "--env_steps, --updates and --max_time are all unset"),
        ("fit --config dmc.yaml --fabric.accelerator abacus", "--fabric: You selected an invalid accelerator name"),
        ("fit --config dmc.yaml --init_from nowhere", "--init_from: no file or run folder 'nowhere'"),
        ("fit --config dmc.yaml --encoder.keys [depth]", "encoder keys: 'depth' matches no observation"),
        ("fit --config dmc.yaml --trainer.max_steps 9", "--trainer.max_steps: here --updates; gradient steps"),
        ("fit --config dmc.yaml --trainer.magic 9", "--trainer.magic: Fabric runs the loop, there is no Trainer"),
        ("fit --resume nowhere", "--resume: 'nowhere' is not a run folder"),
        ("fit --resume nowhere --run_dir here", "--run_dir: a resumed run stays in its folder, nowhere; drop it"),
        ("fit --config dmc.yaml --env.hide velocity", "--env.hide: expected a list such as '[a, b]', got velocity"),
        ("fit --config dmc.yaml --env.pixels", "--env.pixels: needs a value after it"),
        ("fit --config dmc.yaml --size 7", "--size: takes no '7', it has options below it"),
        ("fit --config dmc.yaml --env_steps 1e999", "--env_steps: expected a whole number below 1e18, got 1e999"),
        ("fit --resume nowhere --config dmc.yaml", "--config: a resumed run keeps its own config.yaml"),
        ("evaluate", "--run is missing"),
        ("evaluate --run nowhere", "--run: 'nowhere' is not a run folder"),
        ("evaluate nowhere", "--run: 'nowhere' is not a run folder"),
        ("diagnose --runs nowhere", "'nowhere' is not a run folder"),
        ("parity", "parity needs a folder of recorded arrays: parity DIR"),
        ("sweep --seeds 0 1 --config dmc.yaml", "--seeds: join them by commas: --seeds 0,1"),
        ("yardstick --algo ppo --resume nowhere", "--resume: a yardstick starts over; drop it"),
        ("evaluate --rnu nowhere", "unknown option --rnu (did you mean --run or --out?)"),
        ("dream --run nowhere", "--run: 'nowhere' is not a run folder"),
        ("fit dmc.yaml --lr 1e-4", "unknown option --lr; here --optimizer.lr"),
        ("fit dmc.yaml --gamma 0.99", "unknown option --gamma; here --discount.horizon, which is 1 / (1 - gamma)"),
        ("fit dmc.yaml --task cheetah_run", "unknown option --task; here --env.task"),
        ("fit dmc.yaml --total_timesteps 1e6", "unknown option --total_timesteps; here --env_steps"),
        ("fit dmc.yaml --devices 2", "unknown option --devices; here --fabric.devices"),
        ("fit dmc.yaml env.task=cheetah_run", "unknown word env.task=cheetah_run; write --env.task cheetah_run"),
        ("fit dmc.yaml --size 12m", "; write --config size/12m.yaml"),
        ("fit dmc.yaml --wandb false", "; write --wandb.mode disabled"),
        ("fit dmc.yaml --env walker_walk", "; a task is named by --env.task"),
        ("fit faithful.yaml", "--env is missing; configs such as dmc.yaml name one, overlays come after them"),
        ("fit dmc.yaml --trainer.devices 2", "--trainer.devices: here --fabric.devices"),
        ("evaluate --lr 3", "unknown option --lr (did you mean --run or --planner?); --help lists all"),
        ("sweep --config dmc.yaml --seeds 0 1 2", "--seeds: join them by commas: --seeds 0,1,2"),
    ],
)
def test_a_mistake_is_one_line(capsys, tmp_path: Path, monkeypatch, line: str, expected: str):
    monkeypatch.chdir(tmp_path)
    assert expected in fails(capsys, *line.split())
    assert not list(tmp_path.iterdir()), "half-written"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "own.yaml holds no options; write lines such as seed: 3"),
        ("seed: 3\nenv: [\n", "own.yaml line 3: expected the node content"),
        ("env_stepz: 3", "config: no option 'env_stepz' (did you mean env_steps?)"),
        ("discount: {horizn: 3}", "config: no option 'discount.horizn' (did you mean discount.horizon"),
        ("actor_critic: {value_aware: off}", "got False (YAML reads off, on, no and yes so: quote them)"),
    ],
)
def test_a_mistake_in_a_config_is_one_line(capsys, tmp_path: Path, text: str, expected: str):
    (tmp_path / "own.yaml").write_text(text)
    assert expected in fails(capsys, "fit", "--config", "dmc.yaml", "--config", str(tmp_path / "own.yaml"))


def test_every_flag_of_trainer_has_a_line_in_the_docs():
    from lightning import Trainer

    table = (Path(__file__).parents[1] / "docs" / "from-trainer.md").read_text()
    rows = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| `")]
    here = {flag: cell for names, cell in rows for flag in re.findall(r"`(\w+)`", names)}
    flags = set(inspect.signature(Trainer.__init__).parameters) - {"self"}
    assert not flags - here.keys(), "add them to docs/from-trainer.md"
    for flag in flags & explain.FOREIGN.keys():  # the table and the command line say the same
        assert re.split(r"[.,; ]", explain.FOREIGN[flag])[0].rstrip("s") in here[flag]


def test_foreign_names_lead_to_options_that_exist():
    parser = config.make_parser("fit", [config.function_of(commands.find("fit"))])
    parsed, _ = config.read(parser, rewrite(commands.find("fit"), ["dmc.yaml"])[0])
    for name, here in explain.FOREIGN.items():
        option = re.match(r"--[\w.]+", here)[0]
        below = option[2:].replace(".", ".init_args.")  # of a class that the config names
        assert option in config.option_names(parser) or below in parsed, (name, here)
        assert f"--{name}" not in config.option_names(parser)


def test_accelerator_that_is_not_there(capsys, tmp_path: Path, monkeypatch):
    import torch

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    said = fails(capsys, "fit", "--config", "dmc.yaml", "--fabric.accelerator", "cuda")
    assert "this machine has no GPU; take auto or cpu" in said
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    said = fails(capsys, "fit", "--config", "dmc.yaml", "--fabric.devices", "3")
    assert "3, but this machine has 2 GPUs" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1e5", 100_000),
        ("1.001M", 1_001_000),
        ("0.067G", 67_000_000),
        ("30K", 30_000),
        ("0.5M", 500_000),
        (7.0, 7),
        (7, 7),
    ],
)
def test_counts(text, number: int):
    assert Count(text) == number


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("1.5h", 5400), ("01:30:00", 5400), (60, 60)])
def test_durations(text, seconds: float):
    assert Duration(text) == seconds


@pytest.mark.parametrize("text", ["1e999", "1.0001K", "1.5", "-3", "x", "1e-3", ""])
def test_no_counts(text: str):
    with pytest.raises(ValueError, match="expected a whole number"):
        Count(text)


def test_own_classes_train_and_are_found_again(run: Run, mine: Path):
    saved = yaml.safe_load((run.dir / "config.yaml").read_text())
    assert saved["import_from"] == [str(mine)]
    assert saved["encoder"]["class_path"] == "own_classes.Flat"
    agent = dreamer_lightning.Agent.load(run)
    assert type(agent.dreamer.world_model.encoder).__name__ == "Flat"
    assert agent.env_factory.path == "own_classes:Line"


def test_an_agent_is_loaded_without_its_environment(run: Run, tmp_path: Path, monkeypatch):
    specs = dreamer_lightning.Agent.load(run).specs
    old = shutil.copytree(run.dir, tmp_path / "old")  # as runs were before they kept their spaces
    (old / runfolder.SPECS).unlink()
    assert dreamer_lightning.Agent.load(old).specs == specs
    monkeypatch.setattr(Custom, "make", None)
    with pytest.raises(TypeError):
        dreamer_lightning.Agent.load(old)
    agent = dreamer_lightning.Agent.load(run)
    assert agent.specs == specs
    action, _ = agent.act({"observation": [0.0, 0.0]}, agent.initial())
    assert action.shape == (1,)
    assert repr(agent).startswith("Agent(0.0M parameters on cpu; sees observation [2]; acts action [1], ")
    assert repr(agent).endswith(f"env steps of {run.dir})")


def test_public_names_are_there_and_cost_nothing_before_they_are_used():
    assert all(getattr(dreamer_lightning, name) for name in dreamer_lightning.__all__)
    code = "import sys, dreamer_lightning; print({'torch', 'numpy', 'jsonargparse'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("script", [False, True])
def test_files_of_the_current_folder_hide_no_library(tmp_path: Path, script: bool):
    for name in ("statistics", "textwrap", "gymnasium", "torch"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong file')")
    start = [dreamer_lightning.__file__.replace("__init__", "__main__")] if script else ["-m", "dreamer_lightning"]
    line = ["--help"] if script else ["fit", "gym.yaml", "--print_config"]
    done = subprocess.run([sys.executable, *start, *line], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", [["--help"], ["fit", "--help"], ["fit", "--list"]])
def test_a_reader_that_has_seen_enough_ends_a_command_quietly(line: list[str]):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "dreamer_lightning", *line], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_own_classes_are_found_by_a_fresh_process(run: Run, tmp_path: Path):
    code = "import sys, dreamer_lightning as d; agent = d.Agent.load(sys.argv[1]); "
    code += "print(type(agent.dreamer.world_model.encoder).__name__)"
    command = [sys.executable, "-c", code, str(run.dir)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout.split()[-1:] == ["Flat"], done.stderr


class Watch:
    """A callback; any object is one."""

    def __init__(self, name="watch"):
        self.name, self.updates = name, 0

    def on_train_batch_end(self):
        self.updates += 1


def test_callbacks_from_python_are_called_beside_those_by_class_path(run: Run, mine: Path, tmp_path: Path):
    from lightning.fabric.loggers import CSVLogger

    options = dict(part.removeprefix("--").split("=") for part in QUICK)
    watch = Watch()
    fabric = {"callbacks": [watch, "test_cli.Watch"], "loggers": [CSVLogger(tmp_path, "csv")]}
    configs = (mine / "mine.yaml", "debug.yaml")
    new = dreamer_lightning.fit(
        *configs, updates=2, run_dir=tmp_path / "r", learning_starts=16, fabric=fabric, **options
    )
    assert watch.updates == 2
    assert list((tmp_path / "csv").rglob("metrics.csv"))
    assert yaml.safe_load((new.dir / "config.yaml").read_text())["fabric"]["callbacks"] == ["test_cli.Watch"]
    again = dreamer_lightning.fit(resume=new, updates=3, fabric={"callbacks": [watch]})
    assert (again.metrics[-1]["update"], watch.updates) == (3, 3)


class Epochs(lightning.Callback):
    """A callback of Trainer's with a hook that does not exist here."""

    def on_train_epoch_end(self, trainer, pl_module):
        raise AssertionError("never called")


class Lines(lightning.Callback):
    """A callback of Trainer's that stops the run at an update."""

    def __init__(self):
        self.seen: list[tuple] = []

    def on_fit_start(self, trainer, pl_module):
        self.seen.append(("start", type(pl_module).__name__, trainer.is_global_zero))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append((trainer.global_step, batch_idx, "loss/dyn" in outputs))
        trainer.should_stop = trainer.global_step == 2

    def state_dict(self):
        return {"seen": len(self.seen)}


def test_a_callback_of_trainers_is_called_where_the_moment_is_the_same(mine: Path, tmp_path: Path):
    options = dict(part.removeprefix("--").split("=") for part in QUICK)
    lines = Lines()
    configs = (mine / "mine.yaml", "debug.yaml")
    options |= {"run_dir": tmp_path / "r", "learning_starts": 16, "fabric": {"callbacks": [lines]}}
    run = dreamer_lightning.fit(*configs, updates=9, **options)
    assert lines.seen == [("start", "Dreamer", True), (1, 0, True), (2, 1, True)]
    assert run.metrics[-1]["update"] == 2


def test_a_logger_by_its_short_name_writes_into_the_run(mine: Path, tmp_path: Path):
    options = dict(part.removeprefix("--").split("=") for part in QUICK)
    loggers = check_loggers(["CSVLogger", {"class_path": "TensorBoardLogger", "init_args": {"name": "tb"}}], tmp_path)
    assert [str(logger.root_dir) for logger in loggers] == [str(tmp_path), str(tmp_path)]
    options |= {"run_dir": tmp_path / "r", "learning_starts": 16, "fabric": {"loggers": ["TensorBoardLogger"]}}
    dreamer_lightning.fit(mine / "mine.yaml", "debug.yaml", updates=2, **options)
    assert list((tmp_path / "r").rglob("events.out.tfevents*"))


def test_a_logger_whose_package_is_missing_is_one_line(monkeypatch, tmp_path: Path):
    monkeypatch.setattr("lightning.fabric.loggers.tensorboard._TENSORBOARD_AVAILABLE", False)
    monkeypatch.setattr("lightning.fabric.loggers.tensorboard._TENSORBOARDX_AVAILABLE", False)
    with pytest.raises(UserError, match="--fabric.loggers: TensorBoardLogger cannot be made: Neither `tensorboard`"):
        check_loggers(["TensorBoardLogger"], tmp_path)


def test_an_object_that_is_no_option_is_refused():
    with pytest.raises(UserError, match="env.task: a Watch is no option's value; give its class_path"):
        dreamer_lightning.fit("dmc.yaml", env={"task": Watch()})


def test_own_classes_are_found_where_import_from_says(capsys, run: Run, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copy = tmp_path / "copy.yaml"  # away from the classes, as a run's own config is
    copy.write_text((run.dir / "config.yaml").read_text())
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder != str(run.dir.parent)])
    monkeypatch.delitem(sys.modules, "own_classes")
    options = config.parse("fit", ["--config", str(copy)])[1]
    assert options["import_from"] == [str(tmp_path), str(run.dir.parent)]
    (tmp_path / "bare.yaml").write_text(MINE)
    options = config.parse("fit", ["--config", "bare.yaml", "--import_from", str(run.dir.parent)])[1]
    assert options["import_from"] == [str(run.dir.parent), str(tmp_path)]


def test_own_class_without_types(capsys, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "untyped_class.py").write_text(
        OWN.replace("specs: Specs", "specs").replace("class Flat", "class Plain")
    )
    (tmp_path / "plain.yaml").write_text(MINE.replace("own_classes.Flat", "untyped_class.Plain"))
    said = fails(capsys, "fit", "--config", "plain.yaml")
    assert "untyped_class.Plain.__init__: give its parameter 'specs' a type" in said


def test_the_python_door_gives_rows(run: Run):
    steps, scores = run.series("episode/score")
    assert len(scores) > 0
    assert steps == sorted(steps)
    assert run.metrics[-1]["update"] == 4


def test_a_run_is_not_overwritten(capsys, run: Run, mine: Path):
    said = fails(capsys, "fit", "--config", str(mine / "mine.yaml"), "--run_dir", str(run.dir))
    assert f"--resume {run.dir}" in said


def test_a_finished_run_says_so_and_a_larger_limit_goes_on(capsys, run: Run):
    before = (run.dir / "metrics.csv").read_text()
    assert cli.main(["fit", "--resume", str(run.dir)]) == 0
    assert "is finished (4 of 4 updates)" in capsys.readouterr().out
    assert (run.dir / "metrics.csv").read_text() == before
    assert cli.main(["fit", f"--resume={run.dir}", "--updates", "6"]) == 0
    assert "resumed at update 4" in capsys.readouterr().out
    assert run.metrics[-1]["update"] == 6
    assert yaml.safe_load((run.dir / "config.yaml").read_text())["updates"] == 6


def test_a_run_whose_time_is_over_says_what_goes_on_with_it(capsys, run: Run):
    assert cli.main(["fit", "--resume", str(run.dir), "--max_time", "0.1s", "--updates", "99"]) == 0
    assert "of 0 seconds); a larger --max_time goes on with it" in capsys.readouterr().out


def test_a_class_in_the_place_of_another_is_told_the_sizes_or_a_line_says_so(capsys, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sized.py").write_text(
        "from dreamer_lightning.nets.rssm import BlockRSSM\nclass Mine(BlockRSSM):\n    pass\n"
    )
    (tmp_path / "sized.yaml").write_text("rssm: {class_path: sized.Mine, init_args: {hidden: 16}}")
    config.parse("fit", ["gym.yaml", "sized.yaml", "--rssm.classes", "4"])
    said = capsys.readouterr().err
    assert "note: rssm: sized.Mine takes its own sizes; init_args {deter: ${size.deter}} give it those" in said
    for name in configfiles.presets():
        config.parse("fit", [name])
    assert not capsys.readouterr().err


def test_resuming_other_shapes_names_tensors(capsys, run: Run):
    before = (run.dir / "config.yaml").read_text()
    said = fails(capsys, "fit", "--resume", str(run.dir), "--updates", "9", "--rssm.hidden", "24")
    assert "world_model.rssm" in said
    assert " saved, " in said
    assert (run.dir / "config.yaml").read_text() == before


def test_resuming_with_another_optimizer_is_refused_and_ruins_nothing(capsys, run: Run):
    before = (run.dir / "config.yaml").read_text()
    said = fails(capsys, "fit", "--resume", str(run.dir), "--updates", "9", "--optimizer", "torch.optim.Adam")
    assert "--optimizer: torch.optim.Adam, but the run's state is of dreamer_lightning.optim.LaProp" in said
    assert (run.dir / "config.yaml").read_text() == before


def test_a_yardsticks_run_has_no_agent(capsys, tmp_path: Path):
    (tmp_path / "config.yaml").write_text("seed: 0\nalgo: ppo\n")
    for line in (["evaluate", str(tmp_path)], ["fit", "--resume", str(tmp_path)]):
        assert "is a run of yardstick, which keeps no agent" in fails(capsys, *line)


def test_without_a_checkpoint_it_starts_over(capsys, run: Run, tmp_path: Path):
    (tmp_path / "config.yaml").write_text((run.dir / "config.yaml").read_text())
    assert cli.main(["fit", "--resume", str(tmp_path), "--updates", "1"]) == 0
    assert "no complete checkpoint" in capsys.readouterr().out
    assert Run(tmp_path).metrics[-1]["update"] == 1


def test_init_from_loads_what_fits(capsys, run: Run, mine: Path, tmp_path: Path):
    args = ["--config", str(mine / "mine.yaml"), "--config", "debug.yaml", "--updates", "1", "--learning_starts", "16"]
    args += [*QUICK, "--init_from", str(run.dir), "--rssm.hidden", "24", "--run_dir", str(tmp_path / "new")]
    assert cli.main(["fit", *args]) == 0
    said = capsys.readouterr().out
    assert "initialised " in said
    assert ", skipped world_model.rssm" in said
    weights = [
        atomic.load_tensors(runfolder.latest_complete(folder) / "model.pt")["loop"]["dreamer"]
        for folder in (run.dir, tmp_path / "new")
    ]
    kept = [name for name in weights[1] if name.startswith("world_model.encoder")]
    assert kept
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in kept)  # the first update changes nothing
    with pytest.raises(UserError, match="no file or run folder"):
        dreamer_lightning.fit(mine / "mine.yaml", init_from="nowhere", run_dir=str(tmp_path / "newer"))
    assert not (tmp_path / "newer").exists()


@pytest.fixture
def moved(monkeypatch):
    """As if an option had lain elsewhere in the version before."""
    monkeypatch.setitem(migration.MOVED, "losses.slots", "replay.capacity")
    monkeypatch.setitem(migration.MOVED, "rate", "optimizer.init_args.lr")


def test_a_config_of_before_is_read_with_todays_options(moved, tmp_path: Path):
    (tmp_path / "old.yaml").write_text("losses: {slots: 300, rep: 0.9}\nrate: 2e-4\n")
    options = config.parse("fit", ["dmc.yaml", str(tmp_path / "old.yaml")])[1]
    assert options["replay"].keywords["capacity"] == 300
    assert options["losses"].rep == 0.9
    assert options["optimizer"].keywords["lr"] == 2e-4


def test_an_option_that_moved_is_taken_and_says_where_it_is(moved, capsys):
    words = ["dmc.yaml", "--losses.slots", "300", "--rate=2e-4"]
    options = config.parse("fit", words)[1]
    assert (options["replay"].keywords["capacity"], options["optimizer"].keywords["lr"]) == (300, 2e-4)
    told = capsys.readouterr().err.splitlines()
    assert told == ["note: --losses.slots is --replay.capacity now", "note: --rate is --optimizer.lr now"]


@pytest.mark.parametrize(
    ("old", "kind", "keywords"),
    [
        ("{capacity: 5K, deter: bfloat16, episodes: false, prioritize_ends: false}", "Replay", {"deter": "bfloat16"}),
        ("{capacity: 5K, online: false, episodes: true, prioritize_ends: true}", "EpisodeReplay", {"online": False}),
        ("{prioritize_ends: true, capacity: 5K}", "EpisodeReplay", {"prioritize_ends": True}),
    ],
)
def test_the_replay_was_chosen_by_a_switch_once(tmp_path: Path, old: str, kind: str, keywords: dict):
    (tmp_path / "old.yaml").write_text(f"replay: {old}")
    text = config.parse("fit", ["dmc.yaml", str(tmp_path / "old.yaml")])[1]["config_text"]
    replay = yaml.safe_load(text)["replay"]
    assert replay["class_path"].rpartition(".")[2] == kind
    assert replay["init_args"].items() >= (keywords | {"capacity": 5000}).items()


TOY = '''
from dreamer_lightning.commands import Command
from dreamer_lightning.envs import EnvFactory

greet = Command("greet", "say hello to some people", "toy_commands:say", words="names")
spaces = Command("spaces", "name an environment", "toy_commands:name_env", takes="fit", configs=("gym.yaml",))
broken = 3


def say(names: list[str], loud: bool = False) -> str:
    """Say hello.

    Args:
        names: of people.
        loud: shout.
    """
    text = "hello " + " and ".join(names)
    return text.upper() if loud else text


def name_env(options: dict, prefix: str = "env") -> str:
    """Name an environment.

    Args:
        options: of fit.
        prefix: before its name.
    """
    return f"{prefix} {options['env'].name}"
'''


@pytest.fixture
def toy(tmp_path: Path, monkeypatch) -> None:
    """Another package, as installed as an entry point needs it."""
    info = tmp_path / "toy_commands-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy_commands\nVersion: 1.0\n")
    points = "\n".join(f"{name} = toy_commands:{name}" for name in ("greet", "spaces", "broken", "absent"))
    (info / "entry_points.txt").write_text(f"[{commands.GROUP}]\n{points}\nfit = toy_commands:greet\n")
    (tmp_path / "toy_commands.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "toy_commands", raising=False)


def test_another_package_adds_commands(toy, capsys):
    assert cli.main(["greet", "Ada", "--loud", "Alan"]) == 0
    assert capsys.readouterr().out == "HELLO ADA AND ALAN\n"
    assert cli.main(["spaces", "--env.task", "Pendulum-v1", "--prefix", "task"]) == 0
    assert capsys.readouterr().out == "task Pendulum-v1\n"
    assert cli.main(["greet", "--help"]) == 0
    assert "--loud               shout. (False)" in capsys.readouterr().out
    assert "did you mean --loud?" in fails(capsys, "greet", "--lood", "Ada")


def test_a_command_that_cannot_be_loaded_says_so_and_harms_no_other(toy, capsys):
    assert cli.main([]) == 0
    said = capsys.readouterr().out
    assert "greet      say hello to some people" in said
    assert "toy_commands:broken is a int, no Command" in said
    assert "toy_commands:absent cannot be imported" in said
    assert commands.find("fit").target == "dreamer_lightning.commands.fit:fit"
    assert "command absent: toy_commands:absent cannot be imported" in fails(capsys, "absent")


def test_help_of_a_part_alone_tells_of_the_class_that_the_configs_name():
    assert rewrite(commands.COMMANDS["fit"], ["--encoder.help"])[0][-1] == (
        "--encoder.help=dreamer_lightning.nets.encoders.DictEncoder"
    )
    given = rewrite(commands.COMMANDS["fit"], ["--config", "gym.yaml", "--env.help"])[0]
    assert "--env.help=dreamer_lightning.envs.Gym" in given
    with pytest.raises(UserError, match="--replay.help: needs a class after it; --replay is the replay buffer"):
        rewrite(commands.COMMANDS["fit"], ["--replay.help"])


@pytest.fixture(scope="module")
def umlaut(tmp_path_factory) -> Path:
    """A short run in a folder whose name is not ASCII."""
    folder = tmp_path_factory.mktemp("runs") / "über"
    env = {"class_path": "dreamer_lightning.envs.counting.Counting", "init_args": {"lengths": [20, 25]}}
    options = {"env": env, "updates": 2, "learning_starts": 40, "wandb": {"mode": "disabled"}}
    cli.fit("dmc.yaml", "debug.yaml", run_dir=str(folder), **options)
    return folder


@pytest.mark.parametrize(
    "line", [["evaluate", "--episodes", "1", "--starts", "4"], ["fit", "--updates", "3", "--resume"], ["diagnose"]]
)
def test_a_locale_without_these_letters(umlaut, line):
    plain = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    words = [*line, str(umlaut)] if line[-1] == "--resume" else [line[0], str(umlaut), *line[1:]]
    command = [os.fsencode(word) for word in (sys.executable, "-m", "dreamer_lightning", *words)]
    done = subprocess.run(command, capture_output=True, env={**os.environ, **plain})
    assert done.returncode in ((0, 1) if line[0] == "diagnose" else (0,)), done.stderr.decode()[-2000:]
    told = done.stdout.decode("ascii")
    assert "Traceback" not in done.stderr.decode()
    if line[0] == "evaluate":
        assert "+----" in told  # a table
        assert "\\xfcber" in told
