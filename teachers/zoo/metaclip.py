"""MetaCLIP on 2.5 billion pairs (Xu et al. 2023, arXiv:2309.16671). CC-BY-NC: not for commercial use.

Accuracies: open_clip docs/openclip_results.csv. Left out: the 400M-pair models and MetaCLIP 2.
"""

from distill.core.clip.folder import HUB_SAFETENSORS
from teachers.spec import TEACHERS, TeacherSpec

LICENCE = "CC-BY-NC-4.0"

for spec in (
    TeacherSpec(
        "metaclip-vitb16", "open_clip", "ViT-B-16-quickgelu/metaclip_fullcc", 512, 224, None, "softmax", LICENCE, False,
        "timm/vit_base_patch16_clip_224.metaclip_2pt5b", HUB_SAFETENSORS, 72.12,
    ),
    TeacherSpec(
        "metaclip-vitl14", "open_clip", "ViT-L-14-quickgelu/metaclip_fullcc", 768, 224, None, "softmax", LICENCE, False,
        "timm/vit_large_patch14_clip_224.metaclip_2pt5b", HUB_SAFETENSORS, 79.17,
    ),
    TeacherSpec(
        "metaclip-vith14", "open_clip", "ViT-H-14-quickgelu/metaclip_fullcc", 1024, 224, None, "softmax", LICENCE,
        False, "timm/vit_huge_patch14_clip_224.metaclip_2pt5b", HUB_SAFETENSORS, 80.51,
    ),
):  # fmt: skip
    TEACHERS.register(spec.name)(spec)
