"""DeepMind Control tasks."""

from __future__ import annotations

from copy import copy
from difflib import get_close_matches
from typing import Any

import numpy as np
from torchrl.envs import EnvBase, TransformedEnv

from dreamer_lightning.envs.base import Suite, at_least
from dreamer_lightning.envs.rendering import import_suite, probe_gl, require_gl, working_gl
from dreamer_lightning.envs.transforms import Wire
from dreamer_lightning.store.environment import fingerprints
from dreamer_lightning.types import UserError

_DOMAINS = {name: name for name in ("ball_in_cup", "point_mass", "humanoid_CMU")} | {"cup": "ball_in_cup"}
_CAMERAS = {"quadruped": 2}


class DMC(Suite):
    """A task of the DeepMind Control suite, such as ``walker_walk``.

    Args:
        task: domain and task joined by an underscore.
        repeat: simulator steps for each decision; their rewards are summed, and the repeat stops where an episode ends.
        camera: number of the camera, -1 for the free one; default 0, for quadruped 2.
        cheap_pixels: draw without shadows, reflections and multisampling: faster, other pictures.
    """

    def __init__(
        self,
        task: str = "walker_walk",
        repeat: int = 2,
        camera: int | None = None,
        cheap_pixels: bool = False,
        **options: Any,
    ):
        super().__init__(repeat=repeat, **options)
        at_least(1, image_size=self.image_size)
        self.name, self.task, self.cheap_pixels = task, task, cheap_pixels
        self.domain, self.job = _split(task)
        self.camera = _CAMERAS.get(self.domain, 0) if camera is None else camera

    def prepare(self) -> None:
        probe_gl()
        if self.pixels:
            require_gl(f"env.task {self.task} with pixels")

    def blind(self) -> DMC:
        twin = copy(self)
        twin.pixels, twin.vectors, twin.hide = False, True, []
        return twin

    def make(self, seed: int, pixels_for_video: bool = False) -> EnvBase:
        self.prepare()
        suite = import_suite()
        from torchrl.envs import DMControlWrapper

        env = self._load(suite, seed)
        cameras = env.physics.model.ncam
        if not -1 <= self.camera < cameras:
            raise UserError(f"env.camera: {self.task} has {cameras} cameras, from 0 up (-1: free), not {self.camera}")
        pristine = fingerprints(env.physics.model.ptr)
        if self.cheap_pixels:
            env.physics.model.vis.quality.offsamples = 0  # read when the first picture makes the GL context
        wrapped = DMControlWrapper(env, frame_skip=self.repeat)
        wrapped.__dict__["pristine"] = pristine  # what a saved state need not hold
        camera = (lambda: self._picture(env, self.image_size, self.image_size)) if self.pixels else None
        shape = (self.image_size, self.image_size, 3)
        return TransformedEnv(wrapped, Wire(wrapped, self.hidden, camera=camera, picture=shape))

    def _load(self, suite, seed: int):
        if (self.domain, self.job) not in suite.ALL_TASKS:
            names = [f"{domain}_{job}" for domain, job in suite.ALL_TASKS]
            near = get_close_matches(self.task, names, 3) or ["walker_walk", "cheetah_run"]
            raise UserError(f"env.task: no dm_control task {self.task!r}; did you mean {', '.join(near)}?")
        options = {"random": np.random.RandomState(seed % 2**32)}
        if self.time_limit is not None:
            seconds = suite.load(self.domain, self.job).control_timestep()
            options["time_limit"] = (self.time_limit - 0.5) * seconds  # half a step: rounding cannot add one
        return suite.load(self.domain, self.job, task_kwargs=options)

    def _picture(self, env, height: int, width: int) -> np.ndarray:
        flags = {"shadow": False, "reflection": False} if self.cheap_pixels else None
        return env.physics.render(height, width, camera_id=self.camera, render_flag_overrides=flags)

    def _frame(self, env: EnvBase) -> np.ndarray | None:
        if working_gl() is None:
            return None
        try:
            return self._picture(env.base_env._env, 240, 320)
        except Exception:  # a video is never worth a run
            return None


def _split(task: str) -> tuple[str, str]:
    for short, domain in _DOMAINS.items():  # names that hold an underscore themselves, or are not the suite's
        if task.startswith(short + "_"):
            return domain, task[len(short) + 1 :]
    domain, _, job = task.partition("_")
    return domain, job
