"""Accuracies that others have published of small image-text models, with their architectures: reference points and priors.

ImageNet is zero-shot top-1, Flickr30k recall at 1 in percent. Both are the authors' own figures after training on hundreds of
millions of pairs and more; they do not compare with a run's own evaluation set, and never stand on one axis with it. Left out:
latencies (`export/latency/data/published.csv`).
"""

from typing import Any, NamedTuple


class Published(NamedTuple):
    """One published model.

    Attributes:
        name: as its authors call it.
        source: paper or release.
        recipe: models of one recipe were trained alike, on the same data.
        image, text: towers, as of `architecture`; "" = neither open_clip nor timm has it.
        image_gmacs: multiply-adds of the image tower at its own size, in thousand millions.
        text_mparams: parameters of the text blocks, in millions, without the token embedding.
        size_mparams: all parameters, in millions.
        imagenet, flickr_t2i, flickr_i2t: percent; None = not published.
    """

    name: str
    source: str
    recipe: str
    image: str
    text: str
    image_gmacs: float
    text_mparams: float
    size_mparams: float
    imagenet: float
    flickr_t2i: float | None = None
    flickr_i2t: float | None = None


_V1, _V2 = "MobileCLIP, arXiv:2311.17049 and its release", "MobileCLIP2, arXiv:2508.20691 and its release"
_TINY = "TinyCLIP, arXiv:2309.12314 and its release"
_B16, _L14 = "timm:vit_base_mci_224@224", "vit:24x1024/14@224"
PUBLISHED = (
    Published("MobileCLIP-S0", _V1, "MobileCLIP", "timm:fastvit_mci0@256", "mct:4x512", 2.39, 17.1, 53.8, 67.8, 67.7, 85.9),
    Published("MobileCLIP-S1", _V1, "MobileCLIP", "timm:fastvit_mci1@256", "12x512", 4.66, 38.1, 84.9, 72.6, 71.0, 89.2),
    Published("MobileCLIP-S2", _V1, "MobileCLIP", "timm:fastvit_mci2@256", "12x512", 7.83, 38.1, 99.1, 74.4, 73.4, 90.3),
    Published("MobileCLIP-B", _V1, "MobileCLIP", _B16, "12x512", 17.71, 38.1, 149.7, 76.8, 77.3, 91.4),
    Published("MobileCLIP-S3", _V2, "MobileCLIP", "timm:fastvit_mci3@256", "12x768", 14.81, 85.7, 248.7, 78.3, 77.9, 93.1),
    Published("MobileCLIP-L/14", _V2, "MobileCLIP", _L14, "12x768", 81.01, 85.7, 427.9, 79.5, 75.2, 91.3),
    Published("MobileCLIP-S4", _V2, "MobileCLIP", "timm:fastvit_mci4@256", "12x768", 27.76, 85.7, 445.2, 79.4, 79.5, 94.9),
    Published("MobileCLIP2-S0", _V2, "MobileCLIP2", "timm:fastvit_mci0@256", "12x512", 2.39, 38.1, 74.8, 71.5, 69.2, 86.6),
    Published("MobileCLIP2-S2", _V2, "MobileCLIP2", "timm:fastvit_mci2@256", "12x512", 7.83, 38.1, 99.1, 77.2, 74.8, 90.4),
    Published("MobileCLIP2-B", _V2, "MobileCLIP2", _B16, "12x512", 17.71, 38.1, 149.7, 79.4, 76.5, 89.7),
    Published("MobileCLIP2-S3", _V2, "MobileCLIP2", "timm:fastvit_mci3@256", "12x768", 14.81, 85.7, 248.7, 80.7, 77.3, 91.6),
    Published("MobileCLIP2-L/14", _V2, "MobileCLIP2", _L14, "12x768", 81.01, 85.7, 427.9, 81.9, 77.7, 92.0),
    Published("MobileCLIP2-S4", _V2, "MobileCLIP2", "timm:fastvit_mci4@256", "12x768", 27.76, 85.7, 445.2, 81.9, 78.0, 92.4),
    Published("TinyCLIP-ResNet-19M", _TINY, "TinyCLIP", "resnet:3-4-6-3x44@224", "6x512", 2.92, 19.2, 63.1, 56.4),
    Published("TinyCLIP-ResNet-30M", _TINY, "TinyCLIP", "resnet:3-4-6-3x56@224", "9x512", 4.69, 28.7, 83.6, 59.1),
    Published("TinyCLIP-ViT-40M/32", _TINY, "TinyCLIP", "vit:12x512/32@224", "6x512", 2.00, 19.2, 84.2, 59.8),
    Published("TinyCLIP-ViT-61M/32", _TINY, "TinyCLIP", "vit:12x640/32@224", "9x512", 3.08, 28.7, 115.4, 62.4),
    Published("TinyCLIP-ViT-39M/16", _TINY, "TinyCLIP, YFCC", "vit:12x512/16@224", "6x512", 7.9, 19.2, 83.1, 63.5),
    Published("TinyCLIP-ViT-8M/16", _TINY, "TinyCLIP, YFCC", "vit:10x256/16@224", "3x256", 1.7, 2.5, 23.4, 41.1),
)  # fmt: skip


def architecture(model_cfg: dict[str, Any]) -> tuple[str, str]:
    """The image and the text tower of an open_clip configuration, in the words of `PUBLISHED`."""
    vision, text = model_cfg["vision_cfg"], model_cfg["text_cfg"]
    size = vision.get("image_size", 224)
    size = max(size) if isinstance(size, (list, tuple)) else size
    if name := vision.get("timm_model_name"):
        image = f"timm:{name}@{size}"
        if name.startswith("vit_large_patch14"):  # the ViT-L/14 of open_clip, in timm's words
            image = f"vit:24x1024/14@{size}"
    elif isinstance(vision.get("layers"), (list, tuple)):
        image = f"resnet:{'-'.join(map(str, vision['layers']))}x{vision.get('width', 64)}@{size}"
    else:
        image = f"vit:{vision.get('layers', 12)}x{vision.get('width', 768)}/{vision.get('patch_size', 16)}@{size}"
    if "hf_model_name" in text:
        return image, f"hf:{text['hf_model_name']}"
    return image, f"{text.get('layers', 12)}x{text.get('width', 512)}"


def published_of(model_cfg: dict[str, Any]) -> list[Published]:
    """The published models of the same architecture."""
    image, text = architecture(model_cfg)
    return [row for row in PUBLISHED if row.image == image and row.text == text]
