"""Text towers by depth, width and context, for tracing: architectures that people name by their sizes, or not in timm.

Only shapes matter here; the weights are never used. Left out: towers of open_clip's image side (open_clip builds them).
"""

import torch
from torch import Tensor, nn


class TextTower(nn.Module):
    """A transformer over tokens, pre-norm: [1, L] int64 -> [1, D], or [1, L, D] where every token has an answer.

    Args:
        layers, width, heads, context, vocabulary: sizes.
        embed: width of what comes out.
        mlp: width of the hidden layer over `width`.
        causal: a mask is added to the scores.
        every_token: the head runs over all tokens, as of a masked language model.
    """

    mask: Tensor

    def __init__(
        self,
        layers: int,
        width: int,
        heads: int,
        context: int = 77,
        vocabulary: int = 49408,
        embed: int = 512,
        *,
        mlp: float = 4.0,
        causal: bool = True,
        every_token: bool = False,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.zeros(context, width))
        self.layers = nn.ModuleList(Block(width, heads, mlp) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, embed, bias=False)
        self.register_buffer("mask", torch.zeros(context, context))
        self.causal, self.every_token = causal, every_token

    def forward(self, tokens: Tensor) -> Tensor:
        """As the class says."""
        x = self.embedding(tokens) + self.positions[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x, self.mask if self.causal else None)
        x = self.norm(x)
        answer: Tensor = self.head(x if self.every_token else x[:, -1])
        return answer


class Block(nn.Module):
    """One pre-norm layer: attention written out as every phone runtime runs it, and an MLP."""

    def __init__(self, width: int, heads: int, mlp: float = 4.0) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, int(width * mlp)), nn.Linear(int(width * mlp), width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[1, L, D] -> the same."""
        b, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q * (width // self.heads) ** -0.5) @ k.transpose(-2, -1)
        scores = scores if mask is None else scores + mask
        x = x + self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, length, width))
        changed: Tensor = self.down(nn.functional.gelu(self.up(self.norm2(x))))
        return x + changed


class MixerBlock(nn.Module):
    """MobileCLIP-S0's convolution over tokens after reparameterization: depthwise 1 x kernel, then a ConvFFN."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.mixer = nn.Conv2d(width, width, (1, kernel), padding=(0, kernel // 2), groups=width)
        self.conv = nn.Conv2d(width, width, (1, kernel), padding=(0, kernel // 2), groups=width)
        self.up, self.down = nn.Conv2d(width, 4 * width, 1), nn.Conv2d(4 * width, width, 1)
        self.scale = nn.Parameter(torch.ones(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[1, D, 1, L] -> the same."""
        x = self.mixer(x)
        mixed: Tensor = self.down(nn.functional.gelu(self.up(self.conv(x))))
        return x + self.scale * mixed


class MixedTextTower(nn.Module):
    """The text tower of MobileCLIP-S0 ("MCt"): a convolution block, four attention layers, a convolution block, width 512."""

    def __init__(self, width: int = 512, layers: int = 4, kernel: int = 11, context: int = 77) -> None:
        super().__init__()
        self.embedding = nn.Embedding(49408, width)
        self.positions = nn.Parameter(torch.zeros(context, width))
        self.first, self.last = MixerBlock(width, kernel), MixerBlock(width, kernel)
        self.layers = nn.Sequential(*(Block(width, width // 64) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 512, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """[1, L] int64 -> [1, 512]."""
        x = self.embedding(tokens) + self.positions
        x = self.first(x.transpose(1, 2).unsqueeze(2)).squeeze(2).transpose(1, 2)
        x = self.layers(x)
        x = self.last(x.transpose(1, 2).unsqueeze(2)).squeeze(2).transpose(1, 2)
        answer: Tensor = self.head(self.norm(x)[:, -1])
        return answer
