"""MobileCLIP-S0's text tower ("MCt"): open_clip's text transformer with a convolution over the tokens before and behind its layers.

After MobileCLIP (arXiv:2311.17049, section 4.1): 4 layers of attention, 512 wide, between two RepMixer blocks whose depthwise
kernels are 11 tokens long, no causal mask. open_clip has no such tower. In a configuration, `text_cfg` says so by the key
`distill.core.clip.model.MIXED` (the kernel's length), which open_clip's own loader refuses by name: a folder with it loads here
alone. Left out: other mixed towers.
"""

from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

LAYER_SCALE = 1e-5  # its start, as published


class Branches(nn.Module):
    """MobileOne's training form of a depthwise convolution over tokens: [b, D, 1, L] -> the same, the sum of its branches.

    Args:
        width: D.
        kernel: tokens; 0 = no convolution.

    Attributes:
        skip: a BatchNorm of the input itself.
        conv: a convolution without bias and its BatchNorm; None without a kernel.
    """

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.skip = nn.BatchNorm2d(width)
        self.conv: nn.Sequential | None = convolution(width, kernel) if kernel else None

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        skipped: Tensor = self.skip(x)
        return skipped if self.conv is None else skipped + self.conv(x)


def convolution(width: int, kernel: int) -> nn.Sequential:
    """A depthwise convolution of `kernel` tokens that keeps their number, and its BatchNorm."""
    return nn.Sequential(_depthwise(width, kernel, bias=False), nn.BatchNorm2d(width))


def _depthwise(width: int, kernel: int, *, bias: bool) -> nn.Conv2d:
    return nn.Conv2d(width, width, (1, kernel), padding=(0, kernel // 2), groups=width, bias=bias)


class RepMixer(nn.Module):
    """x + scale (mixer(x) - norm(x)): three branches in training, after `reparameterize` one convolution."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.width, self.kernel = width, kernel
        self.norm = Branches(width, 0)
        self.mixer = Branches(width, kernel)
        self.layer_scale = nn.Parameter(torch.full((width, 1, 1), LAYER_SCALE))
        self.reparam_conv: nn.Conv2d | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[b, D, 1, L] -> the same."""
        if self.reparam_conv is not None:
            folded: Tensor = self.reparam_conv(x)
            return folded
        mixed: Tensor = x + self.layer_scale * (self.mixer(x) - self.norm(x))
        return mixed

    @torch.no_grad()
    def reparameterize(self) -> None:
        """Replace the branches by the one convolution that computes the same in eval mode. timm's folding calls this name."""
        if self.reparam_conv is not None or self.mixer.conv is None:
            return
        conv: Any = self.mixer.conv[0]
        gain, shift = _affine(self.mixer.conv[1])
        kernel = conv.weight * gain.view(-1, 1, 1, 1)
        middle = torch.zeros_like(kernel)
        middle[..., self.kernel // 2] = 1
        for skip, sign in ((self.mixer.skip, 1), (self.norm.skip, -1)):
            own, moved = _affine(skip)
            kernel, shift = kernel + sign * own.view(-1, 1, 1, 1) * middle, shift + sign * moved
        scale = self.layer_scale.view(-1)
        folded = _depthwise(self.width, self.kernel, bias=True).to(kernel)
        folded.load_state_dict({"weight": middle + scale.view(-1, 1, 1, 1) * kernel, "bias": scale * shift})
        del self.mixer, self.norm, self.layer_scale
        self.reparam_conv = folded.requires_grad_(False)


def _affine(norm: Any) -> tuple[Tensor, Tensor]:
    """A BatchNorm in eval mode as gain and shift per channel."""
    gain = norm.weight / (norm.running_var + norm.eps).sqrt()
    return gain, norm.bias - norm.running_mean * gain


class ConvFeedForward(nn.Module):
    """A depthwise convolution over tokens, then an MLP per token, as 1 x 1 convolutions."""

    def __init__(self, width: int, kernel: int, ratio: float) -> None:
        super().__init__()
        self.conv = convolution(width, kernel)
        self.fc1 = nn.Conv2d(width, int(width * ratio), 1)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(int(width * ratio), width, 1)
        layers: tuple[Any, ...] = (self.conv[0], self.fc1, self.fc2)
        for layer in layers:
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[b, D, 1, L] -> the same."""
        result: Tensor = self.fc2(self.act(self.fc1(self.conv(x))))
        return result


class RepMixerBlock(nn.Module):
    """Tokens mixed by a convolution, then the feed-forward part: [b, L, D] -> the same."""

    def __init__(self, width: int, kernel: int, ratio: float) -> None:
        super().__init__()
        self.token_mixer = RepMixer(width, kernel)
        self.convffn = ConvFeedForward(width, kernel, ratio)
        self.layer_scale = nn.Parameter(torch.full((width, 1, 1), LAYER_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        x = self.token_mixer(x.transpose(1, 2).unsqueeze(2))
        x = x + self.layer_scale * self.convffn(x)
        return x.squeeze(2).transpose(1, 2)


class MixedTransformer(nn.Module):
    """The layers of open_clip's text transformer between two RepMixer blocks; in its place in open_clip's TextTransformer.

    Args:
        plain: open_clip's Transformer, whose layers are taken over under the same names.
        kernel: tokens that a convolution sees.
        ratio: width of the feed-forward parts over the width.
    """

    def __init__(self, plain: Any, kernel: int, ratio: float) -> None:
        super().__init__()
        self.width, self.layers = plain.width, plain.layers
        self.grad_checkpointing = False
        self.before = RepMixerBlock(plain.width, kernel, ratio)
        self.resblocks: nn.ModuleList = plain.resblocks
        self.after = RepMixerBlock(plain.width, kernel, ratio)

    def get_cast_dtype(self) -> torch.dtype:
        """Of the weights; open_clip asks for it."""
        return self.before.convffn.fc1.weight.dtype

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """[b, L, D] -> the same."""
        x = self.before(x)
        for block in self.resblocks:
            if self.grad_checkpointing and self.training:
                x = torch.utils.checkpoint.checkpoint(block, x, None, None, attn_mask, use_reentrant=False)
            else:
                x = block(x, attn_mask=attn_mask)
        mixed: Tensor = self.after(x)
        return mixed
