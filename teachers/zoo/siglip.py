"""SigLIP (Zhai et al. 2023, arXiv:2303.15343) and SigLIP 2 (arXiv:2502.14786), Apache-2.0, sigmoid loss with a bias.

Their tokenizers are on the Hub beside the weights. Accuracies: open_clip docs/openclip_results.csv; those of SigLIP 2
are not in it and come from its authors (big_vision, configs/proj/image_text/README_siglip2.md), whose protocol may
differ in the second digit. Left out: the larger inputs.
"""

from distill.core.clip.folder import HUB_SAFETENSORS
from teachers.spec import TEACHERS, TeacherSpec

LICENCE = "Apache-2.0"

for spec in (
    TeacherSpec(
        "siglip-b16", "open_clip", "ViT-B-16-SigLIP/webli", 768, 224, None, "sigmoid", LICENCE, True,
        "timm/ViT-B-16-SigLIP", HUB_SAFETENSORS, 76.04,
    ),
    TeacherSpec(
        "siglip-so400m", "open_clip", "ViT-SO400M-14-SigLIP/webli", 1152, 224, None, "sigmoid", LICENCE, True,
        "timm/ViT-SO400M-14-SigLIP", HUB_SAFETENSORS, 82.03,
    ),
    TeacherSpec(
        "siglip2-b16", "open_clip", "ViT-B-16-SigLIP2/webli", 768, 224, None, "sigmoid", LICENCE, True,
        "timm/ViT-B-16-SigLIP2", HUB_SAFETENSORS, 78.2,
    ),
    TeacherSpec(
        "siglip2-so400m", "open_clip", "ViT-SO400M-14-SigLIP2/webli", 1152, 224, None, "sigmoid", LICENCE, True,
        "timm/ViT-SO400M-14-SigLIP2", HUB_SAFETENSORS, 83.2,
    ),
):  # fmt: skip
    TEACHERS.register(spec.name)(spec)
