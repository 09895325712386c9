"""TorchRL's own DreamerV3 learner at our sizes: its networks, losses, optimiser and optimisation step.

Put together from TorchRL 0.14's public classes, with the options that make it the reference's algorithm
(docs/torchrl.md says which). Its image networks are other ones than the reference's default.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict
from tensordict.nn import (
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictSequential,
)
from torch import Tensor, nn
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs.model_based import DreamerEnv
from torchrl.modules import (
    DreamerV3DiscreteActor,
    DreamerV3ImageDecoder,
    DreamerV3ImageEncoder,
    DreamerV3MLP,
    IndependentNormal,
    RSSMPosteriorV3,
    RSSMPriorV3,
    RSSMRolloutV3,
    SymExpTwoHot,
    WorldModelWrapper,
)
from torchrl.objectives import DreamerV3ActorLoss, DreamerV3ModelLoss, DreamerV3ValueLoss, symlog
from torchrl.objectives.dreamer_v3 import DreamerV3Loss, symexp
from torchrl.objectives.utils import SoftUpdate, ValueEstimators
from torchrl.trainers.algorithms import DreamerV3OptimizationStepper, DreamerV3Optimizer

from dreamer_lightning.types import Size, Specs, UserError
from dreamer_lightning.workshop.bench.timing import samples

STOCH, BLOCKS, LAYERS, HORIZON = 32, 8, 3, 333.0
FEAT = ["belief", "state"]  # deter, stoch
AFTER = [("next", "belief"), ("next", "state")]


class Join(nn.Module):
    """A network of several inputs, symlog of each if asked for."""

    def __init__(self, net: nn.Module, squash: bool = False):
        super().__init__()
        self.net, self.squash = net, squash

    def forward(self, *inputs: Tensor) -> Tensor:
        joined = torch.cat(inputs, -1)
        return self.net(symlog(joined) if self.squash else joined)


class Exp(nn.Module):
    """A network that predicts in symlog space, in the units of its target."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, *inputs: Tensor) -> Tensor:
        return symexp(self.net(*inputs).float())


class Bounds(nn.Module):
    """Mean and standard deviation of the reference's continuous policy."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, belief: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = self.net(belief, state).float().chunk(2, -1)
        return mean.tanh(), 0.9 * torch.sigmoid(std + 2) + 0.1


@dataclass
class Plan:
    """Sizes of the learner.

    Args:
        specs: vectors, one image or both; one action, continuous or discrete.
        size: widths.
        imag_length: dreamed steps.
    """

    specs: Specs
    size: Size
    imag_length: int

    def __post_init__(self) -> None:
        images = [space for space in self.specs.obs.values() if space.image]
        spaces = list(self.specs.action.values())
        if len(images) > 1 or len(spaces) != 1:
            raise UserError("--baseline torchrl: its learner takes one image at most, and one action")
        self.vector = sum(space.size for space in self.specs.obs.values() if not space.image)
        self.image = images[0].shape if images else None
        self.action, self.discrete = self.specs.action_dim, spaces[0].discrete
        self.stoch = STOCH * self.size.classes
        self.feat = self.size.deter + self.stoch

    def mlp(self, out: int | None, layers: int, into: int | None = None, outscale: float = 1.0) -> DreamerV3MLP:
        return DreamerV3MLP(into or self.feat, out, depth=layers, num_cells=self.size.units, outscale=outscale)

    def twohot(self, layers: int, keys: list, name: str, prefix: tuple = ()) -> TensorDictSequential:
        logits = (*prefix, f"{name}_logits") if prefix else f"{name}_logits"
        net = TensorDictModule(self.mlp(255, layers, outscale=0.0), keys, [logits])
        return TensorDictSequential(net, TensorDictModule(SymExpTwoHot(255), [logits], [(*prefix, name)]))


def build_learner(plan: Plan, device: torch.device) -> DreamerV3OptimizationStepper:
    """The learner on a device."""
    with torch.device(device):
        prior, posterior, model = world_model(plan)
        reward = plan.twohot(1, FEAT, "reward")
        reward[0].module, cont_net = model[-2][0].module, model[-1].module  # shared with the model
        cont = TensorDictSequential(
            TensorDictModule(cont_net, FEAT, ["continue_logits"]),
            TensorDictModule(nn.Sigmoid(), ["continue_logits"], ["continuation"]),
        )
        transition = TensorDictModule(prior, ["state", "belief", "action"], ["_", "state", "belief"])
        env = DreamerEnv(
            WorldModelWrapper(transition, reward),
            prior_shape=(plan.stoch,),
            belief_shape=(plan.size.deter,),
            device=device,
        )
        env.observation_spec = Composite(state=Unbounded(plan.stoch), belief=Unbounded(plan.size.deter))
        env.state_spec, env.reward_spec = env.observation_spec.clone(), Unbounded((1,))
        env.action_spec = Bounded(-1, 1, (plan.action,))
        actor, value = policy(plan), plan.twohot(LAYERS, FEAT, "state_value")
    return learner(plan, model, actor, value, cont, env, device)


def world_model(plan: Plan) -> tuple[RSSMPriorV3, RSSMPosteriorV3, TensorDictSequential]:
    """Encoder, recurrent model, decoder, reward and continue heads over the keys of transitions."""
    size, encoders, decoders, embed = plan.size, [], [], 0
    if plan.vector:
        net = Join(plan.mlp(None, LAYERS, into=plan.vector), squash=True)
        encoders.append(TensorDictModule(net, [("next", "vector")], [("next", "vector_embed")]))
        back = Exp(plan.mlp(plan.vector, LAYERS))
        decoders.append(TensorDictModule(back, [("next", "state"), ("next", "belief")], [("next", "reco_vector")]))
        embed += size.units
    if plan.image:
        shape = (plan.image[2], *plan.image[:2])
        image = DreamerV3ImageEncoder(shape[0], depth=size.depth)
        encoders.append(TensorDictModule(image, [("next", "pixels")], [("next", "image_embed")]))
        draw = DreamerV3ImageDecoder(plan.feat, shape, depth=size.depth, num_blocks=BLOCKS)
        decoders.append(TensorDictModule(draw, [("next", "state"), ("next", "belief")], [("next", "reco_pixels")]))
        embed += image.output_features(shape)
    sizes: dict[str, Any] = {"hidden_dim": size.hidden, "rnn_hidden_dim": size.deter, "num_categoricals": STOCH}
    sizes |= {"num_classes": size.classes, "unimix": 0.01}
    prior = RSSMPriorV3(
        action_shape=(plan.action,), action_dim=plan.action, recurrent_model="block_gru", num_blocks=BLOCKS, **sizes
    )
    posterior = RSSMPosteriorV3(obs_embed_dim=embed, use_rms_norm=True, **sizes)
    names = [key for module in encoders for key in module.out_keys]
    rollout = RSSMRolloutV3(
        TensorDictModule(
            prior, ["state", "belief", "action"], [("next", x) for x in ("prior_logits", "state", "belief")]
        ),
        TensorDictModule(
            posterior,
            [("next", "belief"), ("next", "encoded_latents")],
            [("next", "posterior_logits"), ("next", "state")],
        ),
    )
    join = TensorDictModule(Join(nn.Identity()), names, [("next", "encoded_latents")])
    cont = TensorDictModule(plan.mlp(1, 1), AFTER, [("next", "continue_pred")])
    reward = plan.twohot(1, AFTER, "reward", ("next",))
    return prior, posterior, TensorDictSequential(*encoders, join, rollout, *decoders, reward, cont)


def policy(plan: Plan) -> ProbabilisticTensorDictSequential:
    """The actor: a normal within bounds, or a categorical."""
    if plan.discrete:
        return DreamerV3DiscreteActor(plan.feat, plan.action, depth=LAYERS, num_cells=plan.size.units, unimix=0.0)
    net = Bounds(plan.mlp(2 * plan.action, LAYERS, outscale=0.01))
    return ProbabilisticTensorDictSequential(
        TensorDictModule(net, FEAT, ["loc", "scale"]),
        ProbabilisticTensorDictModule(
            ["loc", "scale"], ["action"], distribution_class=IndependentNormal, return_log_prob=True
        ),
    )


def learner(
    plan: Plan, model: Any, actor: Any, value: Any, cont: Any, env: DreamerEnv, device: torch.device
) -> DreamerV3OptimizationStepper:
    """Losses, optimiser and slow critic with the reference's coefficients."""
    losses = DreamerV3ModelLoss(
        model,
        kl_mode="separate",
        unimix=0.01,
        lambda_continue=1.0,
        continue_target_scale=1 - 1 / HORIZON,
        reco_symlog=[True] * bool(plan.vector) + [False] * bool(plan.image),
        detach_output=False,
    )
    keys = ["vector"] * bool(plan.vector) + ["pixels"] * bool(plan.image)
    losses.set_keys(pixels=keys, reco_pixels=[f"reco_{key}" for key in keys])
    acting = DreamerV3ActorLoss(
        actor, value, env, continuation_model=cont, imagination_horizon=plan.imag_length, use_reinforce=True
    )
    acting.make_value_estimator(ValueEstimators.TDLambda, gamma=1.0, lmbda=0.95)  # cont holds the discount
    judging = DreamerV3ValueLoss(value, value_loss="two_hot", actor_loss=acting, slow_critic_regularization=1.0)
    whole = DreamerV3Loss(losses, acting.to(device), judging.to(device))
    slow = SoftUpdate(judging, tau=0.02)
    trained = [*model.parameters(), *actor.parameters(), *judging.parameters()]
    return DreamerV3OptimizationStepper(whole, DreamerV3Optimizer(trained), slow, mixed_precision=device.type == "cuda")


def transitions(plan: Plan, b: int, t: int, device: torch.device) -> TensorDict:
    """Random transitions [b, t] in TorchRL's keys."""
    never = torch.zeros(b, t, 1, dtype=torch.bool)
    after: dict[str, Tensor] = {"reward": torch.rand(b, t, 1), "done": never, "terminated": never}
    if plan.vector:
        after["vector"] = torch.randn(b, t, plan.vector)
    if plan.image:
        after["pixels"] = torch.randint(256, (b, t, plan.image[2], *plan.image[:2]), dtype=torch.uint8)
    data = {"state": torch.zeros(b, t, plan.stoch), "belief": torch.zeros(b, t, plan.size.deter)}
    data |= {"action": torch.rand(b, t, plan.action) * 2 - 1, "is_init": never}
    return TensorDict({**data, "next": after}, [b, t]).to(device)


def time_torchrl(plan: Plan, b: int, t: int, device: torch.device, repeats: int) -> dict[str, Any]:
    """Median time of TorchRL's update; on a GPU it compiles and captures, as its defaults are."""
    stepper, data = build_learner(plan, device), transitions(plan, b, t, device)
    start = time.perf_counter()
    compiled, captured = stepper.resolve(device)
    if compiled or captured:
        stepper.warmup(data)
    first = time.perf_counter() - start
    found = samples(lambda: stepper.step(None, data), device, repeats, inner=5 if device.type == "cuda" else 1)
    update = statistics.median(found)
    params = sum(p.numel() for group in stepper.optimizer.param_groups for p in group["params"])
    mode = "+".join(name for name, on in (("compiled", compiled), ("cuda_graph", captured)) if on) or "eager"
    return {
        "update_ms": 1e3 * update,
        "update_ms_min": 1e3 * min(found),
        "update_ms_max": 1e3 * max(found),
        "compile_s": first if compiled or captured else 0.0,
        "params": params,
        "mode": mode,
    }
