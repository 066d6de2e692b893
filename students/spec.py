"""`StudentSpec`: an architecture by name, in open_clip's own configuration words. Importable without torch."""

from dataclasses import dataclass, field
from typing import Any

from distill.core.registry import Registry


@dataclass(frozen=True)
class StudentSpec:
    """One student architecture.

    Attributes:
        name: registry name, for example "mci2".
        model_cfg: open_clip model configuration (embed_dim, vision_cfg, text_cfg), as in its model_configs/*.json.
        mean, std: of the image normalisation, RGB.
        interpolation: "bilinear" or "bicubic", for resizing to vision_cfg.image_size.
        bpe_words: None for CLIP's full vocabulary; "rendered" for CLIP's BPE cut to the merges that the words of the
            rendered set need (every other word still tokenises, in more pieces).
        published_params: (image tower, text blocks, token embedding) of the published model, None when there is none.
        note: where the architecture comes from.
    """

    name: str
    model_cfg: dict[str, Any] = field(hash=False)
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    interpolation: str = "bilinear"
    bpe_words: str | None = None
    published_params: tuple[int, int, int] | None = None
    note: str = ""


STUDENTS: Registry[StudentSpec] = Registry("student", ("students.zoo",))
