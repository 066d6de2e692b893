"""`hf:NAME_OR_PATH`: image-to-text models of Hugging Face transformers (BLIP, GIT, VisionEncoderDecoder, ...).

One image at a time, so that its captions depend on its own seed alone; its N captions come from one `generate` call, in
which encoder-decoder models and BLIP encode the image once. Files are looked for offline first (see `distill.core.folders.hub`);
weights are read from safetensors only, and no code from a repository is run. Needs the extra: `pip install
'distill-edge[captioners]'`. Left out: chat models that want a prompt (write a `python:` captioner for those).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from distill.core.atomic import sha256_file
from distill.core.errors import DistillError, UsageError
from distill.core.folders.hub import find_weights
from teachers.captioner import CAPTIONERS, Captioner, CaptionerLoader, CaptionerSpec, CaptionSettings
from teachers.spec import absolute_path

if TYPE_CHECKING:
    from distill.core.arrays import Array

_NEEDED = ["*.json", "*.txt", "*.model", "*.safetensors"]


def hf_spec(name: str, source: str) -> CaptionerSpec:
    """The facts of a hub name or folder; nothing is read. Raises UsageError when `source` is neither."""
    if not source:
        raise UsageError("hf: needs a name: hf:ORGANISATION/MODEL or hf:FOLDER.")
    path = Path(source).expanduser()
    if path.is_dir():
        return CaptionerSpec(name, "hf", source, f"unknown: read the terms in {source}", False)
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise UsageError(f"There is no folder {str(path)!r}, and {source!r} is no hub name (ORGANISATION/MODEL).")
    return CaptionerSpec(name, "hf", source, f"unknown: read https://huggingface.co/{source}", False)


class HfCaptioner(Captioner):
    """An image-to-text model of transformers, which captions one image at a time.

    Args:
        spec, settings: its facts, and how it decodes.
        model: a transformers model with `generate`; put into eval mode.
        image_processor, tokenizer: of transformers.
        weights_sha256: of the weight files, in name order; "random" in a rehearsal.
    """

    def __init__(
        self,
        spec: CaptionerSpec,
        settings: CaptionSettings,
        model: Any,
        image_processor: Any,
        tokenizer: Any,
        weights_sha256: str,
    ) -> None:
        self.spec = spec
        self.settings = settings
        self.model = model.eval().requires_grad_(False)
        self.image_processor = image_processor
        self.tokenizer = tokenizer
        self.weights_sha256 = weights_sha256

    @override
    def to(self, device: Any) -> HfCaptioner:
        self.model.to(device)
        return self

    @property
    @override
    def device(self) -> Any:
        return self.model.device

    @override
    def caption(self, images: list[Array], seeds: list[int]) -> list[list[str]]:
        return [self._one(image, seed) for image, seed in zip(images, seeds, strict=True)]

    def _one(self, image: Array, seed: int) -> list[str]:
        import torch
        from PIL import Image

        inputs = self.image_processor(images=Image.fromarray(image), return_tensors="pt")
        pixels = inputs["pixel_values"].to(self.model.device, self.model.dtype)
        with _seeded(self.settings.image_seed(seed), pixels.device), torch.no_grad(), _quiet():
            try:
                made = self.model.generate(pixel_values=pixels, **_generate_options(self.settings, self._room()))
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                raise DistillError(
                    f"The captioner {self.spec.name!r} cannot generate from an image alone: "
                    f"{' '.join(str(error).split())[:300]}. Is it an image-to-text model that needs no prompt?"
                ) from error
        return [str(text) for text in self.tokenizer.batch_decode(made, skip_special_tokens=True)]

    def _room(self) -> int:
        """Tokens that the text decoder has positions for, its start marker apart."""
        text = self.model.config.get_text_config(decoder=True)
        positions = getattr(text, "max_position_embeddings", None)
        return self.settings.max_tokens if not isinstance(positions, int) else max(1, positions - 1)

    @override
    def describe(self) -> dict[str, object]:
        import torch
        import transformers

        return {
            "spec": asdict(self.spec),
            "decode": self.settings.model_dump(),
            "weights_sha256": self.weights_sha256,
            "rehearsal": self.weights_sha256 == "random",
            "preprocess": _plain(self.image_processor.to_dict()),
            "tokenizer": type(self.tokenizer).__name__,
            "versions": {"transformers": transformers.__version__, "torch": torch.__version__},
        }


def _generate_options(settings: CaptionSettings, room: int) -> dict[str, Any]:
    options: dict[str, Any] = {
        "num_return_sequences": settings.captions,
        "max_new_tokens": min(settings.max_tokens, room),
        "min_new_tokens": min(settings.min_tokens, room),
    }
    if settings.beams > 1:
        return {**options, "do_sample": False, "num_beams": settings.beams}
    if settings.temperature == 0:
        return {**options, "num_return_sequences": 1, "do_sample": False, "num_beams": 1}
    nucleus = 1.0 if settings.top_p is None else settings.top_p
    # top_k = 0: transformers would keep the 50 best by default
    return {
        **options,
        "do_sample": True,
        "num_beams": 1,
        "top_p": nucleus,
        "top_k": 0,
        "temperature": settings.temperature,
    }


@contextlib.contextmanager
def _seeded(seed: int, device: Any) -> Iterator[None]:
    """`generate` draws from torch's global generators: seeded inside, the caller's state untouched."""
    import torch

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """transformers logs advice on generation flags that are meant here, and draws bars of its own."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def _plain(value: Any) -> Any:
    """`value` as JSON has it; what JSON has not becomes text."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def load_hf(spec: CaptionerSpec, settings: CaptionSettings, random_weights: bool, seed: int) -> HfCaptioner:
    """The model in a folder or on the hub. A rehearsal still needs its configuration and tokenizer files.

    Raises:
        DistillError: transformers or files are missing, or the files do not fit.
    """
    import torch

    from distill.core.torch_compat import ensure_torchvision

    ensure_torchvision()
    try:
        import transformers
    except ImportError:
        raise DistillError(
            f"The captioner {spec.name!r} needs the package transformers: pip install 'distill-edge[captioners]'."
        ) from None
    folder = _folder(spec)
    files = sorted(folder.glob("*.safetensors"))
    if not files and not random_weights:
        raise DistillError(
            f"The captioner {spec.name!r} has no .safetensors weights in {folder}. Other weight files are not read here: "
            "convert them once (model.save_pretrained of transformers writes safetensors), and name that folder with hf:PATH."
        )
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        with _quiet():
            image_processor = transformers.AutoImageProcessor.from_pretrained(folder, **options)
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
            if random_weights:
                config = transformers.AutoConfig.from_pretrained(folder, **options)
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(seed)
                    model = transformers.AutoModelForImageTextToText.from_config(config)
            else:
                load = transformers.AutoModelForImageTextToText.from_pretrained
                model = load(folder, use_safetensors=True, **options)
    except Exception as error:  # configuration, tokenizer and weight errors have no common base
        raise DistillError(
            f"The captioner {spec.name!r} in {folder} cannot be loaded by transformers {transformers.__version__}: "
            f"{' '.join(str(error).split())[:300]}. It must be an image-to-text model with its image processor and tokenizer."
        ) from error
    return HfCaptioner(
        spec, settings, model, image_processor, tokenizer, "random" if random_weights else _sha256(files)
    )


def _sha256(files: list[Path]) -> str:
    import hashlib

    if len(files) == 1:
        return sha256_file(files[0])
    return hashlib.sha256("".join(sha256_file(file) for file in files).encode()).hexdigest()


def _folder(spec: CaptionerSpec) -> Path:
    """Where the files are: the named folder, $DISTILL_WEIGHTS, the cache, or downloaded now."""
    path = Path(spec.source).expanduser()
    if path.is_dir():
        return path
    what = f"the files of captioner {spec.name!r}"
    folder = find_weights(spec.source, "config.json", what=what).parent
    if any(folder.glob("*.safetensors")):
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(spec.source, allow_patterns=_NEEDED))
    except Exception as error:  # offline, or any transport error: the weights are what is missing
        raise DistillError(
            f"Cannot find {what}: {folder} holds its configuration but no .safetensors weights, and they could not be "
            f"fetched ({' '.join(str(error).split())[:160]}). Put a whole copy of the repository into a folder and name it "
            "with hf:PATH."
        ) from None


CAPTIONERS.register("hf")(
    CaptionerLoader(load_hf, spec_of_name=hf_spec, absolute=absolute_path, forms=("hf:NAME_OR_PATH",))
)
