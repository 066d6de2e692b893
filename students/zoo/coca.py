"""CoCa students (arXiv:2205.01917): a CLIP with a caption decoder, trained with `objective = "coca"`; captioners afterwards.

`coca-vitl14` and `coca-vitb32` are open_clip's architectures, to be fine-tuned from published weights
(`student.inherit = "copy"`). `coca-nano` is made for tests and for trying things out.
"""

from typing import Any

from students.spec import STUDENTS, StudentSpec
from students.zoo.tinyclip import OPENAI_MEAN, OPENAI_STD


def _coca(width: int, heads: int, image: dict[str, Any], layers: int, context: int, pooler: int) -> dict[str, Any]:
    decoder = {"context_length": context, "vocab_size": 49408, "width": width, "heads": heads, "layers": layers}
    return {
        "embed_dim": width,
        "vision_cfg": {**image, "attentional_pool": True, "attn_pooler_heads": 8, "output_tokens": True},
        "text_cfg": {**decoder, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**decoder, "attn_pooler_heads": pooler},
        "custom_text": True,
    }


_OPENAI: dict[str, Any] = {"mean": OPENAI_MEAN, "std": OPENAI_STD, "interpolation": "bicubic"}

_LARGE = _coca(768, 12, {"image_size": 224, "layers": 24, "width": 1024, "patch_size": 14}, 12, 76, 12)
_BASE = _coca(512, 8, {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32}, 12, 76, 8)
for _name, _size, _counts in (
    ("coca-vitl14", _LARGE, (306.72, 85.71, 37.95)),
    ("coca-vitb32", _BASE, (89.16, 38.13, 25.30)),
):
    STUDENTS.register(_name)(
        StudentSpec(_name, _size, **_OPENAI, published_params=_counts, note="a captioner to fine-tune")
    )

_NANO = _coca(96, 3, {"image_size": 64, "layers": 2, "width": 96, "patch_size": 8, "head_width": 32}, 2, 32, 3)
_NANO["vision_cfg"]["attn_pooler_queries"] = 32
STUDENTS.register("coca-nano")(
    StudentSpec(
        "coca-nano",
        _NANO,
        (0.5, 0.5, 0.5),
        (0.25, 0.25, 0.25),
        vocabulary="rendered",
        published_params=(0.299, 0.236, 0.085),
        note="a captioner for tests",
    )
)
