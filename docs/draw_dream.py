"""Draws docs/images/dream.webp: CartPole-v1 as it was, and what the shipped agent dreamed from the dashed moment on.

python docs/draw_dream.py
"""

from __future__ import annotations

from math import cos, sin
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from dreamer_lightning import Agent
from dreamer_lightning.demo.player import Player

OUT = Path(__file__).parent / "images" / "dream.webp"
WIDTH, HEIGHT, SCALE = 360, 200, 2
START, LENGTH, FUTURES = 40, 60, 8
BLUE, ORANGE, GREY = (0, 114, 178), (213, 94, 0), (150, 150, 150)


def pole(draw: ImageDraw.ImageDraw, left: int, state: list[float], color: tuple[int, ...]) -> None:
    """A cart and its pole, from position and angle."""
    x, y = left + WIDTH * (0.5 + 0.5 * state[0] / 1.2), HEIGHT * 0.75
    box = [x - 22, y - 10, x + 22, y + 10]
    draw.rectangle([SCALE * each for each in box], fill=color)
    tip = (x + 95 * sin(state[2]), y - 95 * cos(state[2]))
    draw.line([SCALE * each for each in (x, y, *tip)], fill=color, width=7 * SCALE)


def frame(real: list[float], dreams: list[list[float]], time: int) -> Image.Image:
    """Reality at the left; at the right the futures, the first one strong."""
    picture = Image.new("RGBA", (2 * WIDTH * SCALE, HEIGHT * SCALE), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13 * SCALE)
    for left in (0, WIDTH):
        draw.line(
            [left * SCALE, HEIGHT * 0.8 * SCALE, (left + WIDTH) * SCALE, HEIGHT * 0.8 * SCALE], fill=GREY, width=2
        )
    draw.line([WIDTH * SCALE, 0, WIDTH * SCALE, HEIGHT * SCALE], fill=GREY, width=2)
    pole(draw, 0, real, BLUE)
    for i, dream in reversed(list(enumerate(dreams))):
        layer = Image.new("RGBA", picture.size)
        pole(ImageDraw.Draw(layer), WIDTH, dream, (*ORANGE, 255 if i == 0 else 60))
        picture.alpha_composite(layer)
    draw = ImageDraw.Draw(picture)
    draw.text((10 * SCALE, 8 * SCALE), f"reality, step {START + time}", fill=BLUE, font=font)
    draw.text(((WIDTH + 10) * SCALE, 8 * SCALE), f"dream, {time} steps after the last look", fill=ORANGE, font=font)
    return picture.convert("RGB").resize((2 * WIDTH, HEIGHT), Image.Resampling.LANCZOS)


def main() -> None:
    player = Player(Agent.load("CartPole-v1", seed=3), seed=3)
    episode = player.play(3, greedy=False)["obs"]
    futures = player.dream(START, LENGTH, FUTURES, 1.0)["obs"]
    (name,) = episode
    frames = [
        frame(episode[name][START + time], [future[time] for future in futures[name]], time) for time in range(LENGTH)
    ]
    frames[0].save(OUT, save_all=True, append_images=frames[1:], duration=60, loop=0, quality=70, method=6)
    print(OUT, OUT.stat().st_size)


if __name__ == "__main__":
    main()
