"""`AlignmentHeads`: small trainable heads that bring frozen image and text features into one space; their folder.

The idea is SAIL's (arXiv:2412.04616): keep strong unimodal towers frozen, train little on cached features.
Left out: the training (`distill train` does it, with its contrastive loss) and the towers (`teachers.towers.teacher`).
"""

import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from distill.core import atomic
from distill.core.errors import DistillError
from teachers.towers.folder import FORMAT, HEADS_FILE, INFO_FILE, read_heads_info


class Head(nn.Module):
    """normalize(Linear(x') + MLP(x')) where x' is x standardised by stored statistics: [b, F] -> [b, D].

    The MLP alone learns slowly from few pairs; beside the linear map it only has to learn the difference.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, features: int, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(features, width)
        self.mlp = nn.Sequential(
            nn.Linear(features, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width)
        )  # fmt: skip
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        """[b, F] raw features -> [b, D], unit length."""
        standard = (x.float() - self.mean) / self.std
        return nn.functional.normalize(self.linear(standard) + self.mlp(standard), dim=-1)


class AlignmentHeads(nn.Module):
    """The two heads and a logit scale; a two-tower model over features.

    Args:
        image_features, text_features: F of each side (1280 and 384 for Lite0 and MiniLM).
        width: D of the shared space.
        hidden: width of the MLPs.
        dropout: inside the MLPs, while training.
        logit_scale: initial scale, already exponentiated.
    """

    def __init__(
        self,
        image_features: int = 1280,
        text_features: int = 384,
        width: int = 256,
        hidden: int = 768,
        dropout: float = 0.3,
        logit_scale: float = 20.0,
    ) -> None:
        super().__init__()
        self.shape = {
            "image_features": image_features,
            "text_features": text_features,
            "width": width,
            "hidden": hidden,
            "dropout": dropout,
        }
        self.width = width
        self.image = Head(image_features, width, hidden, dropout)
        self.text = Head(text_features, width, hidden, dropout)
        self.log_logit_scale = nn.Parameter(torch.tensor(math.log(logit_scale)))

    @property
    def logit_scale(self) -> Tensor:
        """[], already exponentiated."""
        return self.log_logit_scale.exp()

    def encode_image(self, features: Tensor) -> Tensor:
        """[b, F_image] raw tower features -> [b, D], unit length."""
        out: Tensor = self.image(features)
        return out

    def encode_text(self, features: Tensor) -> Tensor:
        """[b, F_text] raw tower features -> [b, D], unit length."""
        out: Tensor = self.text(features)
        return out

    def set_statistics(self, image: Tensor, text: Tensor) -> None:
        """Store mean and standard deviation of the training features, [N, F_image] and [M, F_text].

        0.001 is added to the deviations, for channels that never move.
        """
        for head, features in ((self.image, image), (self.text, text)):
            values = features.float()
            head.mean.copy_(values.mean(0))
            head.std.copy_(values.std(0, unbiased=False) + 1e-3)


def save_heads_teacher(path: Path, heads: AlignmentHeads, info: dict[str, Any]) -> None:
    """Write the folder of a towers teacher (atomically): heads.safetensors and teacher.json.

    Args:
        path: the folder; replaced when it exists.
        heads: trained heads.
        info: what the reader must know: "name", "licence", "commercial", data, seed, samples seen, ... Kept as given.
    """
    state = {name: value.detach().to("cpu").contiguous() for name, value in heads.state_dict().items()}
    with atomic.staged_dir(path) as folder:
        save_file(state, str(folder / HEADS_FILE))
        manifest = {
            "format": FORMAT,
            "towers": "sail-lite0-minilm",
            "heads": heads.shape,
            "logit_scale": float(heads.logit_scale.detach()),
            "heads_sha256": atomic.sha256_file(folder / HEADS_FILE),
            "info": info,
        }
        atomic.write_json(folder / INFO_FILE, manifest)


def load_heads(path: Path) -> AlignmentHeads:
    """The heads in a folder that `save_heads_teacher` wrote, in eval mode. Raises DistillError when damaged."""
    manifest = read_heads_info(path)
    file = path / HEADS_FILE
    try:
        heads = AlignmentHeads(**manifest["heads"])
        heads.load_state_dict(load_file(file), strict=True)
    except (OSError, SafetensorError, RuntimeError, TypeError) as error:
        detail = " ".join(str(error).split())[:300]
        raise DistillError(f"{file} cannot be loaded: {detail}. Restore it or train the heads again.") from None
    if atomic.sha256_file(file) != manifest["heads_sha256"]:
        raise DistillError(f"{file} is not the file that {INFO_FILE} describes (its SHA-256 differs). Train it again.")
    return heads.eval()
