"""The whole path learns: a tiny task from the random policy's return to near its best in under two minutes."""

import pytest

import dreamer_lightning


@pytest.mark.parametrize("gradient", ["Pathwise", pytest.param("ScoreFunction", marks=pytest.mark.slow)])
def test_a_tiny_task_is_learned(gradient, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = dreamer_lightning.fit(
        "gym.yaml",
        "debug.yaml",
        seed=1,
        run_dir=str(tmp_path / "run"),
        env={"class_path": "dreamer_lightning.envs.Custom", "init_args": {"path": "learnable:Echo"}},
        num_envs=4,
        env_steps=3200,
        train_ratio=64,
        batch_size=8,
        batch_length=16,
        learning_starts=200,
        imag_length=3,
        actor_critic={"imag_last": 8, "gradient": gradient},
        size={"deter": 32, "hidden": 32, "classes": 8, "units": 32},
        optimizer={"init_args": {"lr": 2e-3, "warmup": 20}},
        discount={"horizon": 10},
        evaluation={"every": 0},
        checkpoint={"every": 100_000},
        wandb={"mode": "disabled"},
    )
    _, scores = run.series("episode/score")
    assert len(scores) == 200
    random, learned = sum(scores[:12]) / 12, sum(scores[-20:]) / 20
    assert random < 7  # two uniform numbers are 2/3 apart: 16/3 for the uniform policy
    assert learned > 11.2  # of 16: reward 0.7 a step
