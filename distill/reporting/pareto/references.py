"""Published models beside a run's: their latencies and sizes as lines, their papers' accuracies in a plot of their own.

Accuracies of papers are of ImageNet and stand with a run's only where that was judged on ImageNet too. Left out: the models
themselves (`published`), and predictions for them.
"""

import functools
from typing import Any

from distill.reporting.pareto.published import PUBLISHED, Published

# What published rows call a tower of `PUBLISHED`, where that is not its own name.
_KEYS = {
    "12x512": "text:12x512:49408:last@77",
    "12x768": "text:12x768:49408:last@77",
    "mct:4x512": "mct:4x512@77",
    "6x512": "clip:TinyCLIP-ViT-40M-32-Text-19M:text@77",
    "9x512": "clip:TinyCLIP-ViT-61M-32-Text-29M:text@77",
    "vit:24x1024/14@224": "clip:ViT-L-14:image@224",
    "vit:12x512/32@224": "clip:TinyCLIP-ViT-40M-32-Text-19M:image@224",
    "vit:12x640/32@224": "clip:TinyCLIP-ViT-61M-32-Text-29M:image@224",
    "resnet:3-4-6-3x44@224": "clip:TinyCLIP-ResNet-19M-Text-19M:image@224",
    "resnet:3-4-6-3x56@224": "clip:TinyCLIP-ResNet-30M-Text-29M:image@224",
}


@functools.lru_cache(maxsize=64)
def latency_of(model: Published, device: str) -> tuple[float, str] | None:
    """Both towers' milliseconds on a phone in fp16, and where they come from; None where nothing is known of one of them."""
    from distill.core.errors import DistillError
    from export.latency.graph.features import published_features
    from export.latency.predictor import published_predictor
    from export.latency.towers import SOURCES

    known = published_features()
    keys = [_KEYS.get(tower, tower) for tower in (model.image, model.text)]
    if any(key not in known for key in keys):
        return None
    try:
        said = [published_predictor().predict(device, key, known[key], precision="fp16") for key in keys]
    except DistillError:  # a device of this computer, or one that is calibrated
        return None
    sources = dict.fromkeys(SOURCES[one.source] for one in said)
    return float(f"{sum(one.ms for one in said):.3g}"), " and ".join(sources)


def references(axis: str) -> list[dict[str, Any]]:
    """Published models on an axis: {"name", "cost", "source", "imagenet", "paper"}; of "size" in MB of fp32 weights, of a phone in
    ms in fp16; none on an axis of another precision or of measurements."""
    found: list[dict[str, Any]] = []
    if " " in axis:
        return found
    for model in PUBLISHED:
        said = (round(model.size_mparams * 4, 1), "fp32 weights") if axis == "size" else latency_of(model, axis)
        if said is not None:
            found.append(
                {
                    "name": model.name,
                    "cost": said[0],
                    "source": said[1],
                    "imagenet": model.imagenet,
                    "paper": model.source,
                }
            )
    return found


def judged_on_imagenet(facts: dict[str, Any]) -> bool:
    """Whether a run's zero-shot figures are of ImageNet's 1,000 classes, so that papers' figures may stand beside them."""
    tasks = [item["zero_shot"] for item in facts["evals"] if item["zero_shot"]]
    return bool(tasks) and all("imagenet" in str(task["task"]).lower() and task["classes"] == 1000 for task in tasks)
