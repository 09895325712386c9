"""A trained agent for other people's Python: numpy in, numpy out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dreamer_lightning import runfolder
from dreamer_lightning.dreamer import Dreamer
from dreamer_lightning.types import UserError

Arrays = dict[str, np.ndarray]


class Agent:
    """Acts and dreams with a trained model.

    Args:
        dreamer: the model, on its device.
        seed: of its draws of latents and actions.
        env_factory: the environments that it was trained in, if known.
        clocks: env_step, agent_step and update of its checkpoint.
    """

    def __init__(self, dreamer: Dreamer, seed: int = 0, env_factory: Any = None, clocks: dict | None = None):
        self.dreamer, self.specs, self.env_factory = dreamer.eval(), dreamer.specs, env_factory
        self.clocks = clocks or {}
        self.generator = torch.Generator(dreamer.device).manual_seed(seed)

    @classmethod
    def load(
        cls, run: Any, checkpoint: Literal["latest", "best"] = "latest", device: str | None = None, seed: int = 0
    ) -> Agent:
        """The agent of a run folder.

        Args:
            run: the folder, or the run that ``fit`` returned.
            checkpoint: the newest one, or the one with the best evaluation.
            device: where it computes; None: the GPU if there is one.
            seed: of its draws.

        Raises:
            UserError: not a run folder, or it holds no complete checkpoint.
        """
        from dreamer_lightning.cli import rebuild

        folder = Path(getattr(run, "dir", run)).expanduser()
        if not runfolder.is_run(folder):
            raise UserError(f"--run: '{folder}' is not a run folder (it has no {runfolder.CONFIG})")
        if checkpoint not in ("latest", "best"):
            raise UserError(f"--checkpoint: '{checkpoint}' is neither 'latest' nor 'best'")
        find = {"best": runfolder.best_checkpoint, "latest": lambda run: runfolder.latest_complete(run, replay=False)}
        found = find[checkpoint](folder)
        if found is None:
            raise UserError(f"--run: '{folder}' holds no complete checkpoint ({checkpoint})")
        state = runfolder.load_tensors(found / runfolder.MODEL)["loop"]
        dreamer, env_factory = rebuild(str(folder))
        dreamer.load_state_dict(state["dreamer"])
        device = device or (torch.accelerator.current_accelerator() if torch.cuda.is_available() else None)
        return cls(dreamer.to(device) if device else dreamer, seed, env_factory, state["clocks"])

    def initial(self, n: int = 1) -> dict[str, Tensor]:
        """The state of ``n`` environments whose episodes begin; opaque, ``act`` gives back the next one."""
        return {**self.dreamer.initial(n), "is_first": torch.ones(n, dtype=torch.bool, device=self.dreamer.device)}

    def act(self, obs: Arrays | np.ndarray, state: dict[str, Tensor], greedy: bool = False) -> tuple[Any, dict]:
        """Chooses actions.

        Args:
            obs: by name [n, ...], or of one environment without the ``n``; a lone observation needs no name.
            state: from ``initial`` where an episode begins, then from ``act``.
            greedy: the most likely action instead of a sample.

        Returns:
            The action and the next state. Continuous actions are float32 in [-1, 1] (the package's environments scale
            them to the task's bounds), discrete ones int64 class numbers, MultiDiscrete ones a vector of them.
        """
        tensors, single = self._tensors(obs, len(state["is_first"]))
        carried = {key: value for key, value in state.items() if key != "is_first"}
        action, carried = self.dreamer.act(tensors, carried, state["is_first"], self.generator, greedy)
        array = self._to_env(action)
        return array[0] if single else array, {**carried, "is_first": torch.zeros_like(state["is_first"])}

    def imagine(self, obs: Arrays | np.ndarray | None, length: int = 100, samples: int = 8, state=None) -> Arrays:
        """Dreams of what comes after an observation, under the policy.

        Args:
            obs: of one environment; None dreams on from a ``state`` that has seen its observation.
            length: steps.
            samples: futures.
            state: of one environment, from ``initial`` or ``act``; None: the observation begins an episode.

        Returns:
            Arrays [samples, length + 1, ...], element 0 is now: each decoded observation (images float in [0, 1]),
            ``reward``, ``cont`` (probability that the episode goes on), ``value``, ``action``.
        """
        state = self.initial(1) if state is None else state
        if obs is not None:
            state = self.act(obs, state)[1]
        start = {key: value[:1].expand(samples, *value.shape[1:]) for key, value in state.items() if key != "is_first"}
        dream = self.dreamer.imagine(start, length, generator=self.generator)
        model = self.dreamer.world_model
        cont = dream.cont / (1 - 1 / model.horizon) if model.contdisc else dream.cont
        found = {**dream.obs, "reward": dream.reward, "cont": cont.clamp(0, 1), "value": dream.value}
        return {key: value.float().cpu().numpy() for key, value in found.items()} | {
            "action": self._to_env(dream.action)
        }

    def _tensors(self, obs: Arrays | np.ndarray, n: int) -> tuple[dict[str, Tensor], bool]:
        """Observations [n, ...] on the device, and whether they came without ``n``."""
        if not isinstance(obs, dict):
            obs = {next(iter(self.specs.obs)): obs}
        missing = [name for name in self.specs.obs if name not in obs]
        if missing:
            raise UserError(f"obs: {', '.join(missing)} missing; the agent was trained on {', '.join(self.specs.obs)}")
        tensors, single = {}, False
        for name, space in self.specs.obs.items():
            array = np.asarray(obs[name], dtype=space.dtype)
            single = n == 1 and array.shape == space.shape
            if not single and array.shape != (n, *space.shape):
                raise UserError(f"obs: {name} has shape {array.shape}, expected {(n, *space.shape)} or {space.shape}")
            tensors[name] = torch.from_numpy(np.ascontiguousarray(array.reshape(n, *space.shape))).to(
                self.dreamer.device
            )
        return tensors, single

    def _to_env(self, action: Tensor) -> np.ndarray:
        """Flat wire actions [*b, a] as an environment takes them: see ``act``."""
        spaces = [self.specs.action[name] for name in sorted(self.specs.action)]
        parts = action.float().cpu().split([space.size for space in spaces], -1)
        if not spaces[0].discrete:
            return torch.cat(parts, -1).clamp(-1, 1).numpy()
        classes = [part.argmax(-1) for part in parts]
        return (classes[0] if len(classes) == 1 else torch.stack(classes, -1)).numpy()
