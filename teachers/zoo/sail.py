"""Frozen EfficientNet-Lite0 and all-MiniLM-L6-v2 with small aligned heads, after SAIL (arXiv:2412.04616).

Both towers come from PyPI packages, so this teacher needs no model hub. The heads are trained by the user
(`distill train --recipe sail-lite0-minilm`); the trained folder is then itself a teacher by its path.
"""

from teachers.spec import TEACHERS, TeacherSpec

TEACHERS.register("sail-lite0-minilm")(
    TeacherSpec(
        name="sail-lite0-minilm",
        loader="towers",
        source="",
        width=256,
        image_size=224,
        logit_scale=None,
        kind="softmax",
        licence="Apache-2.0 (both towers)",
        commercial=True,
    )
)
