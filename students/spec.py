"""`StudentSpec`: an architecture by name, in open_clip's own configuration words. Importable without torch."""

import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from distill.core.errors import UsageError
from distill.core.registry import Registry


@dataclass(frozen=True)
class PublishedTraining:
    """How the authors of a family of students trained it: the defaults of a run that leaves these settings out.

    Attributes:
        source: paper, and where in it.
        steps, batch_size: of the published run; their product is the number of samples that the student saw.
        batch_per_process: pairs on one GPU of the published run.
        lr, lr_floor, weight_decay, beta1, beta2, clip_norm: of AdamW with a cosine schedule.
        warmup_share: of the steps.
        epochs: over data of a user's size, with `epochs_note` saying where the number is from.
        objective: a preset of losses, published for batches of `objective_batch` and more.
        view_preset, views: how many views per image teachers label, drawn how; None = not published.
        views_note: where the number of views is from.
    """

    source: str
    steps: int
    batch_size: int
    batch_per_process: int
    lr: float
    lr_floor: float
    weight_decay: float
    beta1: float
    beta2: float
    clip_norm: float
    warmup_share: float
    epochs: float
    epochs_note: str
    objective: str
    objective_batch: int
    view_preset: str | None = None
    views: int | None = None
    views_note: str = ""

    @property
    def samples(self) -> int:
        """Seen in the published run."""
        return self.steps * self.batch_size


@dataclass(frozen=True)
class StudentSpec:
    """One student architecture.

    Attributes:
        name: registry name, for example "mci2".
        model_cfg: open_clip model configuration (embed_dim, vision_cfg, text_cfg), as in its model_configs/*.json.
        mean, std: of the image normalisation, RGB.
        interpolation: "bilinear" or "bicubic", for resizing a whole image to vision_cfg.image_size; of published models, theirs.
            The crops that training draws are bicubic, so that every model of a set sees the same ones.
        resize_mode: how a whole image becomes a square: "shortest" (centre crop), "squash" or "longest", in open_clip's words.
        vocabulary: None for CLIP's own BPE; else a merges file (a path that ends in .gz, or the name of one in
            students/vocabularies/) that is CLIP's BPE cut to the merges that a corpus needs (every other word still tokenises,
            in more pieces). Its size is filled into text_cfg when the student is built.
        tokenizer: of a text tower of Hugging Face kind, a tokenizer.json, a vocab.txt or a folder with one; None = the tokenizer
            that text_cfg names, from an installed package, the Hub's cache or the Hub.
        published_params: (image tower, text blocks, token embedding) in millions, before reparameterization: of the published
            model, of our own architectures as they are built; None for one that is put together or changed.
        note: what it is, in a few words for lists.
        training: how its authors trained it; None = not published.
        activation_mb: what a training step keeps of one pair for the backward pass, in megabytes at bf16 (twice that at
            fp32), measured by saved-tensor hooks; None = not measured.
    """

    name: str
    model_cfg: dict[str, Any] = field(hash=False)
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    vocabulary: str | None = None
    tokenizer: str | None = None
    published_params: tuple[float, float, float] | None = None
    note: str = ""
    training: PublishedTraining | None = None
    activation_mb: float | None = None

    @property
    def image_size(self) -> int:
        """Pixels, square."""
        return int(self.model_cfg["vision_cfg"]["image_size"])

    @property
    def context_length(self) -> int:
        """L, tokens."""
        return int(self.model_cfg["text_cfg"].get("context_length", 77))

    @property
    def captions(self) -> bool:
        """Whether the architecture has a caption decoder (a CoCa)."""
        return "multimodal_cfg" in self.model_cfg

    def resized(
        self,
        *,
        image_size: int | None = None,
        context_length: int | None = None,
        text_layers: int | None = None,
        embed_dim: int | None = None,
    ) -> "StudentSpec":
        """The same architecture with another input size, context length, text depth or width of embeddings (None leaves it alone).

        Such a student no longer has the published parameter counts, so they are dropped; what its training keeps is taken
        to grow with the pixels.

        Raises UsageError for embeddings of another width where a tower's own width is the embeddings'.
        """
        if image_size is context_length is text_layers is embed_dim is None:
            return self
        cfg = copy.deepcopy(self.model_cfg)
        if image_size is not None:
            cfg["vision_cfg"]["image_size"] = image_size
        if context_length is not None:
            cfg["text_cfg"]["context_length"] = context_length
            if "multimodal_cfg" in cfg:
                cfg["multimodal_cfg"]["context_length"] = context_length
        if text_layers is not None:
            cfg["text_cfg"]["layers"] = text_layers
        if embed_dim is not None:
            if self.captions:
                raise UsageError(
                    f"The embeddings of {self.name!r} are as wide as its caption decoder: leave embed_dim out."
                )
            cfg["embed_dim"] = embed_dim
        activation_mb = self.activation_mb
        if activation_mb is not None and image_size is not None:
            activation_mb *= (image_size / self.image_size) ** 2
        return replace(self, model_cfg=cfg, published_params=None, activation_mb=activation_mb)

    def with_tokenizer(self, tokenizer: str) -> "StudentSpec":
        """The same architecture over the tokenizer in a file or folder. Raises UsageError where it reads CLIP's byte pairs."""
        if "hf_tokenizer_name" not in self.model_cfg["text_cfg"]:
            raise UsageError(
                f"{self.name!r} reads CLIP's byte pairs, and student.tokenizer = {tokenizer!r} is for text towers of Hugging Face "
                "kind (timm:TOWER+hf:bert-LAYERSxWIDTH[xMLP]). Leave it out, or choose such a student."
            )
        return replace(self, tokenizer=tokenizer, published_params=None)

    def with_vocabulary(self, merges: str) -> "StudentSpec":
        """The same architecture over a cut vocabulary of CLIP's byte pairs, in a file that ends in .gz.

        Raises UsageError where it reads the tokens of Hugging Face tokenizers, or the file is not there.
        """
        if "hf_tokenizer_name" in self.model_cfg["text_cfg"]:
            raise UsageError(
                f"{self.name!r} reads no byte pairs, which {merges!r} holds: give its tokenizer by student.tokenizer, or let it be "
                "cut by student.vocabulary = auto:8000."
            )
        if not merges.endswith(".gz") or not Path(merges).is_file():
            raise UsageError(
                f"There is no file {merges!r} of CLIP's merges (bpe_merges.txt.gz, as a student/ folder holds it)."
            )
        return replace(self, vocabulary=merges, published_params=None)


STUDENTS: Registry[StudentSpec] = Registry("student", ("students.zoo",))
