"""Text towers as a phone runs them: int32 tokens in, one unit-length embedding out.

open_clip's own transformers (CLIP's, SigLIP's, CoCa's) and its Hugging Face towers (the BERT family). Each is the source's
weights behind a forward pass of operations that delegates lower: finite masks, and pooling by comparison and a product
where open_clip searches and indexes. Left out: image towers, and every choice of target or precision.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from distill.core.errors import DistillError
from export.towers.rewrite import unit_length

MASKED = -1e4  # added to a forbidden score: finite in fp16, where -inf and float32's minimum give NaN in some delegates


def text_tower(clip: Any, eot: int) -> nn.Module:
    """The deployable text tower of an open_clip model, a rewritten copy (see `export.towers.rewrite`).

    Args:
        clip: open_clip's CLIP, CustomTextCLIP or CoCa.
        eot: id of the token that ends a caption, where the tower pools there.

    Raises:
        DistillError: a tower, a pooling or a mask that has no such form; the message names it.
    """
    text = getattr(clip, "text", clip)
    if type(text).__name__ == "HFTextEncoder":
        return HuggingFaceTextTower(text)
    needed = ("token_embedding", "positional_embedding", "transformer", "ln_final", "attn_mask")
    if not all(hasattr(text, name) for name in needed):
        raise DistillError(
            f"The text tower {type(text).__name__} cannot be exported: open_clip's own text transformers and its Hugging Face "
            "ones can. Choose a model with such a text tower."
        )
    return TextTower(text, eot)


class TextTower(nn.Module):
    """open_clip's text transformer.

    Args:
        text: the module that owns token_embedding, transformer, ln_final: open_clip's CLIP itself, or a TextTransformer.
        eot: id of the end token, for pool_type "argmax".
    """

    positions: Tensor
    mask: Tensor | None
    pool: "EndPool | PlacePool"

    def __init__(self, text: Any, eot: int) -> None:
        super().__init__()
        self.embedding: nn.Embedding = text.token_embedding
        self.transformer: nn.Module = text.transformer
        self.norm: nn.Module = text.ln_final
        class_token = getattr(text, "cls_emb", None)  # CoCa's: appended, and pooled in place of any pool_type
        length = text.context_length + (class_token is not None)
        self.class_token = None if class_token is None else nn.Parameter(class_token.detach().reshape(1, 1, -1))
        self.register_buffer("positions", text.positional_embedding.detach()[:length].clone())
        mask = None if text.attn_mask is None else text.attn_mask.detach()[:length, :length].clamp(min=MASKED).clone()
        self.register_buffer("mask", mask)
        self.masks_padding = class_token is not None or bool(getattr(text, "use_pad_mask", False))
        self.padding = int(getattr(text, "pad_id", 0))
        self.pool = self._pool(text, eot, length)
        if self.masks_padding:
            self._require_plain_attention()
        projection = text.text_projection
        if isinstance(projection, nn.Parameter):
            linear = nn.Linear(projection.shape[0], projection.shape[1], bias=False)
            linear.weight = nn.Parameter(projection.detach().T.contiguous())
            projection = linear
        self.projection: nn.Module = nn.Identity() if projection is None else projection

    def _pool(self, text: Any, eot: int, length: int) -> "EndPool | PlacePool":
        if self.class_token is not None:
            return PlacePool(length - 1)
        kind = str(getattr(text, "text_pool_type", getattr(text, "pool_type", "argmax")))
        if kind in ("first", "last"):
            return PlacePool(0 if kind == "first" else length - 1)
        if kind in ("argmax", "eos"):
            return EndPool(eot if kind == "argmax" else int(text.eos_id), length)
        raise DistillError(
            f"The text tower cannot be exported: its text_cfg has pool_type {kind!r}, which gives no single embedding. "
            "Known: argmax, eos, first, last."
        )

    def _require_plain_attention(self) -> None:
        for name, module in self.transformer.named_modules():
            if type(module).__name__ == "Attention":
                raise DistillError(
                    f"The text tower cannot be exported: transformer.{name} is open_clip's custom attention, whose mask is the "
                    "same for every caption, and this tower masks padding. Use text_cfg without block_type = 'custom'."
                )

    def forward(self, tokens: Tensor) -> Tensor:
        """int32 [b, L] -> [b, D], unit length."""
        x = self.embedding(tokens)
        if self.class_token is not None:
            x = torch.cat([x, self.class_token.expand(x.shape[0], -1, -1)], 1)
        x = self.transformer(x + self.positions, attn_mask=self._mask(tokens, x.dtype))
        if self.class_token is not None:  # CoCa normalises what it has pooled
            return unit_length(self.projection(self.norm(self.pool(x, tokens))))
        return unit_length(self.projection(self.pool(self.norm(x), tokens)))

    def _mask(self, tokens: Tensor, dtype: torch.dtype) -> Tensor | None:
        """Added to the scores: [L, L], or [b, 1, L, L] where padding is masked."""
        if not self.masks_padding:
            return self.mask
        hidden = (tokens == self.padding).to(dtype) * MASKED
        if self.class_token is not None:
            # Its column belongs behind; open_clip puts it in front, and published weights were trained so.
            hidden = torch.cat([torch.zeros_like(hidden[:, :1]), hidden], 1)
        hidden = hidden[:, None, None, :]
        return hidden.expand(-1, 1, hidden.shape[-1], -1) if self.mask is None else hidden + self.mask


class PlacePool(nn.Module):
    """The state at one fixed place."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place = place

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """[b, L, D], any tokens -> [b, D]."""
        return x[:, self.place]


class EndPool(nn.Module):
    """The state at the first end token.

    open_clip pools with argmax over the token ids and an indexed read, which mobile delegates leave to the CPU. The end
    token has the largest id, so its first occurrence, found by comparison, is the same place.
    """

    earlier: Tensor

    def __init__(self, eot: int, length: int) -> None:
        super().__init__()
        self.eot = eot
        # earlier[i, j] = 1 where i < j: end tokens @ earlier counts the end tokens before each place, so that padding
        # with the end token (as Hugging Face's CLIP tokenizer does) pools at the first one, as argmax does.
        self.register_buffer("earlier", torch.ones(length, length).triu(1))

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """[b, L, D], int32 [b, L] -> [b, D]."""
        ends = (tokens == self.eot).to(x.dtype)
        first = ends * torch.relu(1 - ends @ self.earlier)
        return (first.unsqueeze(1) @ x).squeeze(1)


class HuggingFaceTextTower(nn.Module):
    """open_clip's HFTextEncoder: a transformer of the BERT family, a pooler, a projection.

    The transformer gets its mask ready made, [b, 1, L, L] and finite, since the one that transformers makes holds float32's
    minimum, which overflows in fp16.
    """

    counts: Tensor | None

    def __init__(self, text: Any) -> None:
        super().__init__()
        config = text.config
        self.transformer: nn.Module = text.transformer
        self.transformer.config._attn_implementation = "eager"
        self.projection: nn.Module = text.proj
        self.padding = int(config.pad_token_id)
        kind = type(text.pooler).__name__
        poolers: dict[str, Literal["mean", "class", "pooler"]] = {
            "MeanPooler": "mean",
            "ClsLastHiddenStatePooler": "class",
            "ClsPooler": "pooler" if getattr(text.pooler, "use_pooler_output", False) else "class",
        }
        if kind not in poolers:
            raise DistillError(
                f"The text tower cannot be exported: its pooler {kind} is not known here. Known: {', '.join(poolers)}."
            )
        self.pooler = poolers[kind]
        if getattr(config, "is_encoder_decoder", False) or not hasattr(self.transformer, "embeddings"):
            raise DistillError(
                f"The text tower cannot be exported: {type(self.transformer).__name__} ({config.model_type}) is not of the "
                "BERT family. Choose a model whose text tower is BERT, RoBERTa, XLM-RoBERTa, DistilBERT or the like."
            )
        # RoBERTa counts its positions over what is no padding; a triangle of ones does so in one product.
        counted = config.model_type in ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert")
        longest = int(config.max_position_embeddings)
        self.register_buffer("counts", torch.ones(longest, longest).triu() if counted else None)

    def forward(self, tokens: Tensor) -> Tensor:
        """int32 [b, L] -> [b, D], unit length."""
        seen = (tokens != self.padding).to(torch.float32)
        b, length = tokens.shape
        given: dict[str, Tensor] = {}
        if self.counts is not None:
            places = (seen @ self.counts[:length, :length]) * seen + self.padding
            given["position_ids"] = places.to(torch.int32)
        mask = ((1 - seen) * MASKED)[:, None, None, :].expand(b, 1, length, length)
        out = self.transformer(input_ids=tokens, attention_mask=mask, **given)
        x = out.last_hidden_state
        if self.pooler == "mean":
            pooled = (seen.unsqueeze(1) @ x).squeeze(1) / seen.sum(-1, keepdim=True)
        elif self.pooler == "pooler" and getattr(out, "pooler_output", None) is not None:
            pooled = out.pooler_output
        else:
            pooled = x[:, 0]
        return unit_length(self.projection(pooled))
