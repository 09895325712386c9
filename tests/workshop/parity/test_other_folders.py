"""Agents of other sizes, options, observations and actions than those recorded here can be checked too.

There is no recording of them: our own outputs are written down in a first pass, and hold in a second one. What this
shows is that nothing in the checks is made for the sizes, keys and switches of the folder in ``tests/data``.
"""

import copy
import json

import numpy as np
import pytest
import torch

from dreamer_lightning import interop
from dreamer_lightning.workshop.parity import agent, build
from dreamer_lightning.workshop.parity.record import Vectors
from golden import DATA

CASES = {
    "wide": (
        {
            "dyn.rssm.blocks": 4,
            "dyn.rssm.deter": 32,
            "dyn.rssm.classes": 5,
            "dyn.rssm.stoch": 3,
            "dyn.rssm.absolute": True,
            "dyn.rssm.act": "gelu",
            "repval_loss": False,
            "rewhead.bins": 40,
            "value.bins": 6,
            "replay_context": 2,
            "ac_grads": True,
        },
        {"vec": [[3], "float32"], "flag": [[], "bool", 2], "mode": [[2], "int32", 4], "img": [[48, 64, 3], "uint8"]},
        {"z": [[2], "int32", 3], "a": [[], "float32", None]},
        ["mode", "img", "vec", "flag"],
    ),
    "plain": (
        {
            "enc.simple.symlog": False,
            "retnorm.impl": "meanstd",
            "valnorm.impl": "perc",
            "advnorm.impl": "none",
            "replay_context": 0,
            "imag_last": 0,
            "repval_grad": True,
            "contdisc": True,
            "slowvalue.every": 2,
            "dyn.rssm.dynlayers": 0,
            "opt.schedule": "linear",
            "opt.anneal": 6,
        },
        {"x": [[2, 2], "float32"]},
        {"action": [[4], "float32", None]},
        ["x"],
    ),
    "small_image": (
        {
            "dec.simple.bspace": 4,
            "enc.simple.mults": [1, 2, 3],
            "dec.simple.mults": [1, 2, 3],
            "enc.simple.kernel": 3,
            "dec.simple.kernel": 3,
            "opt.agc": 0.0,
            "opt.wd": 0.1,
            "imag_last": 1,
            "repval_loss": False,
            "imag_length": 1,
        },
        {"im": [[32, 32, 1], "uint8"]},
        {"action": [[], "int32", 18]},
        ["im"],
    ),
}
OPT = ("loss", "grad_norm", "grad_rms", "update_rms", "param_rms", "param_count", "updates")
DREAM = ("adv", "adv_mag", "adv_std", "con", "ret", "ret_max", "ret_min", "ret_rate", "rew", "slowval", "tar", "val")
MID = ("tokens", "deter", "post_logit", "imag_deter", "imag_logit")
IMAG = ("con", "rew", "ret", "value", "slowvalue", "policy_loss", "value_loss")


class Recording(Vectors):
    """Vectors that are written instead of compared."""

    def close(self, key, got, *_, **__):
        self.touched.add(key)
        self.arrays[key] = np.array(got.detach().numpy() if isinstance(got, torch.Tensor) else got)

    within = norm = exact = close


class Folder:
    """The inputs of an agent file, random, and a place for every output."""

    def __init__(self, changes, obs, act, order, b=3, t=4):
        with np.load(DATA / "agent_flags.npz") as archive:
            self.config = copy.deepcopy(json.loads(str(archive["flags/config"])))
        for path, value in changes.items():
            *parts, last = path.split(".")
            place = self.config["agent"]
            for part in parts:
                place = place[part]
            place[last] = value
        self.config |= {"obs": obs, "act": act}
        self.specs = build.specs(obs, act, order)
        self.dreamer = build.dreamer(self.config["agent"], self.specs)
        self.rng, self.b, self.t, self.arrays = np.random.default_rng(0), b, t, {}
        self.arrays |= {"own/config": np.array(json.dumps(self.config)), "own/obs_order": np.array(json.dumps(order))}
        self.fill()

    def entry(self, space, lead):
        shape = lead + space.shape
        if space.discrete:
            return self.rng.integers(0, space.classes, shape).astype(bool if space.dtype == "bool" else np.int32)
        if space.dtype == "uint8":
            return self.rng.integers(0, 256, shape).astype(np.uint8)
        return (2 * self.rng.normal(size=shape)).astype(np.float32)

    def obs(self, key, lead):
        for name, space in self.specs.obs.items():
            self.arrays[f"{key}/{name}"] = self.entry(space, lead)
        self.arrays[f"{key}/reward"] = self.rng.normal(size=lead).astype(np.float32)
        for flag in ("is_first", "is_last", "is_terminal"):
            self.arrays[f"{key}/{flag}"] = self.rng.random(lead) < 0.2

    def act(self, key, lead):
        for name, space in self.specs.action.items():
            self.arrays[f"{key}/{name}"] = self.entry(space, lead)

    def carry(self, key, lead):
        rssm = self.dreamer.world_model.rssm
        self.arrays[f"{key}/deter"] = self.rng.normal(size=(*lead, rssm.deter_dim)).astype(np.float32)
        index = self.rng.integers(0, rssm.classes, (*lead, rssm.stoch))
        self.arrays[f"{key}/stoch"] = np.eye(rssm.classes, dtype=np.float32)[index]

    def draws(self, key, b, t):
        rssm, actor = self.dreamer.world_model.rssm, self.dreamer.actor_critic
        n, h = actor.starts(b, t), actor.imag_length
        self.arrays[f"{key}/sample/post_idx"] = self.rng.integers(0, rssm.classes, (b, t, rssm.stoch))
        self.arrays[f"{key}/sample/imag_idx"] = self.rng.integers(0, rssm.classes, (n, h, rssm.stoch))
        self.act(f"{key}/sample/imag_act", (n, h + 1))

    def outputs(self, key, *names):
        self.arrays |= {f"{key}/{name}": np.zeros(()) for name in names}

    def fill(self):
        self.outputs("own", "param_count")
        self.obs("own/obs", (self.b, self.t))
        self.act("own/prevact", (self.b, self.t))
        self.carry("own/carry", (self.b,))
        model, actor = self.dreamer.world_model, self.dreamer.actor_critic
        params = {name: x.numpy() for name, x in interop.dump_agent(model, actor).items()}
        params = {
            name: (x + 0.1 * np.abs(self.rng.normal(size=x.shape))).astype(np.float32) for name, x in params.items()
        }
        norms, repval = list(interop.agent_normalizers(actor)), self.config["agent"]["repval_loss"]
        spaces = self.specs.action
        losses = [*self.specs.obs, "rew", "con", "dyn", "rep", "policy", "value", *["repval"] * repval]
        metrics = [
            *DREAM,
            "weight",
            "dyn_ent",
            "rep_ent",
            *(f"loss/{x}" for x in losses),
            *(f"ent/{x}" for x in spaces),
        ]
        metrics += [f"rand/{name}" for name, space in spaces.items() if not space.shape]
        self.variant(params, norms, losses, metrics, repval)
        self.policy()
        self.train(params, norms, metrics, self.config["agent"]["replay_context"])

    def variant(self, params, norms, losses, metrics, repval):
        key = "own/rand"
        self.arrays |= {f"{key}/param/{name}": x for name, x in params.items()}
        self.draws(key, self.b, self.t)
        self.outputs(key, "total_loss", "carry_after/deter", "carry_after/stoch")
        self.outputs(f"{key}/loss", *losses)
        self.outputs(f"{key}/metric", *metrics)
        self.outputs(f"{key}/mid", *MID)
        self.outputs(f"{key}/imag", *IMAG, *(f"{x}/{name}" for x in ("ent", "logp") for name in self.specs.action))
        self.outputs(f"{key}/replay", *("boot", "ret", "loss") * repval)
        self.outputs(f"{key}/state_after", *norms)
        self.outputs(f"{key}/grad", *(name for name in params if name not in norms and not name.startswith("slowval")))
        self.outputs(f"{key}/gradnorm", "dyn", "enc", "dec", "rew", "con", "pol", "val")

    def policy(self):
        key, rssm = "own/rand/policy", self.dreamer.world_model.rssm
        self.obs(f"{key}/obs", (self.b,))
        self.act(f"{key}/prevact", (self.b,))
        self.act(f"{key}/act", (self.b,))
        self.carry(f"{key}/carry", (self.b,))
        self.outputs(key, "deter")
        self.arrays[f"{key}/sample_idx"] = self.rng.integers(0, rssm.classes, (self.b, rssm.stoch))
        for name, space in self.specs.action.items():
            self.outputs(f"{key}/dist/{name}", "logp", *(["logits"] if space.discrete else ["mean", "std"]))

    def train(self, params, norms, metrics, context, steps=3):
        key, lead = "own/train", (self.b, context + steps)
        self.arrays |= {f"{key}/param0/{name}": x for name, x in params.items()}
        self.obs(f"{key}/data", lead)
        self.act(f"{key}/data", lead)
        self.arrays[f"{key}/data/consec"] = np.tile((np.arange(self.b) > 0)[:, None], (1, lead[1])).astype(np.int32)
        self.arrays[f"{key}/data/stepid"] = self.rng.integers(0, 255, (*lead, 20)).astype(np.uint8)
        if context:
            self.carry(f"{key}/data/dyn", lead)
        self.carry(f"{key}/carry", (self.b,))
        self.act(f"{key}/carry_prevact", (self.b,))
        names = [f"prevact/{name}" for name in self.specs.action]
        self.outputs(f"{key}/resolved", "carry/deter", "carry/stoch", "is_first", "reward", "stepid", *names)
        learned = [name for name in params if name not in norms]
        for step in (1, 2):
            place = f"{key}/step{step}"
            self.draws(place, self.b, steps)
            self.outputs(f"{place}/metric", *metrics, *(f"opt/{x}" for x in OPT))
            self.outputs(f"{place}/state", *norms)
            self.outputs(f"{place}/checksum", *learned)
            self.outputs(f"{place}/param", *learned)
            self.outputs(place, "replay_out/deter", "replay_out/stoch_idx", "carry_after/deter", "carry_after/stoch")


@pytest.mark.parametrize("case", CASES)
def test_any_sizes_options_and_keys_can_be_checked(case):
    recording = Recording("agent_own.npz", Folder(*CASES[case]).arrays)
    for _, job in agent.jobs(recording):
        job()
    vectors = Vectors("agent_own.npz", recording.arrays)
    for _, job in agent.jobs(vectors):
        job()
    assert len(vectors.checks) > 300
    assert [check.key for check in vectors.checks if not check.ok] == []
    assert not vectors.untouched()
