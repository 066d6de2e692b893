"""MobileCLIP2 students (arXiv 2508.20691): FastViT image towers from timm, 12 x 512 text transformers without causal mask.

Architectures as in open_clip's MobileCLIP2-S0 and -S2 configurations; trained from scratch here, so Apple's weight
licence does not apply. Published counts in millions, before reparameterization.
"""

from typing import Any

from students.spec import STUDENTS, StudentSpec


def _mobileclip2(image_tower: str) -> dict[str, Any]:
    return {
        "embed_dim": 512,
        "vision_cfg": {
            "timm_model_name": image_tower,
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": None,
            "timm_drop": 0.0,
            "timm_drop_path": 0.0,
            "image_size": 256,
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 512,
            "heads": 8,
            "layers": 12,
            "no_causal_mask": True,
        },
        "custom_text": True,
    }


for _name, _tower, _published in (
    ("mci0", "fastvit_mci0", (11.41, 38.13, 25.30)),
    ("mci2", "fastvit_mci2", (35.82, 38.13, 25.30)),
):
    STUDENTS.register(_name)(
        StudentSpec(
            name=_name,
            model_cfg=_mobileclip2(_tower),
            published_params=_published,
            note=f"MobileCLIP2-S{_name[-1]}: timm {_tower} + 12x512 text",
        )
    )
