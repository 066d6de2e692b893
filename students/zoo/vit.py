"""CLIP of the base size (Radford et al., 2021) as students: open_clip's ViT-B-32 and ViT-B-16, a causal text tower, and GELU or the
QuickGELU of OpenAI's own weights and of some others.
"""

from typing import Any

from students.spec import STUDENTS, StudentSpec
from students.zoo.tinyclip import OPENAI_MEAN, OPENAI_STD


def _model_cfg(patch: int) -> dict[str, Any]:
    return {
        "embed_dim": 512,
        "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": patch},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
    }


for _patch, _image, _megabytes in ((32, 87.85, 32.0), (16, 86.19, 79.0)):
    for _suffix, _kind in (("", {}), ("-quickgelu", {"quick_gelu": True})):
        STUDENTS.register(f"vit-b-{_patch}{_suffix}")(
            StudentSpec(
                name=f"vit-b-{_patch}{_suffix}",
                model_cfg={**_model_cfg(_patch), **_kind},
                mean=OPENAI_MEAN,
                std=OPENAI_STD,
                interpolation="bicubic",
                published_params=(_image, 38.13, 25.30),
                activation_mb=_megabytes,
                note=f"ViT-B/{_patch}, {'QuickGELU' if _suffix else 'GELU'}",
            )
        )
