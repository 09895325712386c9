"""A run that was stopped goes on as if it had not been, through `fit` itself."""

import pytest

import dreamer_lightning

OPTIONS = {
    "env": {"class_path": "dreamer_lightning.envs.Custom", "init_args": {"path": "learnable:Echo"}},
    "num_envs": 1,
    "train_ratio": 64,  # one update a step
    "batch_size": 4,
    "batch_length": 16,
    "learning_starts": 20,
    "imag_length": 3,
    "log_every": 1,
    "evaluation": {"every": 0},
    "checkpoint": {"every": 32},
    "wandb": {"mode": "disabled"},
    "replay": {"online": False},  # a batch of old steps alone: environments begin new episodes
}


def losses(run) -> dict[int, float]:
    steps, values = run.series("loss/total")
    return dict(zip(map(int, steps), values, strict=True))


def test_the_next_loss_after_a_resume_is_that_of_the_undisturbed_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = dreamer_lightning.fit("gym.yaml", "debug.yaml", run_dir="whole", env_steps=72, **OPTIONS)
    cut = dreamer_lightning.fit("gym.yaml", "debug.yaml", run_dir="cut", env_steps=64, **OPTIONS)
    before = losses(cut)
    assert len(before) > 20
    assert all(losses(whole)[step] == value for step, value in before.items())  # same seed, same numbers

    again = dreamer_lightning.fit(resume="cut", env_steps=72)
    after, want = losses(again), losses(whole)
    assert all(after[step] == value for step, value in before.items()), "rows neither lost nor changed"
    # the run stopped before the update that step 64 had paid for; its next row holds that one and the next, as a mean
    assert 64 not in after
    assert after[65] == pytest.approx((want[64] + want[65]) / 2, rel=1e-6)
