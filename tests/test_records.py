"""The time door, on an environment whose numbers say where they came from."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from dreamer_lightning.data import CollectorPolicy, make_collector, primers, to_records
from dreamer_lightning.envs.base import specs_of
from dreamer_lightning.envs.batched import make_batched
from dreamer_lightning.envs.counting import Counting


def counting_act(obs, state, is_first, generator):
    """Latent = (steps since the reset as the latent counts them, the index it saw); a random action."""
    deter = torch.where(is_first[:, None], 0.0, state["deter"])
    deter = torch.stack([deter[:, 0] + 1, obs["count"][:, 0]], 1)
    action = torch.rand(len(is_first), 2, generator=generator)
    return action, {"deter": deter, "stoch": deter[:, :1].to(torch.uint8), "prev_action": action}


def start(lengths, truncate, envs, steps, seed=0, backend="serial"):
    """A collector over counting environments."""
    zero = torch.zeros(envs, 2)
    carried = primers({"deter": zero, "stoch": zero[:, :1].to(torch.uint8), "prev_action": zero})
    env = make_batched(Counting(lengths, truncate), envs, seed, backend, carried)
    policy = CollectorPolicy(counting_act, specs_of(env), torch.Generator().manual_seed(seed))
    return make_collector(env, policy, steps)


def streams_of(records):
    """Records of each stream."""
    return [records[records["stream"] == i] for i in records["stream"].unique()]


def joined(batches):
    """All records of each stream, over several batches."""
    return [torch.cat(parts) for parts in zip(*(streams_of(batch) for batch in batches), strict=True)]


@settings(max_examples=15, deadline=None)
@given(
    episodes=st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=1, max_size=3),
    envs=st.integers(1, 3),
    steps=st.integers(1, 5),
)
def test_every_number_is_with_its_step(episodes, envs, steps):
    lengths, truncate = zip(*episodes, strict=True)
    collector = start(lengths, truncate, envs, steps)
    carry, batches = None, []
    for _, wire in zip(range(20 // steps + 2), collector, strict=False):
        records, carry = to_records(wire, carry)
        batches.append(records)
    collector.shutdown()
    for stream in joined(batches):
        check_stream(stream, lengths, truncate)


def check_stream(stream, lengths, truncate):
    count, episode = stream["obs", "count"][:, 0], stream["obs", "count"][:, 1].long()
    index, number = 0, 0
    for i in range(len(stream)):  # every frame 0..length of every episode, once, in order
        turn = number % len(lengths)
        over = index == lengths[turn]
        assert count[i] == index
        assert episode[i] == number
        assert bool(stream["is_first"][i]) == (index == 0)
        assert bool(stream["is_last"][i]) == over
        assert bool(stream["is_terminal"][i]) == (over and not truncate[turn])
        expected = [0.0, 0.0] if over else [index + 1.0, float(index)]
        assert stream["latent", "deter"][i].tolist() == expected
        index, number = (0, number + 1) if over else (index + 1, number)
    assert torch.equal(stream["reward"], count)  # the counting env rewards the index it arrives at; 0 at the first
    assert torch.equal(stream["prev_action"], stream["obs", "echo"])
    assert stream["obs", "count"][:, 2].unique().numel() == 1


def by_hand():
    """One stream, three steps; the second ends the episode by truncation."""
    size = (1, 3)

    def column(*values):
        return torch.tensor(values, dtype=torch.float32).reshape(1, 3, 1)

    done = column(0, 1, 0).bool()
    return TensorDict(
        {
            "x": column(10, 11, 20),
            "log/speed": column(1, 2, 3),
            "is_init": column(1, 0, 1).bool(),
            "latent": TensorDict({"deter": column(0, 0.5, 0), "stoch": column(0, 1, 0).to(torch.uint8)}, size),
            "prev_action": column(0, 0.1, 0),
            "action": column(0.1, 0.2, 0.3),
            "next": TensorDict(
                {
                    "x": column(11, 12, 21),
                    "log/speed": column(2, 3, 4),
                    "reward": column(1, 2, 3),
                    "done": done,
                    "truncated": done,
                    "terminated": torch.zeros_like(done),
                    "latent": TensorDict({"deter": column(0.5, 0.6, 0.7), "stoch": column(1, 2, 3).byte()}, size),
                    "prev_action": column(0.1, 0.2, 0.3),
                },
                size,
            ),
        },
        size,
    )


def test_the_diagram_by_hand():
    wire = by_hand()
    before = wire.clone()
    records, carry = to_records(wire, {"reward": torch.tensor([9.0])})
    assert records["obs", "x"][:, 0].tolist() == [10, 11, 12, 20]
    torch.testing.assert_close(records["prev_action"][:, 0], torch.tensor([0, 0.1, 0.2, 0]))
    assert records["reward"].tolist() == [0, 1, 2, 0]
    assert records["is_first"].tolist() == [True, False, False, True]
    assert records["is_last"].tolist() == [False, False, True, False]
    assert not records["is_terminal"].any()
    torch.testing.assert_close(records["latent", "deter"][:, 0], torch.tensor([0.5, 0.6, 0, 0.7]))
    assert records["latent", "stoch"][:, 0].tolist() == [1, 2, 0, 3]
    assert records["latent", "stoch"].dtype == torch.uint8
    assert carry["reward"].tolist() == [3]
    assert set(records["obs"].keys()) == {"x"}  # log/* is for the log
    assert (wire == before).all()


def test_the_reward_crosses_batches():
    wire = by_hand()
    wire["is_init"][:] = False
    records, _ = to_records(wire, {"reward": torch.tensor([9.0])})
    assert records["reward"].tolist() == [9, 1, 2, 2]  # the step after an end is a reset in reality: see by_hand
