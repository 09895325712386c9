"""Atari games through ale-py, which brings the ROMs (extra ``atari``)."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from torchrl.envs import EnvBase

from dreamer_lightning.envs.base import at_least
from dreamer_lightning.envs.gym import GymSuite
from dreamer_lightning.envs.pictures import resize
from dreamer_lightning.types import UserError

_LUMINANCE = np.array([0.299, 0.587, 0.114])


class Atari(GymSuite):
    """An Atari game; the defaults are those of the Atari 100k benchmark (``embodied/envs/atari.py@2411f7d``).

    Unlike the reference, the time limit truncates an episode and does not terminate it.

    Args:
        task: the game, such as ``pong`` or ``ms_pacman``.
        repeat: frames for each decision; their rewards are summed, and the repeat stops where an episode ends.
        gray: one luminance channel instead of three colours.
        sticky: probability that the console repeats the last action instead (Atari at 200M frames: 0.25).
        actions: ``needed`` by the game, or ``all`` 18.
        noops: an episode begins with a random number of idle frames, up to this many.
        time_limit: frames (not decisions) after which an episode is truncated.
    """

    def __init__(
        self,
        task: str = "pong",
        repeat: int = 4,
        gray: bool = False,
        sticky: float = 0.0,
        actions: str = "needed",
        noops: int = 30,
        time_limit: int | None = 108_000,
        **options: Any,
    ):
        super().__init__(repeat=repeat, pixels=False, vectors=True, time_limit=time_limit, **options)
        if actions not in ("needed", "all"):
            raise UserError(f"env.actions: {actions!r} must be needed or all")
        at_least(1, image_size=self.image_size)
        at_least(0, noops=noops)
        if not 0 <= sticky <= 1:
            raise UserError(f"env.sticky: {sticky} must be a probability, from 0 to 1")
        self.task, self.name = task, f"atari_{task}"
        self.gray, self.sticky, self.actions, self.noops = gray, sticky, actions, noops

    def make(self, seed: int, pixels_for_video: bool = False) -> EnvBase:
        return self.wire(Console(self, _rom(self.task), seed), seed)  # which repeats by itself


class Console(gymnasium.Env):
    """One game on the emulator: repeats the action, shows the maximum of the last two frames (sprites flicker).

    Args:
        settings: the factory whose options count.
        rom: file of the game.
        seed: of the emulator's own randomness (sticky actions).
    """

    render_mode = "rgb_array"

    def __init__(self, settings: Atari, rom: str, seed: int):
        from ale_py import ALEInterface, LoggerMode

        ALEInterface.setLoggerMode(LoggerMode.Error)
        self.settings, self.ale = settings, ALEInterface()
        self.ale.setInt("random_seed", seed)
        self.ale.setFloat("repeat_action_probability", settings.sticky)
        self.ale.loadROM(rom)
        self.codes = self.ale.getMinimalActionSet() if settings.actions == "needed" else self.ale.getLegalActionSet()
        self.action_space = spaces.Discrete(len(self.codes))
        shape = (settings.image_size, settings.image_size, 1 if settings.gray else 3)
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        self.frames = [self.ale.getScreenRGB()]
        self.count = 0

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        self.ale.reset_game()
        for _ in range(self.np_random.integers(self.settings.noops + 1)):
            self.ale.act(0)
            if self.ale.game_over():
                self.ale.reset_game()
        self.frames, self.count = [self.ale.getScreenRGB()], 0
        return self._picture(), self._info()

    def step(self, action: int):
        reward, terminated, truncated = 0.0, False, False
        for _ in range(self.settings.repeat):
            reward += self.ale.act(self.codes[action])
            self.count += 1
            self.frames = [self.frames[-1], self.ale.getScreenRGB()]
            terminated = self.ale.game_over()
            truncated = self.settings.time_limit is not None and self.count >= self.settings.time_limit
            if terminated or truncated:
                break
        return self._picture(), reward, terminated, truncated and not terminated, self._info()

    def render(self) -> np.ndarray:
        return self.frames[-1]

    def get_state(self) -> dict[str, Any]:
        """The console's memory, its random generator included, and what this class keeps."""
        memory = np.frombuffer(self.ale.cloneState(include_rng=True).serialize(), np.uint8)
        return {"memory": memory, "frames": self.frames, "count": self.count}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what ``get_state`` gave."""
        from ale_py import ALEState

        self.ale.restoreState(ALEState(state["memory"].tobytes()))
        self.frames, self.count = list(state["frames"]), state["count"]

    def _picture(self) -> np.ndarray:
        frame = np.maximum.reduce(self.frames)
        small = resize(frame, self.settings.image_size)
        return (small @ _LUMINANCE).astype(np.uint8)[..., None] if self.settings.gray else small

    def _info(self) -> dict[str, float]:
        return {"lives": self.ale.lives(), "frame_number": self.count}


def _rom(task: str) -> str:
    try:
        from ale_py import roms
    except ImportError as error:
        raise UserError("Atari games need ale-py: pip install 'dreamer-lightning[atari]'") from error
    names = roms.get_all_rom_ids()
    task = {"james_bond": "jamesbond"}.get(task, task)  # the benchmark's name for it
    if task not in names:
        near = get_close_matches(task, names, 3) or ["pong", "breakout"]
        raise UserError(f"env.task: no Atari game {task!r}; did you mean {', '.join(near)}?")
    return str(roms.get_rom_path(task))
