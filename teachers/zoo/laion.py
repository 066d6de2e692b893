"""open_clip's models on LAION-2B (arXiv:2212.07143), DataComp-1B (arXiv:2304.14108), CoCa (arXiv:2205.01917), all MIT.

`datacomp-vitl14` is the permissively licensed teacher to start with; its logit scale is the best one for distillation
(MobileCLIP2, arXiv:2508.20691, Table 3). Accuracies: open_clip docs/openclip_results.csv.
Left out: what a larger or later model of the same family replaces.
"""

from distill.core.clip.folder import HUB_BIN, HUB_SAFETENSORS
from teachers.spec import TEACHERS, TeacherSpec

for spec in (
    TeacherSpec(
        "datacomp-vitb16", "open_clip", "ViT-B-16/datacomp_xl_s13b_b90k", 512, 224, None, "softmax", "MIT", True,
        "laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K", HUB_SAFETENSORS, 73.49,
    ),
    TeacherSpec(
        "datacomp-vitl14", "open_clip", "ViT-L-14/datacomp_xl_s13b_b90k", 768, 224, 50.0, "softmax", "MIT", True,
        "laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K", HUB_SAFETENSORS, 79.21,
    ),
    TeacherSpec(
        "laion-vitb32", "open_clip", "ViT-B-32/laion2b_s34b_b79k", 512, 224, None, "softmax", "MIT", True,
        "laion/CLIP-ViT-B-32-laion2B-s34B-b79K", HUB_SAFETENSORS, 66.56,
    ),
    TeacherSpec(
        "laion-vith14", "open_clip", "ViT-H-14/laion2b_s32b_b79k", 1024, 224, None, "softmax", "MIT", True,
        "laion/CLIP-ViT-H-14-laion2B-s32B-b79K", HUB_SAFETENSORS, 77.96,
    ),
    TeacherSpec(
        "coca-vitl14", "open_clip", "coca_ViT-L-14/laion2b_s13b_b90k", 768, 224, None, "softmax", "MIT", True,
        "laion/CoCa-ViT-L-14-laion2B-s13B-b90k", HUB_BIN, 75.61,
    ),
):  # fmt: skip
    TEACHERS.register(spec.name)(spec)
