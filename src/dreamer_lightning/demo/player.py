"""One agent on the stage: a real episode, dreams that begin in it, and a person at the controls of both."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamer_lightning import agents
from dreamer_lightning.agent import Agent
from dreamer_lightning.demo.actor import Actor, planners
from dreamer_lightning.demo.stage import dream_step, listed, rounded, thoughts
from dreamer_lightning.envs.base import step
from dreamer_lightning.evaluation.rollout import Episode, own_randomness, rollout
from dreamer_lightning.types import Carried, UserError

LONGEST = 500  # decisions of an episode that are shown
LIMITS = {"length": (1, 200), "samples": (1, 24), "chance": (0.0, 3.0)}


class Player:
    """Plays and dreams with one agent.

    Args:
        agent: a trained one.
        seed: of the environments and draws.
    """

    def __init__(self, agent: Agent, seed: int = 1):
        self.agent, self.dreamer, self.specs = agent, agent.dreamer, agent.dreamer.specs
        self.generator = torch.Generator(self.dreamer.device).manual_seed(seed)
        self.episode: Episode | None = None
        self.seed, self.recorded, self.actor = seed, False, Actor(agent.dreamer)
        self.hand: Hand | None = None

    def about(self) -> dict[str, Any]:
        """What the page says of the agent: task, spaces, size, horizon, and its card if it has one."""
        folder, discount = self.agent.run, self.dreamer.world_model.discount
        card = agents.card(folder) if folder and (folder / agents.CARD).is_file() else {}
        actions = [
            {"name": name, "size": space.size, "classes": space.classes} for name, space in self.specs.actions.items()
        ]
        return {
            "task": card.get("task") or (self.agent.env_factory.name if folder else "agent"),
            "obs": {name: list(space.shape) for name, space in self.specs.obs.items()},
            "actions": actions,
            "parameters": sum(parameter.numel() for parameter in self.dreamer.parameters()),
            "horizon": 1 / (1 - discount.gamma) if discount.gamma < 1 else None,
            "card": card,
            "planners": planners(self.dreamer),
        }

    def play(self, seed: int, greedy: bool = True, actor: str = "") -> dict[str, Any]:
        """Plays a real episode and tells what the model thought of each step.

        Args:
            seed: of the environment.
            greedy: the likeliest actions instead of samples.
            actor: the planner that acts from now on, in dreams and beside a person, too; empty: the policy.

        Raises:
            UserError: the environment cannot be made, and no episode came with the agent.
        """
        self.hand, self.actor = None, Actor(self.dreamer, actor)
        with own_randomness():
            try:
                env = self.environment(seed)
            except (UserError, ImportError) as error:
                self.episode = self.recording(error)
            else:
                generator = torch.Generator(self.dreamer.device).manual_seed(seed)
                played = rollout(self.actor.player(), env, 1, greedy, generator, LONGEST + 1, LONGEST)
                self.episode, self.recorded, self.seed = played[0], False, seed
                env.close()
        return self.told(self.episode)

    def environment(self, seed: int) -> Any:
        factory = self.agent.env_factory
        if factory is None:
            raise UserError("demo: the agent has no run folder, so no environment")
        factory.prepare()
        return factory.make(seed)

    def recording(self, error: Exception) -> Episode:
        """The episode that came with an agent of the package, where its simulator is not installed."""
        path = self.agent.run / agents.EPISODE if self.agent.run else None
        if path is None or not path.is_file():
            raise UserError(f"demo: the environment cannot be made here: {error}") from error
        self.recorded = True
        with np.load(path, allow_pickle=False) as file:
            obs = {name.removeprefix("obs/"): file[name] for name in file if name.startswith("obs/")}
            action, reward, terminated = file["action"], file["reward"], bool(file["terminated"])
        first = torch.zeros(1, len(reward), dtype=torch.bool)
        first[0, 0] = True
        before = torch.from_numpy(np.concatenate([np.zeros_like(action[:1]), action]))[None]
        seen = {name: torch.from_numpy(values)[None] for name, values in obs.items()}
        latent = self.dreamer.observe(seen, before, first, generator=self.generator)
        packed = {name: value[0] for name, value in self.dreamer.world_model.rssm.pack(latent).items()}
        last = {name: value[-1] for name, value in packed.items()}
        return Episode(obs, action, reward, terminated, packed, last, greedy=True)

    @torch.no_grad()
    def told(self, episode: Episode) -> dict[str, Any]:
        """An episode and the model's thoughts on it, as the page takes them."""
        kept, rssm = episode.kept, self.dreamer.world_model.rssm
        latent = rssm.unpack({name: value.to(self.dreamer.device) for name, value in episode.latent.items()})
        seen = {name: torch.from_numpy(values[:kept]).to(self.dreamer.device) for name, values in episode.obs.items()}
        posterior = rssm.post(latent.deter, self.dreamer.world_model.embed(seen))
        return {
            "obs": {name: listed(values[:kept], self.specs.obs[name]) for name, values in episode.obs.items()},
            "reward": rounded(episode.reward[:kept]),
            "action": rounded(episode.action[:kept]),
            "score": episode.score,
            "length": kept,
            "terminated": episode.terminated,
            "recorded": self.recorded,
            "model": thoughts(self.dreamer, latent, posterior),
        }

    def moment(self, start: int, samples: int = 1) -> Carried:
        """The latents [samples, .] of one moment of the episode."""
        if self.episode is None:
            raise UserError("demo: play an episode first")
        start = min(max(0, start), self.episode.kept - 1)
        state = self.episode.state(start)
        packed = {name: value.to(self.dreamer.device)[None] for name, value in state.items() if name != "prev_action"}
        return self.dreamer.world_model.rssm.unpack(packed).map(lambda x: x.expand(samples, -1))

    @torch.no_grad()
    def dream(self, start: int, length: int, samples: int, chance: float, same: bool = False) -> dict[str, Any]:
        """Several futures of one moment of the episode.

        Args:
            start: step of the episode.
            length: steps dreamed.
            samples: futures.
            chance: temperature of latents and actions.
            same: the actions are those of the episode, as long as it goes on.

        Returns:
            As ``thoughts``, [samples, length + 1, ...]; the latent is the first future's.
        """
        length, samples = int(clamp("length", length)), int(clamp("samples", samples))
        chance, latent = clamp("chance", chance), self.moment(start, samples)
        latents, acted, actor = [latent], [], Actor(self.dreamer, self.actor.name)
        taken = self.episode.action[max(0, start) : start + length] if same and self.episode else np.zeros((0, 1))
        for time in range(length):
            if time < len(taken):
                action = torch.from_numpy(taken[time]).to(self.dreamer.device).expand(samples, -1)
            else:
                action = actor(latent, chance, self.generator)
            latent, _ = dream_step(self.dreamer, latent, action, chance, self.generator)
            latents.append(latent)
            acted.append(action)
        dreamed = Carried.stack(latents)
        found = thoughts(self.dreamer, dreamed, self.dreamer.world_model.rssm.prior(dreamed.deter))
        first = self.dreamer.world_model.rssm.prior(dreamed.deter[:1])
        found["latent"] = thoughts(self.dreamer, dreamed.map(lambda x: x[:1]), first, False)["latent"]
        return {"start": start, "action": rounded(torch.stack(acted, 1)), **found}

    def take(self, start: int, chance: float = 1.0) -> dict[str, Any]:
        """Hands over the controls at one moment of the episode: of the dream, and of the environment if it exists."""
        latent = self.moment(start)
        if self.episode is None or self.recorded:
            self.hand = Hand(self, latent, clamp("chance", chance), None, None)
        else:
            with own_randomness():
                env = self.environment(self.seed)
                td = env.reset()
                for action in self.episode.action[:start]:
                    td = step(env, td, torch.from_numpy(action))[0]
            self.hand = Hand(self, latent, clamp("chance", chance), env, td)
        return {"real": self.hand.env is not None}

    def push(self, action: Any) -> dict[str, Any]:
        """One step under a person's action, a number for each place of the flat action; None: the policy's.

        Raises:
            UserError: nobody is at the controls, or the action does not fit.
        """
        if self.hand is None:
            raise UserError("demo: take the controls first")
        with own_randomness():
            return self.hand.push(self.flat(action))

    def flat(self, action: Any) -> Tensor | None:
        if action is None:
            return None
        size = self.specs.action_dim
        if not isinstance(action, list) or len(action) != size or not all(isinstance(x, int | float) for x in action):
            raise UserError(f"demo: an action has {size} numbers")
        layout = self.specs.actions
        given = layout.clip(torch.tensor(action, dtype=torch.float32, device=self.dreamer.device).nan_to_num(0.0))
        return layout.one_hot(layout.numbers(given))


class Hand:
    """A person's hand on a dream and, beside it, on the environment that it began in.

    Args:
        player: whose agent it is.
        latent: where the dream begins, [1, .].
        chance: temperature of its draws.
        env: the environment at the same moment; None: dream alone.
        td: what the environment shows.
    """

    def __init__(self, player: Player, latent: Carried, chance: float, env: Any, td: Any):
        self.player, self.latent, self.real, self.chance, self.env, self.td = player, latent, latent, chance, env, td
        self.actor = Actor(player.dreamer, player.actor.name)

    @torch.no_grad()
    def push(self, action: Tensor | None) -> dict[str, Any]:
        """One step of both under an action [a]; the policy or planner decides in the dream where there is none."""
        dreamer, generator = self.player.dreamer, self.player.generator
        acted = self.actor(self.latent, 0.0, generator) if action is None else action[None]
        self.latent, logits = dream_step(dreamer, self.latent, acted, self.chance, generator)
        found = {"dream": thoughts(dreamer, self.latent, logits), "action": rounded(acted[0])}
        if self.env is not None:
            found["real"] = self.see(acted)
        return found

    def see(self, action: Tensor) -> dict[str, Any]:
        """One step of the environment under an action [1, a], and what the model makes of it."""
        dreamer, rssm = self.player.dreamer, self.player.dreamer.world_model.rssm
        self.td, after = step(self.env, self.td, action[0].cpu())
        obs = {name: after.get(name)[None].to(dreamer.device) for name in dreamer.specs.obs}
        embed, first = dreamer.world_model.embed(obs), torch.zeros(1, dtype=torch.bool, device=dreamer.device)
        noise = rssm.noise(1, generator=self.player.generator)
        self.real, logits = rssm.observe_step(self.real, action, embed, first, noise)
        done = bool(after["done"])
        if done:
            self.close()
        seen = {name: listed(value, dreamer.specs.obs[name]) for name, value in obs.items()}
        model = thoughts(dreamer, self.real, logits)
        return {"obs": seen, "reward": [float(after["reward"])], "done": done, "model": model}

    def close(self) -> None:
        """Lets go of the environment; the dream goes on."""
        if self.env is not None:
            self.env.close()
            self.env = None


def clamp(name: str, value: Any) -> float:
    """A number from the page, within what is allowed for it."""
    low, high = LIMITS[name]
    try:
        return min(max(float(value), low), high)
    except (TypeError, ValueError) as error:
        raise UserError(f"demo: {name} is a number from {low:g} to {high:g}") from error
