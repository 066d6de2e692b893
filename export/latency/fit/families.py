"""Which models are relatives: a prediction for one must not have learned from the other when it is judged."""

import re


def family_of(key: str) -> str:
    """The family of a `ModelKey` as text: all text towers, all plain vision transformers, all residual networks, and so on."""
    library, _, rest = key.partition(":")
    name = rest.partition("@")[0]
    if library == "hf" and name.startswith("mobilebert"):
        return "mobilebert"
    if library in ("text", "hf", "mct") or name.endswith(":text"):
        return "text"
    if library in ("clip", "student"):
        plain = name.partition(":")[0]
        if plain.startswith("MobileCLIP") and not re.search(r"-(B|L)", plain):
            return "fastvit"
        return "clip_resnet" if plain.startswith(("RN", "TinyCLIP-Res")) else "vit"
    if name.startswith(("vit_", "deit", "beit")):
        return "vit"
    if name.startswith(("resnet", "resnext", "wide_resnet")):
        return "resnet"
    return name.removeprefix("tf_").split("_")[0]
