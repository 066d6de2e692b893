"""MobileCLIP and MobileCLIP2 students (arXiv:2311.17049, arXiv:2508.20691): FastViT or ViT image towers of timm, text transformers.

Architectures as in open_clip's configurations of those names; S0's mixed text tower, which open_clip has not, is ours. The first
version's S3, S4 and L/14 are the second's, trained on other data. Trained from scratch here, so Apple's weight licence does not
apply. Counts in millions, before reparameterization, with the projections.
"""

from dataclasses import replace
from typing import Any

from distill.core.clip.model import MIXED
from students.spec import STUDENTS, PublishedTraining, StudentSpec
from students.zoo.tinyclip import OPENAI_MEAN, OPENAI_STD


def _image(tower: str, size: int = 256, pool: str = "avg", drop_path: float = 0.0) -> dict[str, Any]:
    return {
        "timm_model_name": tower,
        "timm_model_pretrained": False,
        "timm_pool": pool,
        "timm_proj": None,
        "timm_drop": 0.0,
        "timm_drop_path": drop_path,
        "image_size": size,
    }


def _text(width: int = 512, layers: int = 12, *, causal: bool = False) -> dict[str, Any]:
    return {
        "context_length": 77,
        "vocab_size": 49408,
        "width": width,
        "heads": width // 64,
        "layers": layers,
        "no_causal_mask": not causal,
    }


_S0, _S1, _S2 = _image("fastvit_mci0"), _image("fastvit_mci1"), _image("fastvit_mci2")
_S3, _S4 = _image("fastvit_mci3"), _image("fastvit_mci4")
_B = _image("vit_base_mci_224", 224, "token")
_L14 = _image("vit_large_patch14_clip_224", 224, "token", 0.1)
_BASE, _CAUSAL, _WIDE, _MIXED = _text(), _text(causal=True), _text(768), {**_text(layers=4), MIXED: 11}
_PLAIN: dict[str, Any] = {"interpolation": "bilinear"}  # pixels in [0, 1] as they are
_OPENAI: dict[str, Any] = {"mean": OPENAI_MEAN, "std": OPENAI_STD, "interpolation": "bilinear"}
_BICUBIC: dict[str, Any] = {**_OPENAI, "interpolation": "bicubic"}

# No average of the weights (EMA) here: MobileCLIP's paper has one (0.9995), MobileCLIP2's does not say.
_FIRST = PublishedTraining(
    source="MobileCLIP, arXiv:2311.17049, appendix",
    steps=200_000,
    batch_size=65_536,
    batch_per_process=256,
    lr=1e-3,
    lr_floor=1e-6,
    weight_decay=0.2,
    beta1=0.9,
    beta2=0.95,
    clip_norm=1.0,
    warmup_share=0.01,  # 2,000 of 200,000 steps
    epochs=20,
    epochs_note="30,000 steps of 8,192 over 12.8 M images, the papers' smaller setting, are 19 epochs",
    objective="mobileclip",
    objective_batch=8_192,
    view_preset="mobileclip",
    views=5,
    views_note="accuracy saturates near 5 views (MobileCLIP, arXiv:2311.17049, table 4)",
)
_SECOND_B = replace(_FIRST, source="MobileCLIP2, arXiv:2508.20691, appendix A", batch_per_process=512)
_SECOND = replace(_SECOND_B, warmup_share=0.05)  # 10,000 steps
_SECOND_WIDE = replace(_SECOND_B, batch_size=114_688, batch_per_process=896, lr_floor=0.0)
_AS_WIDE = replace(
    _SECOND_WIDE, source="MobileCLIP2, arXiv:2508.20691, appendix A, for S3 and S4; this model's own is not published"
)

# name: image tower, text tower, preprocessing, counts (image, text with its token table), training, megabytes of a training step
_MODELS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], tuple[float, float], PublishedTraining, float | None]] = {
    "mobileclip-s0": (_S0, _MIXED, _PLAIN, (11.41, 42.44), _FIRST, 82.0),
    "mobileclip-s1": (_S1, _BASE, _PLAIN, (21.54, 63.43), _FIRST, 148.0),
    "mobileclip-s2": (_S2, _BASE, _PLAIN, (35.82, 63.43), _FIRST, 230.0),
    "mobileclip-b": (_B, _CAUSAL, _PLAIN, (86.35, 63.43), _FIRST, 83.0),
    "mobileclip-s3": (_S3, _WIDE, _OPENAI, (125.24, 123.65), _AS_WIDE, 231.0),
    "mobileclip-s4": (_S4, _WIDE, _OPENAI, (321.78, 123.65), _AS_WIDE, 302.0),
    "mobileclip-l14": (_L14, _WIDE, _BICUBIC, (303.97, 123.65), _AS_WIDE, 241.0),
    "mobileclip2-s0": (_S0, _BASE, _PLAIN, (11.41, 63.43), _SECOND, 105.0),
    "mobileclip2-s2": (_S2, _BASE, _PLAIN, (35.82, 63.43), _SECOND, 230.0),
    "mobileclip2-b": (_B, _CAUSAL, _PLAIN, (86.35, 63.43), _SECOND_B, 83.0),
    "mobileclip2-s3": (_S3, _WIDE, _OPENAI, (125.24, 123.65), _SECOND_WIDE, 231.0),
    "mobileclip2-s4": (_S4, _WIDE, _OPENAI, (321.78, 123.65), _SECOND_WIDE, 302.0),
    "mobileclip2-l14": (_L14, _WIDE, _BICUBIC, (303.97, 123.65), _AS_WIDE, 241.0),
}  # fmt: skip
_TOWERS = {"vit_base_mci_224": "ViT-B/16", "vit_large_patch14_clip_224": "ViT-L/14"}
_TOWERS |= {f"fastvit_mci{_number}": f"mci{_number}" for _number in range(5)}
_SHORT = {  # by their image towers' names
    "mci0": "mobileclip2-s0",
    "mci1": "mobileclip-s1",
    "mci2": "mobileclip2-s2",
    "mci3": "mobileclip2-s3",
    "mci4": "mobileclip2-s4",
}


def _spec(name: str, note: str) -> StudentSpec:
    image, text, seen, (image_count, text_count), training, activation_mb = _MODELS[name]
    table = text["vocab_size"] * text["width"] / 1e6
    return StudentSpec(
        name=name,
        model_cfg={"embed_dim": text["width"], "vision_cfg": image, "text_cfg": text, "custom_text": True},
        published_params=(image_count, round(text_count - table, 2), round(table, 2)),
        note=note,
        training=training,
        activation_mb=activation_mb,
        **seen,
    )


for _name, _model in _MODELS.items():
    _layers = "mixed 4x512 text" if MIXED in _model[1] else f"{_model[1]['layers']}x{_model[1]['width']} text"
    STUDENTS.register(_name)(_spec(_name, f"{_TOWERS[_model[0]['timm_model_name']]} + {_layers}"))
for _name, _long in _SHORT.items():
    STUDENTS.register(_name)(replace(_spec(_long, f"short for {_long}"), name=_name))
