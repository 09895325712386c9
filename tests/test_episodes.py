"""Returns of training episodes."""

from __future__ import annotations

import torch
from tensordict import TensorDict

from dreamer_lightning.callbacks import Episodes
from fakes import FakeLoop


def wire(reward, done, is_init, **logs) -> TensorDict:
    reward, done, is_init = (torch.tensor(x)[..., None] for x in (reward, done, is_init))
    obs = {f"log/{name}": torch.tensor(value) for name, value in logs.items()}
    return TensorDict({"is_init": is_init, "next": {"reward": reward, "done": done, **obs}}, reward.shape[:2])


def rows_of(loop) -> list[dict]:
    seen = []

    class Look:
        def on_log(self, row):
            seen.append(dict(row))

    loop.fabric._callbacks.append(Look())
    return seen


def test_episode_rows_by_hand(tmp_path):
    """Two environments, action repeat 2; one ends in the middle of the second batch and starts anew."""
    loop = FakeLoop(tmp_path, [Episodes()])
    seen = rows_of(loop)
    f, t = False, True
    loop.clocks.agent_step, loop.clocks.env_step = 6, 12
    loop.call(
        "on_collect_end", wire=wire([[1.0, 2, 3], [0, 0, 1]], [[f] * 3] * 2, [[t, f, f]] * 2, goal=[[0.0] * 3] * 2)
    )
    assert seen == []
    loop.clocks.agent_step, loop.clocks.env_step, loop.clocks.update = 12, 24, 5
    batch = wire(
        [[4.0, 5, 6], [1, 1, 1]],
        [[f, t, f], [f, f, t]],
        [[f, f, t], [f, f, f]],
        goal=[[0.0, 7.0, 1.0], [0.0, 0.0, 8.0]],
    )
    loop.call("on_collect_end", wire=batch)
    assert [(r["env_step"], r["agent_step"], r["update"]) for r in seen] == [(20, 10, 5), (24, 12, 5)]
    assert [r["episode/score"] for r in seen] == [15.0, 4.0]
    assert [r["episode/length"] for r in seen] == [10, 12]  # env steps: 5 and 6 decisions, repeat 2
    assert [r["episode/goal"] for r in seen] == [7.0, 8.0]
    assert loop.callbacks[0].state_dict()["score"].tolist()[0] == 6.0


def test_an_episode_cut_off_by_a_resume_is_not_counted_into_the_next(tmp_path):
    first = Episodes()
    loop = FakeLoop(tmp_path, [first])
    f, t = False, True
    loop.call("on_collect_end", wire=wire([[1.0, 2]], [[f, f]], [[t, f]]))
    second = Episodes()
    second.load_state_dict(first.state_dict())
    loop = FakeLoop(tmp_path, [second])
    seen = rows_of(loop)
    loop.call("on_collect_end", wire=wire([[10.0, 20]], [[f, t]], [[t, f]]))
    assert [row["episode/score"] for row in seen] == [30.0]


def test_late_rewards_and_explored_decisions_of_episodes(tmp_path):
    """Action repeat 2, rewards count as late after 4 env steps: at the third decision and later, over a resume too."""
    first, second = Episodes(late=4), Episodes(late=4)
    f, t = False, True
    rewards = [[1.0, 1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]]
    before = wire(rewards, [[f] * 3] * 3, [[t, f, f]] * 3)
    before["explored"] = torch.tensor([[t, t, f], [f, f, f], [f, f, f]])[..., None]
    FakeLoop(tmp_path, [first]).call("on_collect_end", wire=before)
    second.load_state_dict(first.state_dict())
    loop = FakeLoop(tmp_path, [second])
    rows = rows_of(loop)
    after = wire([[0.0], [0.0], [2.0]], [[t]] * 3, [[f]] * 3)
    after["explored"] = torch.tensor([[t], [f], [f]])[..., None]
    loop.call("on_collect_end", wire=after)
    assert [row["episode/late_reward"] for row in rows] == [0, 1, 1]
    assert [row["episode/explored"] for row in rows] == [0.75, 0.0, 0.0]
    loop.call("on_collect_end", wire=wire([[3.0]] * 3, [[t]] * 3, [[t]] * 3))
    assert [row["episode/late_reward"] for row in rows[3:]] == [0, 0, 0]
    assert "episode/explored" not in rows[3]


def test_logged_vectors_are_spread_over_names(tmp_path):
    loop = FakeLoop(tmp_path, [Episodes()])
    seen = rows_of(loop)
    loop.call("on_collect_end", wire=wire([[1.0]], [[True]], [[True]], place=[[[3.0, 4.0]]]))
    assert (seen[0]["episode/place_0"], seen[0]["episode/place_1"]) == (3.0, 4.0)
