"""CoCa captioners (arXiv:2205.01917) through open_clip's model class: published, from a checkpoint, or a folder trained here.

Names: "coca-vitl14", "coca-vitl14-mscoco", "coca:MODEL/TAG", "coca:MODEL@CHECKPOINT", or a folder's path. The image is
encoded once for all captions of an image, and only the last position is projected to the vocabulary. Pictures are resized
and centre-cropped as the checkpoint's own transform says (a square resize, as teachers see views, would distort them).
Left out: text towers from Hugging Face (no published captioner has one) and half precision.
"""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from distill.core.clip.folder import is_clip_folder, read_config
from distill.core.errors import DistillError, UsageError
from teachers.captioner import CAPTIONER_SPECS, CAPTIONERS, Captioner, CaptionerLoader, CaptionerSpec, CaptionSettings
from teachers.spec import absolute_checkpoint

if TYPE_CHECKING:
    from torch import Tensor

    from distill.core.arrays import Array
    from teachers.captioners.parts.decoding import Markers
    from teachers.open_clip.teacher import OpenClipTeacher

_LICENCE = "MIT"  # of the two published checkpoints; the second was tuned on COCO captions (CC-BY-4.0)
for _name, _source in (
    ("coca-vitl14", "coca_ViT-L-14/laion2b_s13b_b90k"),
    ("coca-vitl14-mscoco", "coca_ViT-L-14/mscoco_finetuned_laion2b_s13b_b90k"),
):
    CAPTIONER_SPECS.register(_name)(CaptionerSpec(_name, "coca", _source, _LICENCE, True))


def coca_spec(name: str, source: str) -> CaptionerSpec:
    """The facts of "MODEL/TAG" or "MODEL@CHECKPOINT". Raises UsageError with the nearest known name; no network."""
    from teachers.open_clip.names import model_config, spec_of, split_source

    teacher = spec_of(name, source)
    model, _, _ = split_source(source)
    _refuse_other_models(model_config(model), f"The open_clip model {model!r}")
    for _, known in CAPTIONER_SPECS.items():
        if known.source == source:
            return CaptionerSpec(name, "coca", source, known.licence, known.commercial)
    return CaptionerSpec(name, "coca", source, teacher.licence, teacher.commercial)


def is_coca_folder(path: Path) -> bool:
    """Whether `path` is a model folder in the shared format whose model has a caption decoder."""
    return is_clip_folder(path) and "multimodal_cfg" in read_config(path)["model_cfg"]


def folder_captioner_spec(name: str, path: Path) -> CaptionerSpec | None:
    """The facts of a CoCa folder made by `distill train`, licence from its card; None for any other folder.

    Raises DistillError for unreadable files.
    """
    if not is_coca_folder(path):
        return None
    from teachers.open_clip.folder import folder_spec

    facts = folder_spec(path)
    return CaptionerSpec(name, "coca-folder", str(path), facts.licence, facts.commercial)


class CocaCaptioner(Captioner):
    """A CoCa that captions through its own text tower; the image tower runs once for all captions of a batch.

    Args:
        spec: its facts.
        settings: how it decodes.
        teacher: the same weights as a teacher: its model, whose text tower writes the captions, and its tokenizer.
        preprocess_cfg: open_clip's keys of how the checkpoint resizes and crops; absent ones are open_clip's defaults.
    """

    def __init__(
        self, spec: CaptionerSpec, settings: CaptionSettings, teacher: OpenClipTeacher, preprocess_cfg: dict[str, Any]
    ) -> None:
        from open_clip.transform import PreprocessCfg, image_transform_v2

        from teachers.captioners.parts.decoding import Markers

        self.spec = spec
        self.settings = settings
        self.model = teacher.model
        self.tokenizer = teacher.tokenizer
        self.tokenizer_name = teacher.tokenizer_name
        self.weights_sha256 = teacher.weights_sha256
        known = {field.name for field in fields(PreprocessCfg)}
        given = {key: value for key, value in preprocess_cfg.items() if key in known}
        self.preprocess = {**given, **asdict(teacher.preprocess)}
        self.transform = image_transform_v2(PreprocessCfg(**self.preprocess), is_train=False)
        self.markers: Markers = Markers(
            start=int(self.tokenizer.sot_token_id),
            end=int(self.tokenizer.eot_token_id),
            context_length=int(self.model.context_length),
        )

    @override
    def to(self, device: Any) -> CocaCaptioner:
        self.model.to(device)
        return self

    @property
    @override
    def device(self) -> Any:
        return next(self.model.parameters()).device

    @override
    def caption(self, images: list[Array], seeds: list[int]) -> list[list[str]]:
        import torch

        from teachers.captioners.parts.decoding import decode_tokens

        if len(images) != len(seeds):
            raise DistillError(f"{len(images)} images came with {len(seeds)} seeds; one each is needed.")
        if not images:
            return []
        with torch.no_grad():
            pixels = torch.stack([self.transform(_picture(image)) for image in images]).to(self.device)
            _, image_tokens = self.model._encode_image(pixels.to(self.model.logit_scale.dtype))
        step = CocaStep(self.model, image_tokens)
        made = decode_tokens(step, self.settings, seeds, self.markers, self.device)
        return [[self.text(tokens) for tokens in captions] for captions in made]

    def text(self, tokens: list[int]) -> str:
        """Token ids as text, pieces joined."""
        from teachers.captioners.parts.text import join_pieces

        return join_pieces(self.tokenizer.decode(tokens))

    @override
    def describe(self) -> dict[str, object]:
        import open_clip
        import torch

        return {
            "spec": asdict(self.spec),
            "decode": self.settings.model_dump(),
            "weights_sha256": self.weights_sha256,
            "rehearsal": self.weights_sha256 == "random",
            "preprocess": self.preprocess,
            "tokenizer": self.tokenizer_name,
            "context_length": self.markers.context_length,
            "versions": {"open_clip": open_clip.__version__, "torch": torch.__version__},
        }


class CocaStep:
    """Logits of the next token, given image tokens that were computed once.

    Args:
        model: open_clip's CoCa.
        image_tokens: [b, P, D] of its image tower.
    """

    def __init__(self, model: Any, image_tokens: Tensor) -> None:
        self._model = model
        self._images = image_tokens
        self._owner: Tensor | None = None
        self._rows = image_tokens

    def __call__(self, tokens: Tensor, owner: Tensor) -> Tensor:
        """[n, t] tokens and [n] image indices -> [n, V]."""
        if self._owner is None or owner.shape != self._owner.shape or not bool((owner == self._owner).all()):
            self._owner, self._rows = owner, self._images[owner]
        _, hidden = self._model._encode_text(tokens)
        decoder, length = self._model.text_decoder, tokens.shape[1]
        for block, cross in zip(decoder.resblocks, decoder.cross_attn, strict=True):
            hidden = block(hidden, attn_mask=decoder.attn_mask[:length, :length])
            hidden = cross(hidden, k_x=self._rows, v_x=self._rows)
        logits: Tensor = decoder.ln_final(hidden[:, -1]) @ decoder.text_projection
        return logits


def _picture(image: Array) -> Any:
    from PIL import Image

    if image.ndim != 3 or image.shape[2] != 3 or image.dtype.name != "uint8":
        raise DistillError(f"A captioner wants [H, W, 3] uint8 images; this one is {image.dtype} {list(image.shape)}.")
    return Image.fromarray(image)


def load_coca(spec: CaptionerSpec, settings: CaptionSettings, random_weights: bool, seed: int) -> CocaCaptioner:
    """A published CoCa or a checkpoint of one; raises what `load_open_clip` raises."""
    from teachers.open_clip.names import spec_of
    from teachers.open_clip.teacher import load_open_clip

    teacher = load_open_clip(
        spec_of(spec.name, spec.source), random_weights=random_weights, seed=seed, noun="captioner"
    )
    return CocaCaptioner(spec, settings, teacher, {})


def load_coca_folder(spec: CaptionerSpec, settings: CaptionSettings, random_weights: bool, seed: int) -> CocaCaptioner:
    """A folder made by `distill train` with a CoCa student."""
    from teachers.open_clip.folder import load_folder

    path = Path(spec.source)
    teacher = load_folder(path, random_weights=random_weights, seed=seed)
    return CocaCaptioner(spec, settings, teacher, dict(read_config(path).get("preprocess_cfg", {})))


def _refuse_other_models(config: dict[str, Any], what: str) -> None:
    if "multimodal_cfg" not in config:
        raise UsageError(f"{what} has no caption decoder: it is no CoCa. `distill list captioners` shows what is.")
    if config["text_cfg"].get("hf_model_name"):
        raise UsageError(f"{what} has a text tower from Hugging Face, which captioners here do not decode with.")


CAPTIONERS.register("coca")(
    CaptionerLoader(
        load_coca,
        spec_of_name=coca_spec,
        absolute=absolute_checkpoint,
        forms=("coca:MODEL/TAG", "coca:MODEL@CHECKPOINT"),
    )
)
CAPTIONERS.register("coca-folder")(CaptionerLoader(load_coca_folder, spec_of_folder=folder_captioner_spec))
