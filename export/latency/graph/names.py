"""Which architecture a person means: "MobileCLIP-S2 text", "RepViT-M1.1", "openai B/16 image", "12x512@77" -> a `ModelKey`.

Names of timm, torchvision, open_clip, our students and Qualcomm's and Apple's published tables are known. A name is never
guessed: what is not found raises with the near ones. Imports neither torch nor timm at the top.
"""

import difflib
import functools
import re
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from distill.core.errors import UsageError

Library = Literal["timm", "tv", "clip", "student", "text", "hf", "mct"]


class ModelKey(NamedTuple):
    """One tower that can be built.

    Attributes:
        library: "timm", "tv" (torchvision), "clip" (open_clip), "student" (ours), "text" (depth x width x vocabulary), "hf"
            (transformers' default of an architecture), "mct" (MobileCLIP-S0's text tower).
        name: in that library.
        tower: "image" or "text".
        size: pixels on a side, or tokens.
    """

    library: Library
    name: str
    tower: str
    size: int

    def __str__(self) -> str:
        part = f":{self.tower}" if self.library in ("clip", "student") else ""
        return f"{self.library}:{self.name}{part}@{self.size}"


# What tables and people write -> "library:name". Squashed (letters and digits, lower case) before it is looked up.
ALIASES = {
    "vit": "timm:vit_base_patch16_224",
    "beit": "timm:beit_base_patch16_224",
    "levit": "timm:levit_128s",
    "sequencer2d": "timm:sequencer2d_s",
    "efficientformer": "timm:efficientformer_l1",
    "mobilevit": "timm:mobilevit_s",
    "nasnet": "timm:nasnetalarge",
    "efficientnetv2s": "timm:tf_efficientnetv2_s",
    "resnext50": "timm:resnext50_32x4d",
    "resnext101": "timm:resnext101_32x8d",
    "wideresnet50": "timm:wide_resnet50_2",
    "regnet": "timm:regnetx_032",
    "mobilenetv3s": "timm:mobilenetv3_small_100",
    "mobilenetv3l": "timm:mobilenetv3_large_100",
    "shufflenetv2": "tv:shufflenet_v2_x0_5",
    "bertbaseuncasedhf": "hf:bert-mlm",
    "bertbaseuncased": "hf:bert-mlm",
    "distilbertbaseuncasedhf": "hf:distilbert-mlm",
    "distilbertbaseline": "hf:distilbert",
    "distilbertbaseuncased": "hf:distilbert",
    "albertbasev2hf": "hf:albert-mlm",
    "albertbasev2": "hf:albert-mlm",
    "mobilebertuncasedgoogle": "hf:mobilebert-mlm",
    "mobilebert": "hf:mobilebert-qa",
    "electrabertbasediscrimgoogle": "hf:electra",
    "nomicembedtext": "hf:nomic",
    "allminilml6v2": "text:6x384:30522:full",
    "allmpnetbasev2": "text:12x768:30522:full",
    "tinycliprn19m": "clip:TinyCLIP-ResNet-19M-Text-19M",
    "tinycliprn30m": "clip:TinyCLIP-ResNet-30M-Text-29M",
    "tinyclip40m32": "clip:TinyCLIP-ViT-40M-32-Text-19M",
    "tinyclip61m32": "clip:TinyCLIP-ViT-61M-32-Text-29M",
    "tinyclip39m16": "clip:TinyCLIP-ViT-39M-16-Text-19M",
    "tinyclip8m16": "clip:TinyCLIP-ViT-8M-16-Text-3M",
    "mobileclips3": "clip:MobileCLIP2-S3",
    "mobileclips4": "clip:MobileCLIP2-S4",
    "mobileclipl14": "clip:MobileCLIP2-L-14",
    "openaiclip": "clip:ViT-B-16",
    "clip": "clip:ViT-B-16",
    "clipimageencoder": "clip:ViT-B-16",
    "cliptextencoder": "clip:ViT-B-16",
}


def _tinyclip(
    vision: dict[str, object], text_layers: int, text_width: int = 512, embed: int = 512
) -> dict[str, object]:
    text = {"context_length": 77, "width": text_width, "heads": text_width // 64, "layers": text_layers}
    return {"embed_dim": embed, "vision_cfg": {"image_size": 224, **vision}, "text_cfg": text}


# TinyCLIP's published sizes, which neither open_clip nor our students have all of.
CLIPS = {
    "TinyCLIP-ResNet-19M-Text-19M": _tinyclip({"layers": [3, 4, 6, 3], "width": 44}, 6, embed=1024),
    "TinyCLIP-ResNet-30M-Text-29M": _tinyclip({"layers": [3, 4, 6, 3], "width": 56}, 9, embed=1024),
    "TinyCLIP-ViT-8M-16-Text-3M": _tinyclip({"layers": 10, "width": 256, "patch_size": 16}, 3, 256),
    "TinyCLIP-ViT-39M-16-Text-19M": _tinyclip({"layers": 12, "width": 512, "patch_size": 16}, 6),
    "TinyCLIP-ViT-40M-32-Text-19M": _tinyclip({"layers": 12, "width": 512, "patch_size": 32}, 6),
    "TinyCLIP-ViT-61M-32-Text-29M": _tinyclip({"layers": 12, "width": 640, "patch_size": 32}, 9),
}
IMAGE_NETS = {"mobileclips0": "timm:fastvit_mci0"}
TEXT_NETS = {"mobileclips0": "mct:4x512"}
# Whose CLIP it is decides weights, not shapes.
ORIGINS = "openai|laion|datacomp|veclip|dfn|metaclip|commonpool|clipa|open_?clip|clip"
SIZES = {"ti": "tiny", "t": "tiny", "s": "small", "m": "medium", "b": "base", "l": "large", "h": "huge", "xs": "xsmall"}
DEFAULT_PIXELS, DEFAULT_TOKENS = 224, 77


def resolve(model: str, size: str | int | None = None) -> ModelKey:
    """The tower that `model` names.

    Args:
        model: a library's name ("fastvit_mci0", "timm:...", "tv:...", "open_clip:ViT-B-32"), a name as published tables write it
            ("MobileCLIP-S1 image", "RepViT-M1.5"), a student's, or a text tower's sizes ("12x512", "text 6x384@77"). A CLIP
            is followed by the tower ("ViT-B-32 text"); without it, the image tower is meant, or the text tower where `size` is
            at most 77 and no picture's.
        size: "224", "224x224", "77"; None = after an "@" in the name, else the model's own.

    Raises:
        UsageError: no such model, with the near ones; a size that is no number.
    """
    if "+" in str(size or ""):  # both towers in one file, as some publish CLIPs
        image = resolve(f"{model} image", str(size).partition("+")[0])
        if image.library not in ("clip", "student"):
            raise UsageError(f"{model!r} has one tower; {size!r} are the sizes of two.")
        return image._replace(tower="both")
    name, at, behind = model.strip().rpartition("@")
    if not at or not re.fullmatch(r"[\dx\u00d7]+", behind):
        name, behind = model.strip(), ""
    pixels = _size(size if size not in (None, "") else behind or None)
    tower = _tower(name, pixels)
    plain = _plain(name)
    for text in re.finditer(r"(\d+)\s*[x\u00d7]\s*(\d+)", plain):  # depth x width, where it is said to be a text tower
        if tower == "text" and 1 <= int(text[1]) <= 48 and int(text[2]) >= 64:
            return ModelKey("text", f"{text[1]}x{text[2]}:49408:last", "text", pixels or DEFAULT_TOKENS)
    library, found = _found(plain, tower)
    if library not in ("clip", "student"):
        tower = "text" if library in ("text", "hf", "mct") else "image"
    return ModelKey(library, found, tower, pixels or _own_size(library, found, tower))


def _size(size: str | int | None) -> int | None:
    if size is None:
        return None
    numbers = re.findall(r"\d+", str(size).split(".")[0])
    if not numbers or len(set(numbers)) > 1 or int(numbers[0]) < 1:
        raise UsageError(f"The input size {size!r} is not one number of pixels or tokens, such as 224, 224x224 or 77.")
    return int(numbers[0])


def _tower(name: str, size: int | None) -> str:
    low = name.lower()
    if last := re.search(r"(?:\b|_)(image|text|vision|visual)[ _]?(?:encoder|tower)?(?:\s*\([^)]*\))?$", low):
        return "text" if last[1] == "text" else "image"
    if last := re.search(r"(image|text)_?encoder", low):
        return last[1]
    if re.search(r"^(text)?[ _:]*\d+\s*[x\u00d7]\s*\d+$|^text\b", low):
        return "text"
    return "text" if size is not None and size <= DEFAULT_TOKENS and not low.startswith(("timm", "tv:")) else "image"


def _plain(name: str) -> str:
    """Without the words that say which tower it is, or how it was measured."""
    name = re.sub(r"\((?!\d+\s*[x\u00d7])[^)]*\)", " ", name)
    return re.sub(
        r"(?i)\b(image|text|vision|visual)[ _]?(encoder|tower)?$|\bbackbone\b|\b(image|text) tower\b", " ", name
    ).strip()


def _found(plain: str, tower: str) -> tuple[Library, str]:
    prefix, colon, rest = plain.partition(":")
    library = {
        "timm": "timm",
        "tv": "tv",
        "torchvision": "tv",
        "open_clip": "clip",
        "clip": "clip",
        "hf-hub": None,
    }.get(prefix)
    if colon and library:
        plain = rest.strip()
    squashed = squash(plain)
    if not library:
        nets = TEXT_NETS if tower == "text" else IMAGE_NETS
        if alias := nets.get(squashed) or ALIASES.get(squashed):
            kind, _, name = alias.partition(":")
            return kind, name  # type: ignore[return-value]
    for kind, names in _libraries().items():
        if library in (None, kind) and plain in names.values():
            return kind, plain
    for guess in _spellings(plain):
        for kind, names in _libraries().items():
            if library in (None, kind) and guess in names:
                return kind, names[guess]
    every = {
        spelled: name
        for kind, names in _libraries().items()
        if library in (None, kind)
        for spelled, name in names.items()
    }
    near = [every[spelled] for spelled in difflib.get_close_matches(squashed, every, 4, 0.75)]
    hint = f" Near: {', '.join(dict.fromkeys(near))}." if near else ""
    raise UsageError(f"No architecture {plain!r} is known, so that its operations cannot be traced.{hint}")


def squash(name: str) -> str:
    """Letters and digits alone, lower case."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _spellings(name: str) -> Iterable[str]:
    """What a library may call it, squashed, the likeliest first."""
    low = re.sub(r"[-_ ](cls|quantized)$", "", name.lower().strip())
    low = re.sub(r"[-_ ]r\d{3}$", "", low)  # EfficientViT-B1-r224
    low = re.sub(r"^mnv(\d)", r"mobilenetv\1", low)
    low = re.sub(r"^mobile-?net-?v", "mobilenetv", low)
    forms = [low]
    if short := re.sub(rf"^({ORIGINS})[-_ ](?=(vit|b|l|s|rn|h|g)[-_/\d ])", "", low):
        forms += [short] + ([f"vit-{short}"] if re.match(r"[blsh]\b", short) else [])
    if siglip := re.match(r"(siglip2?)[- ]([bl]|so400m)/?(\d+)(?:[-@](\d+))?$", low):
        forms += [
            f"vit-{siglip[2]}-{siglip[3]}-{siglip[1]}" + (f"-{siglip[4]}" if siglip[4] else tail)
            for tail in ("", "-256")
        ]
    for form in list(forms):
        forms.append(re.sub(r"[-_ ]?x?(\d)\.(\d+)x?$", _hundredths, form))  # MobileNetV2 1.4x -> ...140
        forms.append(re.sub(r"[-_ ]?(\d)\.(\d)x?$", r"x\1\2", form))  # ShuffleNetV2 1.5x -> ...x15
        if letter := re.search(r"[-_ ]?(ti|xs|t|s|m|b|l|h)(?=/\d+|$)", form):
            forms.append(form[: letter.start()] + SIZES[letter[1]] + form[letter.end() :])
    forms += [re.sub(r"/(\d+)$", r"patch\1", form) for form in forms]
    seen: dict[str, None] = {}
    for form in forms:
        spelled = squash(form)
        for tail in ("", "100", "224", "patch16224", "patch4window7224"):
            seen[spelled + tail] = None
        seen[f"tf{spelled}"] = None
    return seen


def _hundredths(match: re.Match[str]) -> str:
    return f"{round(float(f'{match[1]}.{match[2]}') * 100):03d}"


@functools.cache
def _libraries() -> dict[Library, dict[str, str]]:
    """Squashed -> name, of every library; in the order in which they are asked."""
    from distill.core.clip.model import import_open_clip
    from students.spec import STUDENTS

    clips = [*import_open_clip().list_models(), *CLIPS]
    import timm
    import torchvision

    nets = [name for name in timm.list_models() if "." not in name]
    others = torchvision.models.list_models(torchvision.models)
    named: dict[Library, Iterable[str]] = {"timm": nets, "clip": clips, "tv": others, "student": [*STUDENTS]}
    return {kind: {squash(name): name for name in names} for kind, names in named.items()}


def _own_size(library: Library, name: str, tower: str) -> int:
    if library in ("clip", "student"):
        config = clip_config(library, name)
        if tower == "text":
            return int(config["text_cfg"].get("context_length", DEFAULT_TOKENS))
        return int(config["vision_cfg"].get("image_size", DEFAULT_PIXELS))
    if library == "timm":
        import timm

        config = timm.get_pretrained_cfg(name)
        return int(config.input_size[-1]) if config is not None else DEFAULT_PIXELS
    if library == "hf":
        return 128 if name in ("nomic", "distilbert") else 384
    return DEFAULT_TOKENS if tower == "text" else DEFAULT_PIXELS


def clip_config(library: Library, name: str) -> dict[str, Any]:
    """open_clip's configuration of a "clip" or "student" model."""
    if library == "student":
        from students.spec import STUDENTS

        return STUDENTS.get(name).model_cfg
    if name in CLIPS:
        return CLIPS[name]
    from distill.core.clip.model import import_open_clip

    return dict(import_open_clip().get_model_config(name))
