"""What a world model knows after some updates on the replay of a finished or running run, which no policy disturbs.

    python benchmarks/world_model.py RUN [--updates 1000] [--lr 4e-5] [--recon 1] [--standardize] [--seed 0]

Trains the default world model (size1m) alone on sequences of the run's newest saved replay, and prints one Markdown row
a quantity: the share of its variance that the posterior's reconstruction explains after 32 steps of a sequence, and
that a dream under the true actions explains 1, 5 and 15 steps later. 1 is perfect, 0 is what the mean would do.
"""

import argparse
from pathlib import Path

import torch

from dreamer_lightning import kernels
from dreamer_lightning.data.replay import Replay
from dreamer_lightning.kernels.process import keep_memory
from dreamer_lightning.optim import LaProp
from dreamer_lightning.store.checkpoint import saved_replay
from dreamer_lightning.store.replay_files import ReplayFiles
from dreamer_lightning.store.runfolder import latest_complete
from dreamer_lightning.types import Latent, Space, Specs
from dreamer_lightning.world_model import SCALES, WorldModel

B, T, SEEN, AHEAD = 16, 64, 32, (1, 5, 15)
KEYS = ("prev_action", "reward", "is_first", "is_last", "is_terminal")


class Study:
    """A world model, the records it learns from, and one update."""

    def __init__(self, run: Path, lr: float, recon: float, standardize: bool, seed: int):
        shard = saved_replay(latest_complete(run))[0]
        streams, capacity = shard.state["streams"], shard.state["streams"] * shard.state["slots"]
        self.replay = Replay(capacity=capacity, batch_size=B, length=T + 1, num_streams=streams, seed=seed)
        ReplayFiles(self.replay, shard.folder).load([shard])
        data = self.replay.data
        data["latent"].zero_()  # those of another model
        specs = Specs(
            {name: Space(tuple(x.shape[2:])) for name, x in sorted(data["obs"].items())},
            {"action": Space((data["prev_action"].shape[-1],))},
        )
        torch.manual_seed(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.model, self.scales = WorldModel(specs, standardize=standardize), {**SCALES, "recon": recon}
        kernels.accelerate(self.model)
        self.optimizer = LaProp(self.model.parameters(), lr=lr)

    def batch(self):
        batch = self.replay.sample()
        index = batch.pop("index")
        carry = self.model.rssm.unpack({key: x[:, 0] for key, x in batch["latent"].items()})
        records = {key: batch[key][:, 1:] for key in KEYS} | {"obs": {k: x[:, 1:] for k, x in batch["obs"].items()}}
        return index, records, carry, self.model.rssm.noise(B, T, generator=self.generator)

    def update(self) -> None:
        index, records, carry, noise = self.batch()
        losses, observed, _ = self.model(records, carry, noise)
        sum(self.scales[key.split("/")[0]] * loss.mean() for key, loss in losses.items()).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.replay.write_latents(index, self.model.rssm.pack(observed.latent))

    @torch.no_grad()
    def explained(self, batches: int = 16) -> dict[str, list[float]]:
        """Shares of variance by quantity: reconstructed after ``SEEN`` steps, and dreamed ``AHEAD``."""
        real: dict[str, list] = {}
        model = self.model.eval()
        for _ in range(batches):
            _, records, carry, noise = self.batch()
            latent = model(records, carry, noise)[1].latent.map(lambda x: x[:, SEEN])
            actions = records["prev_action"][:, SEEN + 1 :]
            noise = model.rssm.noise(B, max(AHEAD), generator=self.generator)
            dream, _ = model.imagine(latent, lambda _, step, played=actions: played[:, step], noise)
            for place in (0, *AHEAD):
                state = Latent(dream.deter[:, place], dream.stoch[:, place])
                seen = model.reconstruct(state) | {"reward": model.predict(state.feat)[0]}
                wanted = {k: x[:, SEEN + place] for k, x in records["obs"].items()}
                wanted["reward"] = records["reward"][:, SEEN + place]
                for name, x in wanted.items():
                    real.setdefault(name, [[] for _ in range(1 + max(AHEAD))])[place].append((x, seen[name]))
        return {name: [share(places[place]) for place in (0, *AHEAD)] for name, places in real.items()}


def share(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Explained share of variance, the mean over a vector's numbers."""
    x, guess = (torch.cat(part).reshape(len(pairs) * B, -1) for part in zip(*pairs, strict=True))
    return float((1 - (x - guess).square().mean(0) / x.var(0)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--updates", type=int, default=1000)
    parser.add_argument("--lr", type=float, default=4e-5)
    parser.add_argument("--recon", type=float, default=1.0, help="scale of the reconstruction losses")
    parser.add_argument("--standardize", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = vars(parser.parse_args())
    updates = options.pop("updates")
    keep_memory()
    study = Study(**options)
    for _ in range(updates):
        study.update()
    print(f"{study.replay.steps} steps of replay, {updates} updates, {options}\n")
    print("| | posterior | " + " | ".join(f"{k} ahead" for k in AHEAD) + " |\n|---|" + "--:|" * (1 + len(AHEAD)))
    for name, shares in study.explained().items():
        print(f"| {name} | " + " | ".join(f"{x:.2f}" for x in shares) + " |")


if __name__ == "__main__":
    main()
