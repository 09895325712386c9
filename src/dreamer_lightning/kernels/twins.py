"""The fast twins of plain layers and heads. Each computes what its plain class does; what decides is in `watch`.

Asked at each call is only what a call decides: how many rows, whether there is a gradient, type, device, autocast, and
whether a compiler or tracer is at work.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from dreamer_lightning.kernels import dense, fused
from dreamer_lightning.kernels.watch import Parts, Twin, Watched, exact, look_again
from dreamer_lightning.nets.blocks import MLP, BlockLinear, Linear, RMSNorm
from dreamer_lightning.nets.heads import SymlogTwoHotHead, TwoHotHead
from dreamer_lightning.nets.latents import Categorical
from dreamer_lightning.nets.outputs import SymlogTwoHot, TwoHot
from dreamer_lightning.ops.scalars import twohot_encode


class WatchedList(Watched, nn.ModuleList):
    plain = nn.ModuleList

    def insert(self, index: int, module: nn.Module) -> None:
        super().insert(index, module)
        look_again()


class WatchedNorm(Watched, RMSNorm):
    plain = RMSNorm


class WatchedBlockLinear(Watched, BlockLinear):
    plain = BlockLinear


class FastLinear(Twin, Linear):
    """Many rows by `dense.c`."""

    plain = Linear

    @classmethod
    def reads(cls, module: Linear) -> Parts | None:
        return () if exact(module, Linear) else None

    def forward(self, x: Tensor) -> Tensor:
        return dense.linear(x, self.weight, self.bias)


class FastMLP(Twin, MLP):
    """Few rows and many through all layers at once by `dense.c`; between, norm and activation in one."""

    plain = MLP

    @classmethod
    def reads(cls, module: MLP) -> Parts | None:
        """Linear layer and RMS norm of each layer; the activation is SiLU."""
        lists = (module.linears, module.norms)
        if not exact(module, MLP, ("forward",)) or module.act is not F.silu:
            return None
        if not all(exact(x, nn.ModuleList) for x in lists) or len(module.linears) != len(module.norms):
            return None
        if not all(exact(x, Linear) and x.bias is not None for x in module.linears):
            return None
        if not all(exact(x, RMSNorm) for x in module.norms) or len({x.eps for x in module.norms}) > 1:
            return None
        return tuple(zip(*lists, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        weights = [w for linear, norm in self.read for w in (linear.weight, linear.bias, norm.weight)]
        if dense.mlp_pays(x, weights):
            return dense.mlp(x, weights, self.read[0][1].eps)
        for linear, norm in self.read:
            x = linear(x)
            x = fused.norm_silu(x, norm.weight, norm.eps) if fused.usable(x, norm.weight) else F.silu(norm(x))
        return x


class FastTwoHot(TwoHot):
    def pred(self) -> Float[Tensor, "*b"]:
        return fused.twohot_mean(self.logits, self.bins)

    def losses(self, *targets: Float[Tensor, "*b"]) -> Float[Tensor, " k *b"]:
        return fused.twohot_loss(self.logits, *twohot_encode(torch.stack(targets), self.bins))


class FastSymlogTwoHot(SymlogTwoHot, FastTwoHot):
    pass


class FastTwoHotHead(Twin, TwoHotHead):
    """Softmax, expectation and losses of each row in one."""

    plain = TwoHotHead

    @classmethod
    def reads(cls, module: TwoHotHead) -> Parts | None:
        return () if exact(module, TwoHotHead, ("forward",)) else None

    def forward(self, feat: Float[Tensor, "*b f"]) -> TwoHot:
        return FastTwoHot(self.out(self.mlp(feat)), self.bins)


class FastSymlogTwoHotHead(Twin, SymlogTwoHotHead):
    """As ``FastTwoHotHead``."""

    plain = SymlogTwoHotHead

    @classmethod
    def reads(cls, module: SymlogTwoHotHead) -> Parts | None:
        return () if exact(module, SymlogTwoHotHead, ("forward",)) else None

    def forward(self, feat: Float[Tensor, "*b f"]) -> SymlogTwoHot:
        return FastSymlogTwoHot(self.out(self.mlp(feat)), self.bins)


class FastCategorical(Categorical):
    """Draws without a gradient in one; an object of an RSSM, not a module."""

    def draw(self, params: Float[Tensor, "*b s c"], noise: Shaped[Tensor, "*b s"]) -> Float[Tensor, "*b z"]:
        if fused.differentiated(params):
            return super().draw(params, noise)
        return fused.draw(params.float(), noise, self.unimix).flatten(-2).to(params.dtype)
