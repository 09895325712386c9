"""An environment played against what training asks of it: what holds, what does not, and how to mend it."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import cloudpickle
import gymnasium
import numpy as np
import torch
from gymnasium.utils.env_checker import check_env
from tensordict import TensorDictBase
from torchrl.envs import EnvBase, TransformedEnv, check_env_specs

from dreamer_lightning.envs.base import EnvFactory, specs_of, step
from dreamer_lightning.envs.strict import Strict, flatten, line
from dreamer_lightning.types import UserError

ALIKE = 200  # decisions over which two environments are compared
SLOW = 100.0  # decisions a second
LAYERS = "different from the unwrapped version|Not able to test alternative render modes"  # gymnasium's, no faults here


class Finding(NamedTuple):
    """What one check found.

    Args:
        check: its name.
        state: ``wrong`` keeps from training or spoils it, ``note`` costs something.
        found: what was seen.
        mend: what would be right, empty where nothing needs to be done.
    """

    check: str
    state: Literal["ok", "note", "wrong"]
    found: str
    mend: str = ""


Check = Callable[[EnvFactory, int, int], Iterator[Finding]]


def examine(factory: EnvFactory, steps: int, seed: int) -> list[Finding]:
    """Every check, each with environments of its own.

    Args:
        factory: makes them.
        steps: random decisions that are played.
        seed: of environments and decisions.
    """
    checks = {"rules": rules, "spaces": spaces, "play": play, "seed": seeded, "resume": saved, "travel": travels}
    found: list[Finding] = []
    for name, check in {**checks, "pictures": draws}.items():
        try:
            found += check(factory, steps, seed)
        except (Exception, SystemExit) as error:
            mend = "--faults.numbers mask plays on with 0 in its place" if "NaN" in str(error) else ""
            what = line(error) if isinstance(error, UserError) else f"{type(error).__name__}: {line(error)}"
            found.append(Finding(name, "wrong", what, mend))
    return found


def rules(factory: EnvFactory, steps: int, seed: int) -> Iterator[Finding]:
    """The rules of gymnasium or TorchRL, by their own checkers."""
    env, failed = factory.make(seed), ""
    raw = original(env)
    who = f"{'TorchRL' if raw is None else 'gymnasium'}'s own checker"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            if raw is None:
                check_env_specs(env, seed=seed)
            else:
                check_env(raw.env, skip_render_check=True, skip_close_check=True)
        except Exception as error:
            failed = line(error) or type(error).__name__
    env.close()
    texts = [" ".join(str(each.message).split()) for each in said if each.category is UserWarning]
    for text in dict.fromkeys(text for text in texts if not re.search(LAYERS, text)):
        yield Finding("rules", "note", re.sub(r"\x1b\[\d+m|WARN: ", "", text))
    yield Finding("rules", "wrong" if failed else "ok", f"{who} {f'says: {failed}' if failed else 'finds no error'}")


def spaces(factory: EnvFactory, steps: int, seed: int) -> Iterator[Finding]:
    """What an environment of gymnasium returns beside what its spaces say, over a few episodes."""
    env = factory.make(seed)
    strict = original(env)
    if strict is None:
        return
    raw, outside, ended = strict.env, dict[str, str](), False
    raw.action_space.seed(seed)
    raw.reset()
    for count in range(min(steps, ALIKE)):
        if ended:
            raw.reset()
        obs, _, terminated, truncated, _ = raw.step(raw.action_space.sample())
        ended = terminated or truncated
        for name, space, value in flatten(raw.observation_space, obs, strict.root):
            if name not in outside and (what := stranger(space, np.asarray(value))):
                outside[name] = f"{name} {what} at decision {count + 1}"
    for what in outside.values():
        yield Finding("spaces", "note", what, "say so in observation_space; numbers are taken as they are, not cut")
    if not outside:
        yield Finding("spaces", "ok", "observations are of the shape, type and bounds that the spaces say")
    for layer in layers(raw):
        if isinstance(layer, gymnasium.wrappers.Autoreset):
            yield Finding("reset", "wrong", "the wrapper Autoreset hides the last observations", "leave it out")
    if ended:
        raw.reset()
        raw.step(raw.action_space.sample())
    try:
        raw.reset()
    except Exception as error:
        yield Finding("reset", "note", f"refuses a reset within an episode: {line(error)}")
    env.close()


def stranger(space: gymnasium.Space, value: np.ndarray) -> str:
    """How an observation leaves its space; empty if it does not."""
    if value.shape != space.shape:
        return f"has shape {value.shape}, its space {space.shape}"
    if isinstance(space, gymnasium.spaces.Box):
        outside = (value < space.low) | (value > space.high)
        if outside.any():
            low, high = np.min(space.low), np.max(space.high)
            return f"holds {value[outside].flat[0]:g}, its space goes from {low:g} to {high:g}"
        return f"is {value.dtype}, its space {space.dtype}" if not np.can_cast(value.dtype, space.dtype) else ""
    return "" if space.contains(value) or space.contains(value[()]) else f"holds {value.tolist()}, its space is {space}"


def play(factory: EnvFactory, steps: int, seed: int) -> Iterator[Finding]:
    """Random decisions as training plays them: ends, rewards and speed."""
    env, generator = factory.make(seed), torch.Generator().manual_seed(seed)
    state, actions, begun = env.reset(), specs_of(env).actions, time.perf_counter()
    lengths, ends, rewards = [0], {"terminated": 0, "truncated": 0}, []
    for _ in range(steps):
        state, after = step(env, state, actions.random((), generator))
        lengths[-1] += 1
        rewards.append(float(after["reward"]))
        if after["done"]:
            ends = {name: count + bool(after[name]) for name, count in ends.items()}
            lengths.append(0)
    speed = steps / (time.perf_counter() - begun)
    env.close()
    whole, how = lengths[:-1], ", ".join(f"{count} {name}" for name, count in ends.items())
    if whole:
        yield Finding(
            "play", "ok", f"{steps} random decisions, {len(whole)} episodes of {min(whole)} to {max(whole)}: {how}"
        )
    else:
        mend = "env.time_limit ends them; --steps plays longer"
        yield Finding("play", "note", f"no episode ended in {steps} random decisions", mend)
    told = f"from {min(rewards):g} to {max(rewards):g}"
    constant = min(rewards) == max(rewards) == 0
    mend = "a task whose reward random play never finds is hard; --steps looks longer" if constant else ""
    yield Finding("rewards", "note" if constant else "ok", "always 0" if constant else told, mend)
    mend = "" if speed >= SLOW else "--num_envs 8 --collector.backend process plays several at once"
    yield Finding("speed", "ok" if speed >= SLOW else "note", f"{speed:,.0f} decisions a second, random", mend)


def seeded(factory: EnvFactory, steps: int, seed: int) -> Iterator[Finding]:
    """Two environments of one seed, and one of another."""
    one, two, other = factory.make(seed), factory.make(seed), factory.make(seed + 1)
    apart, count = first_difference(one, two, one.reset(), two.reset(), steps, seed)
    if apart:
        mend = "call super().reset(seed=seed), and draw from self.np_random alone"
        yield Finding("seed", "wrong", f"two of one seed differ in {apart} at decision {count}", mend)
    else:
        yield Finding("seed", "ok", f"two of one seed are equal over {count} decisions")
        apart, _ = first_difference(one, other, one.reset(), other.reset(), steps, seed)
        if not apart:
            yield Finding("seed", "note", "another seed changes nothing", "expected only where nothing is random")
    for env in (one, two, other):
        env.close()


def saved(factory: EnvFactory, steps: int, seed: int) -> Iterator[Finding]:
    """The state of one environment, from which another goes on."""
    one, other, generator = factory.make(seed), factory.make(seed + 1), torch.Generator().manual_seed(seed)
    state, actions = one.reset(), specs_of(one).actions
    other.reset()
    for _ in range(3):
        state, _ = step(one, state, actions.random((), generator))
    kept = factory.get_state(one)
    if kept is None:
        mend = "give it get_state() and set_state(state) of plain numbers and arrays"
        yield Finding("resume", "note", "cannot save its state: a resumed run begins a new episode", mend)
    else:
        factory.set_state(other, kept)
        apart, count = first_difference(one, other, state, state.clone(), steps, seed)
        mend = "get_state must hold all that the next steps depend on"
        told = f"goes on differently in {apart}, {count} decisions after its state was set"
        yield Finding("resume", "wrong", told, mend) if apart else Finding("resume", "ok", "goes on from a saved state")
    one.close()
    other.close()


def travels(factory: EnvFactory, steps: int, seed: int) -> Iterator[Finding]:
    """What makes the environment, on its way to a worker process."""
    try:
        size = len(cloudpickle.dumps(cloudpickle.loads(cloudpickle.dumps(factory))))
    except Exception as error:
        mend = "--collector.backend serial plays it here; keep open files and devices out of kwargs"
        yield Finding("travel", "note", f"cannot travel to a worker process: {line(error)}", mend)
        return
    yield Finding("travel", "ok", f"travels to worker processes in {size:,} bytes")


def draws(factory: EnvFactory, steps: int, seed: int) -> Iterator[Finding]:
    """A picture for videos."""
    env = factory.make(seed, pixels_for_video=True)
    env.reset()
    picture = factory.frame(env)
    env.close()
    if picture is None:
        mend = "for videos, take render_mode and return uint8 [height, width, 3] for rgb_array"
        yield Finding("pictures", "note", f"none{': ' * bool(factory.no_picture)}{factory.no_picture}", mend)
    else:
        good = picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[-1] == 3
        mend = "" if good else "render returns uint8 [height, width, 3]"
        yield Finding("pictures", "ok" if good else "note", f"{picture.dtype} {picture.shape}", mend)


def first_difference(
    one: EnvBase, other: EnvBase, state: TensorDictBase, theirs: TensorDictBase, steps: int, seed: int
) -> tuple[str, int]:
    """Where two environments part under the same random actions: the key (empty: nowhere) and the decision."""
    generator, actions, keys = torch.Generator().manual_seed(seed), specs_of(one).actions, list(specs_of(one).obs)
    apart = difference(keys, state, theirs)
    for count in range(1, min(steps, ALIKE) + 1):
        if apart:
            return apart, count - 1
        action = actions.random((), generator)
        state, after = step(one, state, action)
        theirs, others = step(other, theirs, action)
        apart = difference([*keys, "reward", "done"], after, others)
    return apart, min(steps, ALIKE)


def difference(keys: list[str], one: TensorDictBase, other: TensorDictBase) -> str:
    """The first key in which two differ; empty if there is none."""
    return next((key for key in keys if not torch.equal(one[key], other[key])), "")


def original(env: EnvBase) -> Strict | None:
    """The environment of gymnasium inside, None where there is none."""
    while isinstance(env, TransformedEnv):
        env = env.base_env
    inner: Any = vars(env).get("_env")
    return inner if isinstance(inner, Strict) else None


def layers(env: gymnasium.Env) -> Iterator[gymnasium.Env]:
    """An environment of gymnasium and what it wraps."""
    yield env
    while isinstance(env, gymnasium.Wrapper):
        env = env.env
        yield env
