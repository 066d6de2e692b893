"""Data Filtering Networks (Fang et al. 2023, arXiv:2309.17425): Apple's CLIPs, the teachers of MobileCLIP2.

The logit scales are the best ones for distillation (MobileCLIP2, arXiv:2508.20691, Table 3, which calls the 378-pixel
H/14 "384"); in that table both H/14 make worse students than the L/14.
Accuracies: open_clip docs/openclip_results.csv, and for the 39B model, which is not in it, its own card on the Hub.
Left out: the B/16 models, too weak to teach.
"""

from distill.core.clip.folder import HUB_BIN
from teachers.spec import TEACHERS, TeacherSpec

LICENCE = "Apple ML Research Model terms (apple-amlr), research only"

for spec in (
    TeacherSpec(
        "dfn-vitl14", "open_clip", "ViT-L-14-quickgelu/dfn2b", 768, 224, 70.0, "softmax", LICENCE, False,
        "apple/DFN2B-CLIP-ViT-L-14", HUB_BIN, 81.41,
    ),
    TeacherSpec(
        "dfn-vitl14-39b", "open_clip", "ViT-L-14/dfn2b_s39b", 768, 224, 60.0, "softmax", LICENCE, False,
        "apple/DFN2B-CLIP-ViT-L-14-39B", HUB_BIN, 82.19,
    ),
    TeacherSpec(
        "dfn-vith14", "open_clip", "ViT-H-14-quickgelu/dfn5b", 1024, 224, 90.0, "softmax", LICENCE, False,
        "apple/DFN5B-CLIP-ViT-H-14", HUB_BIN, 83.44,
    ),
    TeacherSpec(
        "dfn-vith14-378", "open_clip", "ViT-H-14-378-quickgelu/dfn5b", 1024, 378, 55.0, "softmax", LICENCE, False,
        "apple/DFN5B-CLIP-ViT-H-14-378", HUB_BIN, 84.37,
    ),
):  # fmt: skip
    TEACHERS.register(spec.name)(spec)
