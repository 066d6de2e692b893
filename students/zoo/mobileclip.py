"""MobileCLIP2 students (arXiv 2508.20691): FastViT image towers from timm, 12 x 512 text transformers without causal mask.

Architectures as in open_clip's MobileCLIP2-S0 and -S2 configurations; trained from scratch here, so Apple's weight
licence does not apply. Published counts in millions, before reparameterization.
"""

from typing import Any

from students.spec import STUDENTS, PublishedTraining, StudentSpec


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


# MobileCLIP2's small models. No average of the weights (EMA) here: MobileCLIP's paper has one (0.9995), MobileCLIP2's does not say.
_TRAINING = PublishedTraining(
    source="MobileCLIP2, arXiv:2508.20691, appendix A",
    steps=200_000,
    batch_size=65_536,
    batch_per_process=512,
    lr=1e-3,
    lr_floor=1e-6,
    weight_decay=0.2,
    beta1=0.9,
    beta2=0.95,
    clip_norm=1.0,
    warmup_share=0.05,  # 10,000 of 200,000 steps
    epochs=20,
    epochs_note="30,000 steps of 8,192 over 12.8 M images, the papers' smaller setting, are 19 epochs",
    objective="mobileclip",
    objective_batch=8_192,
    view_preset="mobileclip",
    views=5,
    views_note="accuracy saturates near 5 views (MobileCLIP, arXiv:2311.17049, table 4)",
)

for _name, _tower, _published, _activation_mb in (
    ("mci0", "fastvit_mci0", (11.41, 38.13, 25.30), 105.0),
    ("mci2", "fastvit_mci2", (35.82, 38.13, 25.30), 230.0),
):
    STUDENTS.register(_name)(
        StudentSpec(
            name=_name,
            model_cfg=_mobileclip2(_tower),
            published_params=_published,
            note=f"MobileCLIP2-S{_name[-1]}: timm {_tower} + 12x512 text",
            training=_TRAINING,
            activation_mb=_activation_mb,
        )
    )
