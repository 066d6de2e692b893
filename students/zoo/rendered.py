"""The two architectures of the embedded default: its full teacher, and the nano student that inherits from it.

Heads are 32 wide in both, so that whole heads can be inherited. The vocabulary's size comes from its merges file.
"""

from typing import Any

from students.spec import STUDENTS, StudentSpec


def _vit(width: int, layers: int, text_width: int, text_layers: int) -> dict[str, Any]:
    return {
        "embed_dim": 128,
        "vision_cfg": {"image_size": 64, "patch_size": 8, "width": width, "layers": layers, "head_width": 32},
        "text_cfg": {
            "context_length": 32,
            "width": text_width,
            "heads": text_width // 32,
            "layers": text_layers,
        },
    }


_NORMAL: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "vocabulary": "rendered"}

STUDENTS.register("nano")(
    StudentSpec(
        name="nano",
        model_cfg=_vit(96, 3, 64, 2),
        published_params=(0.373, 0.110, 0.057),
        note="the default's student",
        **_NORMAL,
    )
)
STUDENTS.register("rendered-teacher")(
    StudentSpec(
        name="rendered-teacher",
        model_cfg=_vit(160, 5, 128, 3),
        published_params=(1.609, 0.616, 0.113),
        note="the default's teacher",
        **_NORMAL,
    )
)
