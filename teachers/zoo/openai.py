"""OpenAI's CLIP (Radford et al. 2021, arXiv:2103.00020), MIT.

All were trained with QuickGELU, hence the `-quickgelu` names. Accuracies: open_clip
docs/openclip_results.csv. Left out: the ResNets.
"""

from distill.core.clip.folder import HUB_SAFETENSORS
from teachers.spec import TEACHERS, TeacherSpec

for spec in (
    TeacherSpec(
        "openai-vitb32", "open_clip", "ViT-B-32-quickgelu/openai", 512, 224, None, "softmax", "MIT", True,
        "timm/vit_base_patch32_clip_224.openai", HUB_SAFETENSORS, 63.32,
    ),
    TeacherSpec(
        "openai-vitb16", "open_clip", "ViT-B-16-quickgelu/openai", 512, 224, None, "softmax", "MIT", True,
        "timm/vit_base_patch16_clip_224.openai", HUB_SAFETENSORS, 68.34,
    ),
    TeacherSpec(
        "openai-vitl14", "open_clip", "ViT-L-14-quickgelu/openai", 768, 224, None, "softmax", "MIT", True,
        "timm/vit_large_patch14_clip_224.openai", HUB_SAFETENSORS, 75.54,
    ),
    TeacherSpec(
        "openai-vitl14-336", "open_clip", "ViT-L-14-336-quickgelu/openai", 768, 336, None, "softmax", "MIT", True,
        "timm/vit_large_patch14_clip_336.openai", HUB_SAFETENSORS, 76.56,
    ),
):  # fmt: skip
    TEACHERS.register(spec.name)(spec)
