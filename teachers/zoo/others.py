"""Single strong models of other families: EVA-02-CLIP, ViTamin, MobileCLIP2-S4.

EVA-CLIP: arXiv:2303.15389, MIT; accuracies from open_clip docs/openclip_results.csv. ViTamin: arXiv:2404.02132, MIT;
figures from its README. That has two for XL at 256 pixels, 82.1 after 13 billion samples and 82.3 after 40; the files
of the first carry "s13B" in their Hub name and the file here does not, so it is taken for the second.
MobileCLIP2: arXiv:2508.20691, Table 1.
"""

from distill.core.clip.folder import HUB_SAFETENSORS
from teachers.spec import TEACHERS, TeacherSpec

APPLE = "Apple ML Research Model terms (apple-amlr), research only"

for spec in (
    TeacherSpec(
        "eva02-l14", "open_clip", "EVA02-L-14/merged2b_s4b_b131k", 768, 224, None, "softmax", "MIT", True,
        "timm/eva02_large_patch14_clip_224.merged2b_s4b_b131k", HUB_SAFETENSORS, 79.77,
    ),
    TeacherSpec(
        "eva02-e14plus", "open_clip", "EVA02-E-14-plus/laion2b_s9b_b144k", 1024, 224, None, "softmax", "MIT", True,
        "timm/eva02_enormous_patch14_plus_clip_224.laion2b_s9b_b144k", HUB_SAFETENSORS, 82.01,
    ),
    TeacherSpec(
        "vitamin-l", "open_clip", "ViTamin-L/datacomp1b", 768, 224, None, "softmax", "MIT", True,
        "jienengchen/ViTamin-L-224px", "pytorch_model.bin", 80.8,
    ),
    TeacherSpec(
        "vitamin-xl", "open_clip", "ViTamin-XL-256/datacomp1b", 1152, 256, None, "softmax", "MIT", True,
        "jienengchen/ViTamin-XL-256px", "pytorch_model.bin", 82.3,
    ),
    TeacherSpec(
        "mobileclip2-s4", "open_clip", "MobileCLIP2-S4/dfndr2b", 768, 256, None, "softmax", APPLE, False,
        "timm/MobileCLIP2-S4-OpenCLIP", HUB_SAFETENSORS, 81.9,
    ),
):  # fmt: skip
    TEACHERS.register(spec.name)(spec)
