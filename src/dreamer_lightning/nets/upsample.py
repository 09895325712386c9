"""Upsampling and convolution in one: the image decoder's layer."""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dreamer_lightning.nets.blocks import init_kernel
from dreamer_lightning.types import UserError


class UpsampleConv2d(nn.Conv2d):
    """Nearest upsampling to twice the size, then a SAME convolution, over [n, h, w, c] in and out.

    Each of the four output phases sees a pixel's neighbours through sums of kernel taps, so the convolution runs on
    the small image with a kernel of 3 instead of 5 on the large one: 2.8 times fewer multiplications, same function.

    Args:
        in_channels: input channels.
        out_channels: output channels.
        kernel: side of the square kernel (odd).
        outscale: factor on the initial kernel.
    """

    bias: nn.Parameter

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 5, outscale: float = 1.0):
        if kernel % 2 == 0:
            raise UserError(f"kernel={kernel}: an upsampling convolution needs an odd kernel, such as 5")
        self.outscale = outscale
        super().__init__(in_channels, out_channels, kernel)
        reach, taps = kernel // 2, torch.arange(kernel)
        low = (torch.arange(2).unsqueeze(-1) + taps - reach).div(2, rounding_mode="floor")  # [phase, tap]
        self.reach = (reach + 1) // 2
        offsets = torch.arange(-self.reach, self.reach + 1)
        self.register_buffer("fold", (low.unsqueeze(1) == offsets.view(1, -1, 1)).float(), persistent=False)

    def reset_parameters(self) -> None:
        area = prod(self.kernel_size)
        init_kernel(self.weight, self.in_channels * area, self.out_channels * area, self.outscale, "trunc_normal_in")
        nn.init.zeros_(self.bias)

    def forward(self, x: Float[Tensor, "n h w c"]) -> Float[Tensor, "n 2*h 2*w o"]:
        n, h, w, _ = x.shape
        weight = torch.einsum("yai,ocij,zbj->yzocab", self.fold, self.weight, self.fold).flatten(0, 2)  # phase-major
        y = F.conv2d(x.permute(0, 3, 1, 2), weight, self.bias.repeat(4), padding=self.reach)
        y = y.permute(0, 2, 3, 1).reshape(n, h, w, 2, 2, self.out_channels)
        return y.permute(0, 1, 3, 2, 4, 5).reshape(n, 2 * h, 2 * w, self.out_channels)
