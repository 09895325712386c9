"""MBPO: SAC of stable-baselines3 on real steps and on short dreams of a world model that is trained beside it.

Source: Janner et al. 2019 (arXiv 1906.08253). There an ensemble predicts observations; here the config's own world
model does: dreams begin at its latents of replayed states, and SAC sees what is decoded. SAC itself is the library's.
"""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from dreamer_lightning import kernels
from dreamer_lightning.commands.build import build_replay, example_record
from dreamer_lightning.commands.networks import build_dreamer
from dreamer_lightning.data.records import STREAM
from dreamer_lightning.envs.view import GymView
from dreamer_lightning.evaluation.gap import going_on
from dreamer_lightning.optim import Parts
from dreamer_lightning.schedule import Ratio
from dreamer_lightning.types import LATENT, OBS, UserError

REAL = 0.05  # of SAC's batches, the share of real steps
UPDATES = 20  # of SAC for each step played
KEPT = 100_000  # dreamed steps, the newest
LENGTHS = (1, 5)  # of dreams at the run's beginning and at its end; between it grows evenly


class DreamSource:
    """Keeps what was played, trains a world model on it, and dreams on from replayed states under SAC's policy.

    Args:
        view: the environment as SAC sees it.
        options: those of ``fit``: networks, optimizer, replay, batches, train ratio.
        decisions: steps that the run plays.
        device: where it computes.
        folder: where a memory-mapped replay goes.

    Attributes:
        policy: SAC's, which acts in dreams.
        dreams: observations, actions, next observations, ends, rewards; the newest steps. None before there are any.

    Raises:
        UserError: observations that it cannot hand to SAC.
    """

    def __init__(self, view: GymView, options: dict[str, Any], decisions: int, device: torch.device, folder: Path):
        self.numbers, self.decisions, self.device = view.numbers, decisions, device
        self.policy: Any = None
        if view.pictures:
            raise UserError(f"--algo mbpo: SAC sees decoded numbers, and {view.pictures[0]!r} is a picture; take sac")
        dreamer = build_dreamer(view.specs, options).to(device)
        kernels.accelerate(dreamer)
        self.model, self.scales = dreamer.world_model, dreamer.scales
        rssm: Any = self.model.rssm
        self.rssm = rssm
        missing = set(view.numbers) - set(self.model.reconstruct(rssm.initial(1)))
        if missing:
            raise UserError(
                f"--decoder.keys: mbpo shows SAC what is decoded, and {min(missing)!r} is not; leave it out"
            )
        self.optimizer = options["optimizer"](Parts(self.model))
        b, t, seed = options["batch_size"], options["batch_length"], options["seed"]
        self.replay = build_replay(options["replay"], folder, b, t, 1, seed, device)
        starts = options["learning_starts"]
        self.ratio = Ratio(options["train_ratio"], b * t, b * t if starts is None else starts)
        self.generator = torch.Generator(device).manual_seed(seed)
        self.example = TensorDict(example_record(view.specs, dreamer), [1])
        self.dreams: tuple[Tensor, ...] | None = None
        self.steps, self.begins, self.loss = 0, True, torch.zeros(())

    @property
    def length(self) -> int:
        """Steps of a dream now."""
        first, last = LENGTHS
        return min(last, first + int((last - first + 1) * self.steps / self.decisions))

    def metrics(self) -> dict[str, float]:
        """For a row of metrics.csv."""
        return {"model/loss": float(self.loss), "model/dream_length": self.length}

    def step(self, obs: Tensor, after: Tensor, action: Tensor, reward: float, done: bool, cut: bool) -> None:
        """A step was played: keep it, and train and dream as the train ratio says.

        Args:
            obs: what SAC saw, [o].
            after: what it then saw, [o], the episode's last observation if that ended.
            action: what it did, [a].
            reward: for that.
            done: the episode ended.
            cut: by a time limit.
        """
        if self.begins:
            self.keep(obs, torch.zeros_like(action), 0.0, is_first=True)
        self.keep(after, action, reward, is_last=done, is_terminal=done and not cut)
        self.begins, self.steps = done, self.steps + 1
        if not self.ratio.learning:
            if not self.ratio.enough(len(self.replay)):
                return
            self.ratio.begin(0)
        self.ratio.play(1)
        while self.ratio.due:
            self.ratio.pay()
            self.update()

    def keep(self, obs: Tensor, action: Tensor, reward: float, **flags: bool) -> None:
        """One record into the replay."""
        record = self.example.clone()
        record[OBS].update(
            {name: value[None].to(record[OBS, name]) for name, value in self.numbers.numbers(obs).items()}
        )
        record.update(
            {"prev_action": action[None], "reward": torch.tensor([reward]), STREAM: torch.zeros(1, dtype=torch.int64)}
        )
        self.replay.extend(record.update({name: torch.tensor([value]) for name, value in flags.items()}))

    def update(self) -> None:
        """Train the world model on a batch, and dream on from the batch's states."""
        batch = self.replay.sample()
        index, batch = batch.pop("index"), batch.to(self.device)
        rssm, (b, t) = self.rssm, index.shape
        carry, records = rssm.unpack(dict(batch[LATENT][:, 0].items())), batch[:, 1:]
        seen = {**dict(records.items()), OBS: dict(records[OBS].items())}
        losses, observed, _ = self.model(seen, carry, rssm.noise(b, t - 1, generator=self.generator))
        loss = sum(self.scales[name.split("/")[0]] * value.mean() for name, value in losses.items())
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.loss = loss.detach()
        self.replay.write_latents(index, rssm.pack(observed.latent))
        self.dream(observed.latent.detach().map(lambda x: x.flatten(0, 1)), records.reshape(-1))

    @torch.no_grad()
    def dream(self, latent: Any, records: TensorDict) -> None:
        """Dreams from replayed states [n, .], each until it ends; their steps join ``dreams``."""
        alive = ~records["is_last"]  # what follows an episode's end is another one
        obs, model, found = self.numbers.one_hot(dict(records[OBS].items())), self.model, []
        for _ in range(self.length):
            obs, latent = obs[alive], latent.map(lambda x, alive=alive: x[alive])
            if not len(obs):
                break
            action = self.policy._predict(obs, deterministic=False)
            latent, _ = self.rssm.imagine_step(latent, action, self.rssm.noise(len(obs), generator=self.generator))
            reward, cont = model.predict(latent.feat)
            alive = torch.rand(len(obs), generator=self.generator, device=self.device) < going_on(model, cont)
            after = self.numbers.one_hot(model.reconstruct(latent))
            found.append((obs, action, after, (~alive).float()[:, None], reward[:, None]))
            obs = after
        if found:
            old = [self.dreams] if self.dreams else []
            self.dreams = tuple(torch.cat(parts)[-KEPT:] for parts in zip(*old, *found, strict=True))


def build_mbpo(
    library: Any, view: GymView, options: dict[str, Any], decisions: int, folder: Path
) -> tuple[Any, DreamSource]:
    """The library's SAC over a replay that mixes in dreams, and where these come from."""
    from stable_baselines3.common.buffers import ReplayBuffer

    class Mixed(ReplayBuffer):
        """Real steps and dreamed ones."""

        source: DreamSource

        def add(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: Any) -> None:
            super().add(obs, next_obs, action, reward, done, infos)
            seen, after, did = (torch.as_tensor(x[0]).float() for x in (obs, next_obs, action))
            cut = bool(infos[0].get("TimeLimit.truncated", False))
            self.source.step(seen, after, did, float(reward[0]), bool(done[0]), cut)

        def sample(self, batch_size: int, env: Any = None) -> Any:
            dreams = self.source.dreams
            if dreams is None:
                return super().sample(batch_size, env)
            real = super().sample(max(1, round(REAL * batch_size)), env)
            rows = torch.randint(len(dreams[0]), (batch_size - len(real.rewards),), device=dreams[0].device)
            pairs: Any = zip_longest(real, dreams)  # what the library has besides these five is None
            mixed: Any = (None if x is None else torch.cat([x, y[rows]]) for x, y in pairs)
            return type(real)(*mixed)

    sizes: dict[str, Any] = {"buffer_size": min(1_000_000, decisions), "gradient_steps": UPDATES}
    model = library.SAC("MlpPolicy", view, seed=options["seed"], verbose=0, replay_buffer_class=Mixed, **sizes)
    source = DreamSource(view, options, decisions, model.device, folder)
    source.policy, model.replay_buffer.source = model.policy, source
    return model, source
