"""A trained agent for other people's Python: numpy in, numpy out."""

from __future__ import annotations

import json
import logging
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from dreamer_lightning import agents, config, configfiles, kernels
from dreamer_lightning.commands.networks import build_dreamer, load_weights
from dreamer_lightning.data.arrays import Arrays, flat_actions, stacked, to_action, to_native, to_tensors
from dreamer_lightning.dreamer import Dreamer
from dreamer_lightning.kernels.process import torch_defaults
from dreamer_lightning.store import atomic, package, runfolder
from dreamer_lightning.types import Specs, UserError

if TYPE_CHECKING:
    from dreamer_lightning.planning import Planner

State = dict[str, Tensor]
log = logging.getLogger("dreamer_lightning")


class Agent:
    """Acts and dreams with a trained model.

    Args:
        dreamer: the model, on its device.
        seed: of its draws of latents and actions.
        run: the run folder that it came from, if any.
        clocks: env_step, agent_step and update of its checkpoint.
    """

    def __init__(self, dreamer: Dreamer, seed: int = 0, run: Path | None = None, clocks: dict | None = None):
        self.dreamer, self.specs, self.run = dreamer.eval(), dreamer.specs, run
        self.clocks = clocks or {}
        self.generator = torch.Generator(dreamer.device).manual_seed(seed)

    @cached_property
    def env_factory(self) -> Any:
        """Makes the environments that it was trained in; None without a run folder."""
        return environment(self.run / runfolder.CONFIG) if self.run else None

    def __repr__(self) -> str:
        size = sum(parameter.numel() for parameter in self.dreamer.parameters()) / 1e6
        actions = ", ".join(f"{name} {list(space.shape) or space.classes}" for name, space in self.specs.action.items())
        seen = ", ".join(f"{name} {list(space.shape)}" for name, space in self.specs.obs.items())
        trained = f", {self.clocks['env_step']} env steps of {self.run}" if self.clocks and self.run else ""
        return f"Agent({size:.1f}M parameters on {self.dreamer.device}; sees {seen}; acts {actions}{trained})"

    @classmethod
    @torch_defaults()
    def load(
        cls, run: Any, checkpoint: Literal["latest", "best"] = "latest", device: str | None = None, seed: int = 0
    ) -> Agent:
        """The agent of a run folder. No environment is made, and no simulator is needed.

        Args:
            run: the folder, the run that ``fit`` returned, a folder that ``save`` wrote, a checkpoint in a run folder
                (its folder or its ``model.pt``), or the name of an agent that comes with the package.
            checkpoint: the newest one, or the one with the best evaluation.
            device: where it computes; None: the GPU if there is one.
            seed: of its draws.

        Raises:
            UserError: not a run folder, no complete checkpoint in it, or one of other networks.
        """
        folder, weights, clocks = saved(Path(getattr(run, "dir", run)).expanduser(), checkpoint)
        configfiles.join_import_path(
            [*configfiles.import_from(folder / runfolder.CONFIG), str(folder / package.MODULES)]
        )
        specs = read_specs(folder)
        if not specs.native:
            log.warning("%s: saved without the environment's action space; actions are in [-1, 1]", folder)
        dreamer = build_dreamer(specs, config.networks_of_run(folder / runfolder.CONFIG))
        load_weights(dreamer, weights, str(folder))
        target = device or (torch.accelerator.current_accelerator() if torch.cuda.is_available() else dreamer.device)
        try:
            dreamer.to(target)
        except (RuntimeError, AssertionError) as error:  # what torch says of devices that it does not have
            raise UserError(f"--device: '{device}' cannot be used: {str(error).splitlines()[0]}") from error
        kernels.accelerate(dreamer)
        return cls(dreamer, seed, folder, clocks)

    def save(self, folder: str | Path) -> Path:
        """Write the agent into a folder of its own, from which ``load`` reads it on any machine: weights
        (safetensors), a card (JSON), config, spaces, own classes. The layout is that of a model repository.

        Raises:
            UserError: the agent came from no run folder.
        """
        if self.run is None:
            raise UserError("save: this agent came from no run folder, so that its config is not known")
        folder = Path(folder).expanduser()
        package.save(folder, self.dreamer, self.clocks, self.run)
        return folder

    @torch_defaults()
    def initial(self, n: int = 1) -> State:
        """The state of ``n`` environments whose episodes begin; opaque, ``act`` gives back the next one."""
        return {**self.dreamer.initial(n), "is_first": torch.ones(n, dtype=torch.bool, device=self.dreamer.device)}

    def reset(self, state: State, done: Any) -> State:
        """The state in which some environments begin their next episode, and the others go on.

        Args:
            state: from ``act``.
            done: [n], true for those whose episode ended; one truth value for all.
        """
        ended = torch.as_tensor(np.asarray(done), dtype=torch.bool, device=self.dreamer.device)
        return {**state, "is_first": state["is_first"] | ended}

    @torch_defaults()
    def act(
        self,
        obs: Any,
        state: State,
        greedy: bool = False,
        scaled: bool = True,
        planner: Planner | str | None = None,
    ) -> tuple[Any, State]:
        """Chooses actions.

        Args:
            obs: what the environment returns [n, ...], or of one environment without the ``n``: by name, nested or not;
                a lone observation needs no name. Pictures are uint8 of any size.
            state: from ``initial`` where an episode begins, then from ``act``.
            greedy: the most likely action instead of a sample.
            scaled: the action as the environment itself takes it; false: as the package's environments do.
            planner: looks ahead in place of the policy: one of ``dreamer_lightning.planning``, or the short name of
                one. The state keeps its plan for the next decision.

        Returns:
            The action and the next state. Scaled actions are in the environment's own space: within its bounds, of its
            type, counted from its start. Of ``n`` environments there is one array for each part of a Dict or Tuple.
            Others are float32 in [-1, 1] where continuous, int64 class numbers where discrete, a vector of these where
            there are several, and the flat vector where both kinds lie side by side.
        """
        device = self.dreamer.device
        tensors, single = to_tensors(self.specs, obs, len(state["is_first"]), device)
        player: Any = self.dreamer
        if planner is not None:
            from dreamer_lightning.planning import Lookahead, named  # most agents never plan

            player = Lookahead(self.dreamer, named(planner))
        action, after = player.act(tensors, _carried(state), state["is_first"], self.generator, greedy)
        after["is_first"] = torch.zeros_like(state["is_first"])
        if scaled and self.specs.native:
            rows = to_native(self.specs, action)
            return rows[0] if single else stacked(rows), after
        array = to_action(self.specs, action)
        return array[0] if single else array, after

    @torch_defaults()
    def imagine(
        self,
        obs: Any,
        length: int = 100,
        samples: int = 8,
        state: State | None = None,
        actions: np.ndarray | None = None,
    ) -> Arrays:
        """Dreams of what comes after an observation, under the policy or under given actions.

        Args:
            obs: of one environment; None dreams on from a ``state`` that has seen its observation.
            length: steps.
            samples: futures.
            state: of one environment, from ``initial`` or ``act``; None: the observation begins an episode.
            actions: played in place of the policy's, [length, ...] for all futures or [samples, length, ...], as
                ``act`` returns them with ``scaled=False``; their length is the dream's.

        Returns:
            Arrays [samples, length + 1, ...], element 0 is now: each decoded observation (images float in [0, 1]),
            ``reward``, ``cont`` (probability that the episode goes on), ``value``, ``action``. An observation that has
            one of these names is called ``obs/NAME``.
        """
        state = self.initial(1) if state is None else state
        if obs is not None:
            state = self.act(obs, state)[1]
        start = {key: value[:1].expand(samples, *value.shape[1:]) for key, value in _carried(state).items()}
        given = None
        if actions is not None:
            given = flat_actions(self.specs, np.asarray(actions), samples).to(self.dreamer.device)
            length = given.shape[1]
        dream = self.dreamer.imagine(start, length, given, self.generator)
        from dreamer_lightning.evaluation.gap import going_on  # these two bring all that plays episodes
        from dreamer_lightning.evaluation.openloop import apart

        cont = going_on(self.dreamer.world_model, dream.cont)
        seen = {apart(name): value for name, value in dream.obs.items()}
        found = {**seen, "reward": dream.reward, "cont": cont, "value": dream.value}
        arrays = {key: value.float().cpu().numpy() for key, value in found.items()}
        return arrays | {"action": to_action(self.specs, dream.action)}

    def dream_env(
        self, num_envs: int | None = None, api: Literal["gymnasium", "torchrl"] = "gymnasium", **options
    ) -> Any:
        """Its world model as an environment, see ``dream_env.dream_env``."""
        from dreamer_lightning.dream_env import dream_env

        return dream_env(self, num_envs, api, **options)


def saved(path: Path, checkpoint: str) -> tuple[Path, dict[str, Tensor], dict[str, Any]]:
    """The folder of a trained agent, its weights and its clocks, from any of the paths that ``load`` takes.

    Raises:
        UserError: no complete checkpoint.
    """
    if checkpoint not in ("latest", "best"):
        raise UserError(f"--checkpoint: '{checkpoint}' is neither 'latest' nor 'best'")
    path = path.parent if path.name == runfolder.MODEL else path
    found = path if (path / runfolder.MANIFEST).is_file() else None
    folder = configfiles.of_run(str(path.parents[1] if found else path), "--run").parent
    if (folder / agents.WEIGHTS).is_file():
        from safetensors.torch import load_file

        return folder, load_file(folder / agents.WEIGHTS), agents.card(folder)
    if found is None and checkpoint == "best":
        found = runfolder.best_checkpoint(folder)
    elif found is None:
        found = runfolder.latest_complete(folder, replay=False)
    elif wrong := runfolder.damage(found):
        raise UserError(f"--run: {wrong}")
    if found is None:
        raise UserError(f"--run: '{folder}' holds no complete checkpoint ({checkpoint})")
    state = atomic.load_tensors(found / runfolder.MODEL)["loop"]
    return folder, state["dreamer"], state["clocks"]


def environment(config_file: Path) -> Any:
    """The environment factory of a run's config."""
    return config.of_run(config_file, only=["env"])["env"]


def read_specs(folder: Path) -> Specs:
    """A run's spaces from its file, so that no simulator is needed; runs without one make an environment for them."""
    try:
        return Specs.from_dict(json.loads((folder / runfolder.SPECS).read_text("utf-8")))
    except FileNotFoundError:
        from dreamer_lightning.commands.build import probe

        return probe(environment(folder / runfolder.CONFIG), seed=0)


def _carried(state: State) -> State:
    return {key: value for key, value in state.items() if key != "is_first"}
