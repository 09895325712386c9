"""Open-loop predictions of each evaluation: a plot of vectors, a video of images, handed on to the loggers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dreamer_lightning.callbacks.base import Callback, warn
from dreamer_lightning.runfolder import PLOTS, VIDEOS


class OpenLoop(Callback):
    """Dreams an episode of each evaluation: ``plots/<env_step>-dream.png`` and ``videos/<env_step>-dream_<key>.mp4``.

    Args:
        samples: futures drawn.
        context: agent steps seen before the dream.
        length: agent steps dreamed.
        keep: newest evaluations whose files are kept, 0 for all.
    """

    def __init__(self, samples: int = 4, context: int = 5, length: int = 45, keep: int = 10):
        self.samples, self.context, self.length, self.keep, self.failed = samples, context, length, keep, False

    def on_validation_end(self, loop, episodes: Any = None) -> None:
        played = [episode for episode in episodes or [] if not episode.greedy]
        if not loop.fabric.is_global_zero or not played:
            return
        try:
            paths = self.draw(loop, played[0])
        except (OSError, RuntimeError, ValueError) as error:
            if not self.failed:
                warn(f"open-loop pictures not written ({error}); training goes on")
            self.failed = True
            return
        for name, path in paths.items():
            loop.fabric.call("on_media", loop=loop, name=f"openloop/{name}", path=path)
        if self.keep:
            for folder in (loop.run_dir / PLOTS, loop.run_dir / VIDEOS):
                steps = sorted({path.name.split("-")[0] for path in folder.glob("[0-9]*-dream*")})
                for path in (path for step in steps[: -self.keep] for path in folder.glob(f"{step}-dream*")):
                    path.unlink(missing_ok=True)

    def draw(self, loop, episode) -> dict[str, Path]:
        """Writes the pictures of one episode; their paths by name."""
        from dreamer_lightning.evaluation import pictures
        from dreamer_lightning.evaluation.openloop import open_loop

        step, dreamer = int(loop.clocks.env_step), loop.dreamer
        generator = torch.Generator(dreamer.device).manual_seed(step)
        dream = open_loop(dreamer, episode, 0, self.context, self.length, self.samples, generator)
        title = f"{loop.env_factory.name} at env step {step}: {self.samples} futures"
        stem = loop.run_dir / PLOTS / f"{step:010d}-dream"
        paths = {
            "futures": pictures.save_figure(
                stem.with_suffix(".png"), pictures.dream_figure(dreamer.specs, dream, title)
            )
        }
        for key in pictures.image_keys(dreamer.specs, dream):
            path = loop.run_dir / VIDEOS / f"{step:010d}-dream_{key.replace('/', '_')}.mp4"
            paths[key] = pictures.write_video(path, pictures.dream_video([dream], key))
        return paths
