"""The commands: one function each, imported when it is asked for."""

from __future__ import annotations

COMMANDS = {
    "fit": "train an agent, or go on with a run (--resume DIR)",
    "evaluate": "play episodes with a trained agent: table, video, evaluation.json",
    "dream": "imagine from a trained agent's world model, beside reality",
    "parity": "compare every number with recordings of the reference implementation",
    "compare": "show runs beside published learning curves: tables, figure, CSV",
    "diagnose": "look at a run's metrics: values, expected ranges, what to try",
    "yardstick": "train PPO, SAC or DQN of stable-baselines3 on the same environment",
    "sweep": "run fit for several seeds: --seeds 0,1,2 [--jobs 2] and the options of fit",
    "bench": "measure how fast this machine trains, and where the time goes",
}
HOMES = {  # modules of the commands that are not commands.NAME
    "bench": "workshop.bench.command",
    "compare": "workshop.compare",
    "diagnose": "workshop.diagnose",
    "parity": "workshop.parity.command",
    "sweep": "workshop.sweep",
    "yardstick": "workshop.yardstick",
}
TAKES = {"bench": "fit", "yardstick": "fit"}  # commands that take another one's options too, as one dict
PLACES = {  # words without an option
    "parity": " FOLDER",
    "compare": " RUN [RUN ...]",
    "diagnose": " RUN",
    "sweep": " --seeds 0,1,2 --config NAME",
}
EXAMPLES = """examples:
  dreamer-lightning fit --config quickstart.yaml
  dreamer-lightning fit --config dmc.yaml --config size/12m.yaml --env.task cheetah_run --seed 3
  dreamer-lightning evaluate --run runs/NAME --episodes 10"""
