"""The measurements as a table for people."""

from __future__ import annotations

from rich.table import Table

from dreamer_lightning.commands.tables import render
from dreamer_lightning.workshop.bench.timing import Measures

LINES = [  # key, what it is, unit, digits
    ("update_ms", "one update", "ms", 1),
    ("update_floor_ratio", "times the floor", "", 2),
    ("floor_ms", "floor: its products alone, each at its own shape", "ms", 1),
    ("peak_rate_floor_ms", "looser bound: {gflop:.2f} GFLOP at {peak_gflops:.0f} GFLOP/s", "ms", 1),
    ("observe_ms", "  observe (encoder, posterior)", "ms", 1),
    ("imagine_ms", "  imagine", "ms", 1),
    ("heads_ms", "  heads and losses, forward", "ms", 1),
    ("backward_ms", "  backward", "ms", 1),
    ("optimizer_ms", "  optimiser and slow critic", "ms", 1),
    ("compile_s", "compiling or capturing", "s", 1),
    ("imagined_steps_per_s", "dreamed steps, their rewards and continues too", "1/s", 0),
    ("decoded_frames_per_s", "decoded frames", "1/s", 0),
    ("act_ms_1", "acting, 1 environment", "ms", 2),
    ("act_ms_8", "acting, 8 environments", "ms", 2),
    ("plan_ms_1", "acting by {planner}, 1 environment", "ms", 2),
    ("replay_sample_ms", "sampling a batch from {replay_steps} steps", "ms", 2),
    ("replay_add_us", "adding a step", "us", 1),
    ("replay_write_ms", "writing latents back", "ms", 2),
    ("env_steps_per_s", "env steps alone, {num_envs} environments", "1/s", 0),
    ("collector_env_steps_per_s", "env steps with policy and collector", "1/s", 0),
    ("loop_env_steps_per_s", "env steps of the whole loop", "1/s", 1),
    ("update_share", "share of the loop's time in updates", "", 3),
    ("peak_rss_mb", "peak memory after the updates", "MB", 0),
    ("peak_gpu_mb", "peak memory of the GPU", "MB", 0),
    ("params", "parameters", "", 0),
]


def table(rows: list[Measures]) -> str:
    """The default row line by line, and the other systems' updates below."""
    own = next(row for row in rows if row["default"])
    b, t = own["batch"]
    n, h = own["dreams"]
    title = f"{own['task']}, batch {b} x {t}, {n} dreams of {h} steps; {own['mode']}, {own['precision']}"
    main = Table(title=title, title_justify="left", caption=f"{own['device_name']}, {own['threads']} threads")
    for column, side in (("", "left"), ("measured", "right"), ("unit", "left")):
        main.add_column(column, justify=side)  # type: ignore[arg-type]
    for key, text, unit, digits in LINES:
        if key in own:
            main.add_row(text.format(**own), f"{own[key]:,.{digits}f}", unit)
    others = Table(title="one update beside it", title_justify="left")
    for column in ("system", "mode", "ms", "times ours", "times the floor"):
        others.add_column(column, justify="left" if column in ("system", "mode") else "right")
    for row in rows[1:]:
        numbers = (row["update_ms"], row["update_ms"] / own["update_ms"], row["update_floor_ratio"])
        others.add_row(row["system"], row["mode"], f"{numbers[0]:,.1f}", *(f"{x:.2f}" for x in numbers[1:]))
    return render(main, others)
