"""TinyCLIP students (arXiv:2309.12314): narrow ViT, ResNet and text transformers. Sizes from the release's model configurations.

The four "auto" models have no entry: their heads and MLP widths differ from layer to layer and are published as weights alone, so
that no configuration describes them. Their names say so, and what to do instead.
"""

from typing import Any, NoReturn

from distill.core.errors import UsageError
from distill.core.registry import Form
from students.spec import STUDENTS, PublishedTraining, StudentSpec

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
AUTO = "tinyclip-auto-"

_TRAINING = PublishedTraining(
    source="TinyCLIP, arXiv:2309.12314, one stage of inheritance",
    steps=75_000,
    batch_size=32_768,
    batch_per_process=1_024,
    lr=1e-4,
    lr_floor=0.0,
    weight_decay=0.2,
    beta1=0.9,
    beta2=0.98,
    clip_norm=5.0,
    warmup_share=0.027,  # 2,000 steps of a stage
    epochs=6,
    epochs_note="6 epochs a stage of inheritance",
    objective="tinyclip",
    objective_batch=8_192,
)


def _vit(layers: int, width: int, patch: int) -> dict[str, Any]:
    return {"image_size": 224, "layers": layers, "width": width, "patch_size": patch}


def _resnet(width: int) -> dict[str, Any]:
    return {"image_size": 224, "layers": [3, 4, 6, 3], "width": width, "patch_size": None}


# name: image tower, layers and width of the text tower, counts (the ResNets' are published by their names alone), activations, note
for _name, _image, _layers, _width, _counts, _megabytes, _note in (
    ("tinyclip-vit8m16", _vit(10, 256, 16), 3, 256, (8.3, 2.5, 12.6), 20.0, "ViT-8M/16 Text-3M"),
    ("tinyclip-vit39m16", _vit(12, 512, 16), 6, 512, (38.6, 19.2, 25.3), 50.0, "ViT-39M/16 Text-19M"),
    ("tinyclip-vit40m32", _vit(12, 512, 32), 6, 512, (39.7, 19.2, 25.3), 19.0, "ViT-40M/32 Text-19M"),
    ("tinyclip-vit61m32", _vit(12, 640, 32), 9, 512, (61.4, 28.7, 25.3), 26.0, "ViT-61M/32 Text-29M"),
    ("tinyclip-resnet19m", _resnet(44), 6, 512, (18.6, 19.5, 25.3), 43.0, "ResNet-19M Text-19M"),
    ("tinyclip-resnet30m", _resnet(56), 9, 512, (29.6, 28.9, 25.3), 56.0, "ResNet-30M Text-29M"),
):
    _text = {"context_length": 77, "vocab_size": 49408, "width": _width, "heads": _width // 64, "layers": _layers}
    _embed = 512 if isinstance(_image["layers"], int) else 1024
    STUDENTS.register(_name)(
        StudentSpec(
            name=_name,
            model_cfg={"embed_dim": _embed, "vision_cfg": _image, "text_cfg": _text},
            mean=OPENAI_MEAN,
            std=OPENAI_STD,
            interpolation="bicubic",
            published_params=_counts,
            note=_note,
            training=_TRAINING,
            activation_mb=_megabytes,
        )
    )


def _irregular(name: str) -> NoReturn:
    raise UsageError(
        f"{name!r} has no architecture that can be named: TinyCLIP's auto models keep other heads and MLP widths in every "
        "layer, which are published as weights alone, and neither open_clip nor this toolkit has words for such a model. Name a "
        "regular one of that size (tinyclip-vit61m32, tinyclip-vit40m32), which inherits from the same teacher "
        "(--set student.inherit=STRATEGY)."
    )


STUDENTS.register_form(Form(AUTO, "", (), (), _irregular))
