"""`DistillTask`: everything trainable in one module (the model and the objective's own parameters), nothing frozen.

Stored and live teachers look the same from here: a batch carries teacher embeddings, or none.
"""

import math
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import override

from distill.core.errors import UsageError
from distill.learning.blocks import in_chunks, refuse_in_chunks
from distill.learning.consistency import consistency_weights, normalised
from distill.learning.embeddings import Embeddings, Matches, embeddings, gather, gather_ids, row_ids
from distill.learning.freezing import TextFreeze, text_parameters
from distill.learning.loop.trainable import Trainable
from distill.learning.objective import Objective
from distill.learning.scale import clamp_scale
from teachers.spec import TeacherFacts


class TwoTowers(Protocol):
    """What is trained: a student, a full teacher, or alignment heads over frozen towers."""

    log_logit_scale: nn.Parameter

    @property
    def logit_scale(self) -> Tensor:
        """[], already exponentiated."""
        ...

    def encode_image(self, images: Tensor) -> Tensor:
        """[b, ...] -> [b, D], unit length."""
        ...

    def encode_text(self, texts: Tensor) -> Tensor:
        """[b, ...] -> [b, D], unit length."""
        ...


class DistillTask(Trainable):
    """Forward pass and loss.

    A logit scale that no loss reads gets no gradient, which DistributedDataParallel takes for an error; it is frozen here,
    and `settle_scale` gives it a meaning afterwards.

    Args:
        model: a `TwoTowers` module.
        objective: the losses.
        teacher_facts: of the teachers whose embeddings the batches carry.
        scale: fixes the logit scale of student and softmax teachers (the tinyclip preset), None = learned and own.
        consistency: temperature of the weights by teacher consistency (see `distill.learning.consistency`), None = none.
        freeze: in which steps the text tower stays as it is, None = it never does.
        fixed_norms: BatchNorms use the statistics that they have, and keep them.
        chunk: rows that a tower takes at a time, see `distill.learning.blocks.in_chunks`; None = all.
        texts_weight: of the losses on unpaired texts.

    Raises UsageError where stored text embeddings are to stand for the student's and have another width, and where the model
    cannot be trained in chunks.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        teacher_facts: dict[str, TeacherFacts],
        scale: float | None = None,
        consistency: float | None = None,
        freeze: TextFreeze | None = None,
        fixed_norms: bool = False,
        chunk: int | None = None,
        texts_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.teacher_facts = teacher_facts
        self.scale = scale
        self.consistency = consistency
        self.freeze = freeze if freeze is not None and freeze.steps else None
        self.fixed_norms = fixed_norms
        self.chunk = chunk
        if chunk is not None:
            refuse_in_chunks(model, fixed_norms, objective.needs_captions)
        self.texts_weight = texts_weight
        self._frozen = False
        if self.freeze is not None:
            self.freeze.check(teacher_facts, objective.needs_captions, objective.width)
        self.learns_scale = scale is None and objective.reads_scale
        self._two_towers.log_logit_scale.requires_grad_(self.learns_scale)
        if not objective.needs_captions and isinstance(decoder := getattr(model, "caption_decoder", None), nn.Module):
            decoder.requires_grad_(False)  # no loss of this objective reaches it
        self.after_step()  # a start that was inherited may lie above the bound

    @property
    def _two_towers(self) -> TwoTowers:
        return self.model  # type: ignore[return-value]

    @override
    def train(self, mode: bool = True) -> "DistillTask":
        super().train(mode)
        if self.fixed_norms:
            for module in self.model.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def before_step(self, step: int) -> None:
        """Freeze the text tower, or let it go."""
        self._frozen = self.freeze is not None and step < self.freeze.steps

    def drop_gradients(self) -> None:
        """A frozen text tower keeps its weights: without a gradient AdamW neither moves nor decays them."""
        if self._frozen:
            for parameter in text_parameters(self.model):
                parameter.grad = None

    def after_step(self) -> None:
        """Bring every learned scale back below its bound."""
        clamp_scale(self._two_towers.log_logit_scale)
        self.objective.clamp()

    @override
    def parts(self, inputs: tuple[Any, ...], count: int) -> list[tuple[Any, ...]]:
        """See Trainable. Part i of `forward`'s arguments holds the i-th share of the pairs, in every stream of texts."""
        b = len(inputs[0])
        size = b // count
        if b % count:
            raise UsageError(f"train.accumulate: the {b} pairs of a process do not divide into {count} parts.")

        def share(value: Any, i: int) -> Any:
            """Of a number, of a tensor of one or several streams of b rows after each other, or of a dictionary of them."""
            if value is None:
                return None
            if isinstance(value, int):
                return value // count
            if isinstance(value, dict):
                return {name: share(inner, i) for name, inner in value.items()}
            return torch.cat([stream[i * size : (i + 1) * size] for stream in torch.split(value, b)])

        return [tuple(share(value, i) for value in inputs) for i in range(count)]

    def settle_scale(self) -> str:
        """Give the model the logit scale that its training used, and say where it is from; for after the last step.

        A scale that was trained stays. One that no loss has read is set to the scale that the preset fixed, else to one that
        a loss kept for itself, else to the first teacher's.
        """
        if self.learns_scale:
            return "trained"
        parameter = self._two_towers.log_logit_scale
        kept = [(name, loss.scale()) for name, loss in self.objective.named_losses()]
        if self.scale is not None:
            scale, origin = self.scale, "fixed by the objective"
        elif own := [(name, value) for name, value in kept if value is not None]:
            scale, origin = own[0][1], f"of the {own[0][0]} loss, no loss trains the student's own"
        elif self.teacher_facts:
            facts = next(iter(self.teacher_facts.values()))
            scale, origin = facts.logit_scale, f"of the teacher {facts.name}, no loss trains the student's own"
        else:
            return "as it began: no loss trains it"
        with torch.no_grad():
            parameter.fill_(math.log(scale))  # not clamped: SigLIP's are above 100, and that is what training used
        return origin

    def forward(
        self,
        images: Tensor,
        texts: Tensor,
        teacher_image: dict[str, Tensor],
        teacher_text: dict[str, Tensor],
        weights: Tensor | None = None,
        image_ids: Tensor | None = None,
        unpaired: int = 0,
    ) -> dict[str, Tensor]:
        """Named losses of one batch, see `Objective.forward`, each the sum over the streams of texts.

        Unpaired texts are a stream whose rows belong to no image: the losses that need no pairs compare it with the same
        images, which so learn to be told apart by words that no caption holds. Their weighted sum is "texts".

        The towers run under the caller's autocast, the losses in float32 outside it: at half precision the logits of a large
        batch would differ by more than what the loss has to tell apart.

        Images are encoded once, the texts of all streams in one go, as MobileCLIP does (arXiv 2311.17049, section 3).

        Args:
            images: [b, 3, H, W] in [0, 1], or [b, F] features.
            texts: LongTensor [streams x b, L], or [streams x b, F] features; row s * b + i goes with image i. Unpaired ones follow.
            teacher_image, teacher_text: teacher name -> [b, D_t] and a row for each text, unit length.
            weights: [b], how much each pair counts; None = all the same.
            image_ids: LongTensor [b], equal for equal images; None = all differ.
            unpaired: how many of the texts, the last ones, belong to no image: b or 0.
        """
        model = self._two_towers
        own_scale = model.logit_scale
        scale = own_scale if self.scale is None else torch.full_like(own_scale, self.scale)
        b, captions = images.shape[0], len(texts) - unpaired
        if unpaired and not (self.texts_weight and self.objective.reads_unpaired):
            texts, unpaired = texts[:captions], 0
            teacher_text = {name: rows[:captions] for name, rows in teacher_text.items()}
        student = self._student(model, images, texts, scale, teacher_text)
        with torch.autocast(images.device.type, enabled=False):
            with torch.no_grad():
                teacher_embeds = self._teacher_embeds(teacher_image, teacher_text, b, len(student))
                paired = captions // b
                counts = self._weights(teacher_embeds[:paired], weights, student[0].first, b)
                same = [_positives(stream, image_ids) for stream in torch.split(texts[:captions], b)]
            parts = [
                self.objective(replace(own, positives=positives), theirs, count)
                for own, positives, theirs, count in zip(
                    student[:paired], same, teacher_embeds[:paired], counts, strict=True
                )
            ]
            named = {name: torch.stack([part[name] for part in parts]).sum(0) for name in parts[0]}
            for own, theirs in zip(student[paired:], teacher_embeds[paired:], strict=True):
                named["texts"] = self.objective(own, theirs, paired=False)["loss"]
                named["loss"] = named["loss"] + self.texts_weight * named["texts"]
        # DistributedDataParallel wants a gradient of every parameter.
        if self._frozen and not self.sharded and torch.distributed.is_initialized():
            named["loss"] = named["loss"] + 0.0 * sum(p.sum() for p in text_parameters(self.model))
        return named

    def _student(
        self, model: TwoTowers, images: Tensor, texts: Tensor, scale: Tensor, stored: dict[str, Tensor]
    ) -> list[Embeddings]:
        """The student's embeddings of each stream of texts, its next-token logits among them where a loss reads them."""
        streams = torch.split(texts, images.shape[0])
        if self.objective.needs_captions:
            return [self._captioned(model, images, stream, scale) for stream in streams]
        image = _at_least_float32(in_chunks(model.encode_image, images, self.chunk))
        every, read = gather(image), torch.split(self._text(model, texts, stored), images.shape[0])
        return [embeddings(image, text, scale, all_image=every) for text in read]

    def _text(self, model: TwoTowers, texts: Tensor, stored: dict[str, Tensor]) -> Tensor:
        """[streams x b, D]: the text embeddings that the losses see as the student's."""
        if not self._frozen:
            return _at_least_float32(in_chunks(model.encode_text, texts, self.chunk))
        if self.freeze is not None and self.freeze.against == "stored":
            return _at_least_float32(stored[next(iter(self.teacher_facts))])
        with torch.no_grad():
            return _at_least_float32(in_chunks(model.encode_text, texts, self.chunk))

    def _captioned(self, model: TwoTowers, images: Tensor, texts: Tensor, scale: Tensor) -> Embeddings:
        image, text, logits, labels = model.encode_pair(images, texts)  # type: ignore[attr-defined]
        own = embeddings(_at_least_float32(image), _at_least_float32(text), scale)
        tokens = gather((labels != -100).sum().float().view(1)).mean()  # ranks with longer captions count for more
        return replace(own, caption_logits=_at_least_float32(logits), caption_labels=labels, caption_tokens=tokens)

    def _teacher_embeds(
        self, image: dict[str, Tensor], text: dict[str, Tensor], b: int, streams: int
    ) -> list[dict[str, Embeddings]]:
        """Per stream, teacher name -> embeddings; empty when nobody asks for them."""
        result: list[dict[str, Embeddings]] = [{} for _ in range(streams)]
        if not self.objective.needs_teachers and self.consistency is None:
            return result
        for name, facts in self.teacher_facts.items():
            factor = self.scale if self.scale is not None and facts.kind == "softmax" else facts.logit_scale
            place, every = image[name].device, gather(image[name])
            for stream, rows in zip(result, torch.split(text[name], b), strict=True):
                stream[name] = embeddings(
                    image[name],
                    rows,
                    torch.full((), factor, device=place),  # filled there: copying a number makes the host wait
                    torch.full((), facts.logit_bias, device=place),
                    facts.kind,
                    every,
                )
        return result

    def _weights(
        self, teacher_embeds: list[dict[str, Embeddings]], given: Tensor | None, first: int, b: int
    ) -> list[Tensor | None]:
        """Per stream the weights [b] of this rank's pairs, of mean 1 over all ranks; None = all the same."""
        if given is None and self.consistency is None:
            return [None] * len(teacher_embeds)
        every = [torch.ones(())] * len(teacher_embeds)
        if self.consistency is not None and all(teacher_embeds):
            every = consistency_weights(teacher_embeds, self.consistency)
        if given is not None:
            total = gather(given)
            every = [weights.to(total.device) * total for weights in every]
        return [normalised(weights)[first : first + b] for weights in every]


def _at_least_float32(embeds: Tensor) -> Tensor:
    """Embeddings as the losses want them: they come out of towers under autocast."""
    return embeds if embeds.dtype == torch.float64 else embeds.float()


def _positives(texts: Tensor, image_ids: Tensor | None) -> Matches:
    """Pairs with the same caption (as the text tower reads it) or the same image, on any rank."""
    ways = [row_ids(texts)] if image_ids is None else [row_ids(texts), image_ids]
    return Matches(tuple(ways), tuple(gather_ids(way) for way in ways))
