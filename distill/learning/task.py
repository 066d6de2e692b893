"""`DistillTask`: everything trainable in one module (the model and the objective's own parameters), nothing frozen.

Stored and live teachers look the same from here: a batch carries teacher embeddings, or none.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from distill.learning.consistency import consistency_weights, normalised
from distill.learning.embeddings import Embeddings, embeddings, gather
from distill.learning.objective import Objective
from teachers.spec import TeacherFacts


class PairBatch(Protocol):
    """b pairs on this rank, see `reinforced_data.sample.Batch`."""

    images: Tensor
    texts: Any
    teacher_image: dict[str, Tensor]
    teacher_text: dict[str, Tensor]
    keys: list[str]
    weights: Tensor | None


def pair_arguments(tokenize: Callable[[Any], Tensor]) -> Callable[[PairBatch, torch.device], tuple[Any, ...]]:
    """What a `DistillTask` is called with for a batch of pairs: `arguments` of `distill.learning.fit.fit`.

    Args:
        tokenize: streams x b captions -> LongTensor [streams x b, L].
    """

    def arguments(batch: PairBatch, device: torch.device) -> tuple[Any, ...]:
        # uint8 until here, which is a quarter of the bytes to move; rows in memory order for the convolutions.
        images = batch.images.to(device).contiguous().float().div_(255)
        weights = () if batch.weights is None else (batch.weights.to(device),)
        return (
            images,
            tokenize(batch.texts).to(device),
            {name: value.to(device) for name, value in batch.teacher_image.items()},
            {name: value.to(device) for name, value in batch.teacher_text.items()},
            *weights,
        )

    return arguments


class TwoTowers(Protocol):
    """What is trained: a student, a full teacher, or alignment heads over frozen towers."""

    logit_scale: Tensor

    def encode_image(self, images: Tensor) -> Tensor:
        """[b, ...] -> [b, D], unit length."""
        ...

    def encode_text(self, texts: Tensor) -> Tensor:
        """[b, ...] -> [b, D], unit length."""
        ...


class DistillTask(nn.Module):
    """Forward pass and loss.

    Args:
        model: a `TwoTowers` module.
        objective: the losses.
        teacher_facts: of the teachers whose embeddings the batches carry.
        scale: fixes the logit scale of student and softmax teachers (the tinyclip preset), None = learned and own.
        consistency: temperature of the weights by teacher consistency (see `distill.learning.consistency`), None = none.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        teacher_facts: dict[str, TeacherFacts],
        scale: float | None = None,
        consistency: float | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.teacher_facts = teacher_facts
        self.scale = scale
        self.consistency = consistency

    def forward(
        self,
        images: Tensor,
        texts: Tensor,
        teacher_image: dict[str, Tensor],
        teacher_text: dict[str, Tensor],
        weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Named losses of one batch, see `Objective.forward`, each the sum over the streams of texts.

        Images are encoded once, the texts of all streams in one go, as MobileCLIP does (arXiv 2311.17049, section 3).

        Args:
            images: [b, 3, H, W] in [0, 1], or [b, F] features.
            texts: LongTensor [streams x b, L], or [streams x b, F] features; row s * b + i goes with image i.
            teacher_image, teacher_text: teacher name -> [b, D_t] and [streams x b, D_t], unit length.
            weights: [b], how much each pair counts; None = all the same.
        """
        model: TwoTowers = self.model  # type: ignore[assignment]
        own_scale = model.logit_scale.clamp(max=100)  # CLIP section 2.5: never above 100
        scale = own_scale if self.scale is None else torch.full_like(own_scale, self.scale)
        b = images.shape[0]
        student = self._student(model, images, texts, scale)
        with torch.no_grad():
            teacher_embeds = self._teacher_embeds(teacher_image, teacher_text, b, len(student))
            counts = self._weights(teacher_embeds, weights, student[0].first, b)
        parts = [
            self.objective(own, theirs, count)
            for own, theirs, count in zip(student, teacher_embeds, counts, strict=True)
        ]
        return {name: torch.stack([part[name] for part in parts]).sum(0) for name in parts[0]}

    def _student(self, model: TwoTowers, images: Tensor, texts: Tensor, scale: Tensor) -> list[Embeddings]:
        """The student's embeddings of each stream of texts, its next-token logits among them where a loss reads them."""
        streams = torch.split(texts, images.shape[0])
        if self.objective.needs_captions:
            return [self._captioned(model, images, stream, scale) for stream in streams]
        image = model.encode_image(images).float()
        every, read = gather(image), torch.split(model.encode_text(texts).float(), images.shape[0])
        return [embeddings(image, text, scale, all_image=every) for text in read]

    def _captioned(self, model: TwoTowers, images: Tensor, texts: Tensor, scale: Tensor) -> Embeddings:
        image, text, logits, labels = model.encode_pair(images, texts)  # type: ignore[attr-defined]
        own = embeddings(image.float(), text.float(), scale)
        tokens = gather((labels != -100).sum().float().view(1)).mean()  # ranks with longer captions count for more
        return replace(own, caption_logits=logits.float(), caption_labels=labels, caption_tokens=tokens)

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
                    torch.tensor(factor, device=place),
                    torch.tensor(facts.logit_bias, device=place),
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
