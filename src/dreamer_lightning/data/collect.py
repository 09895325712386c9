"""The collector: TorchRL's, with the recurrent policy whose state travels through the environment's primers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.collectors import Collector
from torchrl.envs import EnvBase

from dreamer_lightning.data.explore import Decision, Exploration
from dreamer_lightning.envs.batched import batch_of
from dreamer_lightning.types import EXPLORED, LATENT, PREV_ACTION, Specs

Act = Callable[[dict[str, Tensor], dict[str, Tensor], Tensor, torch.Generator | None], tuple[Tensor, dict[str, Tensor]]]


class CollectorPolicy(TensorDictModuleBase):
    """The acting step as a TensorDict module.

    It reads the observations, ``is_init`` and the state before the step at the root, and writes ``action`` and, below
    ``next``, the state after it; with an exploration also ``explored``, where it played something else than the policy.
    The agent is called, not owned: its weights are always the current ones.

    Args:
        act: ``(obs, state, is_first, generator) -> (action [n, a], state)``, as ``Dreamer.act``.
        specs: the environment's spaces; their observations are handed to ``act``.
        generator: source of the acting noise, on the agent's device.
        device: the agent's device; environments live on the CPU. None: the CPU.
        explore: what is played in place of the policy's action. None: that action.
        agent: what an exploration may look into.
    """

    def __init__(
        self,
        act: Act,
        specs: Specs,
        generator: torch.Generator | None = None,
        device: torch.device | None = None,
        explore: Exploration | None = None,
        agent: Any = None,
    ):
        super().__init__()
        self.specs, self.explore, self._agent = specs, explore, (agent,)  # in a tuple: no module of this one
        self.env_step = self.agent_step = 0  # clocks of the run, for explorations
        self._act, self._names, self.generator, self._device = act, list(specs.obs), generator, device
        self.in_keys = [*self._names, "is_init", LATENT, PREV_ACTION]
        self.out_keys = ["action", ("next", LATENT), ("next", PREV_ACTION)]

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        latent = tensordict.get(LATENT)
        obs = {name: self._in(tensordict.get(name)) for name in self._names}
        state = {name: self._in(value) for name, value in latent.items()}
        state[PREV_ACTION] = self._in(tensordict.get(PREV_ACTION))
        is_first = self._in(tensordict.get("is_init").squeeze(-1))
        action, state = self._act(obs, state, is_first, self.generator)
        if self.explore:
            known = Decision(obs, state, action, is_first, self.env_step, self.agent_step, self.generator, *self._agent)
            own, action = action, self.explore(known)
            tensordict.set(EXPLORED, self._out((action != own).any(-1, keepdim=True)))
        size = tensordict.batch_size
        action = self._out(action)
        latent = TensorDict({name: self._out(value) for name, value in state.items() if name != PREV_ACTION}, size)
        tensordict.set("action", action)
        tensordict.set("next", TensorDict({LATENT: latent, PREV_ACTION: action}, size))
        return tensordict

    def _in(self, value: Tensor) -> Tensor:
        return value if self._device is None else value.to(self._device, non_blocking=True)

    def _out(self, value: Tensor) -> Tensor:
        return value if self._device is None else value.cpu()


def primers(initial: Mapping[str, Tensor]) -> dict[str | tuple[str, str], tuple[tuple[int, ...], torch.dtype]]:
    """What ``make_batched`` must carry for a policy.

    Args:
        initial: the policy's state [n, ...] before the first step, as ``Dreamer.initial(n)``.
    """
    return {
        name if name == PREV_ACTION else (LATENT, name): (tuple(value.shape[1:]), value.dtype)
        for name, value in initial.items()
    }


def make_collector(env: EnvBase, policy: CollectorPolicy, steps: int = 1) -> Collector:
    """TorchRL's collector over a batch of environments (stepped in this process or in workers: ``make_batched``).

    Args:
        env: batch size [num_envs], with ``is_init`` and the policy's primers.
        policy: acts.
        steps: decisions of each environment in one batch.

    Returns:
        An endless iterator over wires [num_envs, steps]; ``shutdown()`` ends it.
    """
    return Collector(
        env,
        policy,
        frames_per_batch=steps * env.batch_size.numel(),
        total_frames=-1,
        trust_policy=True,
        track_traj_ids=False,
        no_cuda_sync=True,
        use_buffers=False,
    )


def carried_state(collector: Collector) -> dict:
    """What the collector carries from batch to batch (observation, latents, flags) as a plain tree of tensors."""
    return _plain(collector._carrier.exclude("action", "next", EXPLORED))


def set_carried_state(collector: Collector, state: Mapping, rows: Sequence[int] | None = None) -> None:
    """Go on from a carried state; the environments' own states are restored elsewhere.

    Args:
        collector: a fresh one.
        state: what ``carried_state`` gave, for the same number of environments.
        rows: the environments that go on, None for all; the others keep what they begin with.

    Raises:
        ValueError: the state belongs to other environments or another policy.
    """
    for key, value in _leaves(state):
        held = collector._carrier.get(key, None)
        if held is None or held.shape != value.shape:
            raise ValueError(
                f"carried state: {key} is {tuple(value.shape)} in the checkpoint and "
                f"{None if held is None else tuple(held.shape)} here"
            )
    for key, value in _leaves(state):
        mixed = value.clone() if rows is None else collector._carrier.get(key).clone()
        if rows is not None:
            mixed[list(rows)] = value[list(rows)]
        collector._carrier.set(key, mixed)


def _plain(tree: TensorDictBase) -> dict:
    return {key: _plain(value) if isinstance(value, TensorDictBase) else value.clone() for key, value in tree.items()}


def _leaves(tree: Mapping, prefix: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Tensor]]:
    leaves: list[tuple[tuple[str, ...], Tensor]] = []
    for key, value in tree.items():
        leaves += _leaves(value, (*prefix, key)) if isinstance(value, Mapping) else [((*prefix, key), value)]
    return leaves


def playing_state(collector: Any, carry: dict[str, Tensor] | None, exact: bool = True) -> dict[str, Any]:
    """What goes on in the environments: their states, what the policy carries, rewards that wait for their record.

    Args:
        collector: this process's, between two batches.
        carry: of ``to_records``.
        exact: False after a batch that broke off: environments and what is carried no longer fit together.
    """
    if hasattr(collector, "settle"):  # it is a batch ahead, which the checkpoint will not have
        collector.settle()
        exact = False
    if not exact:  # what broke off has nothing that could be asked
        return {"carry": None, "carried": {}, "envs": [], "explore": {}}
    explore = collector.policy.explore
    return {
        "carry": None if carry is None else {name: value.clone() for name, value in carry.items()},
        "carried": carried_state(collector),
        "envs": batch_of(collector.env).get_states(),
        "explore": {type(explore).__name__: explore.state_dict()} if explore else {},
    }


def set_playing_state(collector: Any, state: dict[str, Any]) -> tuple[dict[str, Tensor] | None, list[int]]:
    """Go on from what ``playing_state`` gave.

    Returns:
        The carry, and the environments that could not go on: they begin new episodes.
    """
    count = collector.env.batch_size[0]
    if not count:  # nothing is played
        return None, []
    if len(state["envs"]) != count:
        return None, list(range(count))
    anew = batch_of(collector.env).set_states(state["envs"])
    try:
        set_carried_state(collector, state["carried"], [i for i in range(count) if i not in anew])
    except ValueError:  # another policy; nothing has been changed
        return None, list(range(count))
    explore = collector.policy.explore
    known = state.get("explore", {}).get(type(explore).__name__)
    if known:
        explore.load_state_dict(known)
    return state["carry"], anew
