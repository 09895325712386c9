"""Videos and pictures of evaluations: files in ``videos/``, handed on to the loggers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from dreamer_lightning.callbacks.base import Callback, LoopView, warn
from dreamer_lightning.store.runfolder import VIDEOS


class Video(Callback):
    """Films one greedy episode and draws an open-loop prediction (truth, model, error), at the first evaluation, at
    some of the later ones and at the end of training.

    Without GL there is no film and no complaint; other reasons are told once. What cannot be drawn is not tried again.

    Args:
        every: evaluations from one set of files to the next, 0 for the end of training only. The first one counts:
            what a film needs (GL, an encoder, its memory) is missing in the first minutes or never.
        film: decisions to film at most, 0 for no film (software rendering takes about 30 ms a frame).
        length: imagined steps of the open-loop prediction, after 5 that the model sees.
        samples: futures drawn in it.
        fps: frames a second.
        keep: number of newest sets of files to keep, 0 for all.
    """

    def __init__(
        self, every: int = 5, film: int = 250, length: int = 45, samples: int = 4, fps: int = 30, keep: int = 10
    ):
        self.every, self.film, self.length, self.samples = every, film, length, samples
        self.fps, self.keep = fps, keep
        self.count, self.failed, self.undrawn = 0, False, False
        self.episodes: Any = None  # of the last evaluation, while not yet drawn

    def on_validation_end(self, loop: LoopView, episodes: Any = None) -> None:
        self.episodes = episodes
        if self.every and self.count % self.every == 0:
            self._write(loop)
        self.count += 1

    def on_train_end(self, loop: LoopView) -> None:
        if self.count and self.episodes is not None:
            self._write(loop)

    def _write(self, loop: LoopView) -> None:
        episodes, self.episodes = self.episodes, None
        if not loop.fabric.is_global_zero:
            return
        from dreamer_lightning.evaluation.rollout import own_randomness

        folder = Path(loop.run_dir) / VIDEOS
        with own_randomness():
            for source in (self._film(loop, folder), self._dream(loop, episodes or [], folder)):
                try:
                    for name, path in source:
                        loop.fabric.call("on_media", loop=loop, name=name, path=path)
                except Exception as error:  # a picture is never worth the run
                    self._tell(f"video not written ({type(error).__name__}: {error}); training goes on")
        with suppress(OSError):
            if self.keep and folder.exists():
                self._prune(folder)

    def _film(self, loop: LoopView, folder: Path) -> Iterator[tuple[str, Path]]:
        if not self.film or self.undrawn:
            return
        self.undrawn = True  # until it is drawn
        from dreamer_lightning.evaluation.pictures import write_video
        from dreamer_lightning.evaluation.rollout import device_of, rollout

        factory = loop.env_factory
        env = factory.make(seed=88_888, pixels_for_video=True)
        try:
            env.reset()
            if factory.frame(env) is None:
                if why := getattr(factory, "no_picture", ""):
                    self._tell(f"no film of episodes: {why}")
                return
            generator = torch.Generator(device_of(loop.dreamer)).manual_seed(0)
            played = rollout(loop.dreamer, env, 1, True, generator, 1, self.film, factory.frame)
        finally:
            env.close()
        self.undrawn = False
        if played and played[0].frames:
            yield "video/episode", write_video(folder / f"{_stem(loop)}-episode.mp4", played[0].frames, self.fps)

    def _dream(self, loop: LoopView, episodes: list[Any], folder: Path) -> Iterator[tuple[str, Path]]:
        episode = next((e for e in episodes if not e.greedy and e.kept > 6), None)
        if episode is None:
            return
        from dreamer_lightning.evaluation.openloop import open_loop
        from dreamer_lightning.evaluation.pictures import (
            dream_figure,
            dream_video,
            image_keys,
            save_figure,
            vector_lines,
            write_video,
        )
        from dreamer_lightning.evaluation.rollout import device_of

        generator = torch.Generator(device_of(loop.dreamer)).manual_seed(0)
        start = max(0, min(episode.kept // 2, episode.kept - self.length - 5))
        dream = open_loop(loop.dreamer, episode, start, 5, self.length, self.samples, generator)
        for key in image_keys(loop.specs, dream):
            path = folder / f"{_stem(loop)}-openloop-{key.replace('/', '_')}.mp4"
            yield f"video/openloop/{key}", write_video(path, dream_video([dream], key), 10)
        if (
            vector_lines(loop.specs, dream.seen, dream.decoded) or not dream.decoded
        ):  # without a decoder: reward, continue and value
            figure = dream_figure(loop.specs, dream)
            yield "video/openloop", save_figure(folder / f"{_stem(loop)}-openloop.png", figure)

    def _tell(self, text: str) -> None:
        if not self.failed:
            warn(text)
        self.failed = True

    def _prune(self, folder: Path) -> None:
        steps = sorted({path.name.split("-")[0] for path in folder.glob("[0-9]*-*")})
        for step in steps[: -self.keep]:
            for path in folder.glob(f"{step}-*"):
                if path.is_file():
                    path.unlink(missing_ok=True)

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


def _stem(loop: LoopView) -> str:
    return f"{int(loop.clocks.env_step):010d}"
