"""Decoding captions from any next-token model: nucleus sampling, greedy, and beam search, reproducible per image.

The model is a `Step`, so that the loops are tested against brute force and against another library's model. Each image
has a generator of its own (on the CPU, so that a GPU draws the same numbers), which makes its captions independent of
its neighbours in the batch up to the rounding of the forward pass. open_clip's own `generate` is not used: it cuts at 30
tokens by default, seeds nothing, encodes the image once per beam, and does not run beside transformers 5. Left out:
key-value caches, diverse beam groups, repetition penalties.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from distill.core.errors import UsageError
from teachers.captioner import Decode

if TYPE_CHECKING:
    from torch import Tensor

    # (tokens [n, t], image of each row [n]) -> logits of the next token [n, V]
    Step = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Markers:
    """A decoder's special tokens, and the length of its context (tokens, markers included)."""

    start: int
    end: int
    context_length: int


def checked_decode(decode: Decode) -> Decode:
    """`decode` as it will be used: beam search has no nucleus. Raises UsageError naming the value that is wrong."""
    wrong = [
        (decode.captions < 1, f"captions is {decode.captions}: at least 1"),
        (decode.beams < 1, f"beams is {decode.beams}: at least 1 (1 = sampling)"),
        (decode.beams > 1 and decode.captions > decode.beams,
         f"captions is {decode.captions} with {decode.beams} beams: beam search gives at most one caption per beam"),
        (decode.top_p is not None and not 0 < decode.top_p <= 1, f"top_p is {decode.top_p}: above 0, at most 1"),
        (decode.temperature < 0, f"temperature is {decode.temperature}: 0 (greedy) or more"),
        (decode.max_tokens < 1, f"max_tokens is {decode.max_tokens}: at least 1"),
        (not 0 <= decode.min_tokens <= decode.max_tokens,
         f"min_tokens is {decode.min_tokens}: from 0 to max_tokens ({decode.max_tokens})"),
    ]  # fmt: skip
    for is_wrong, sentence in wrong:
        if is_wrong:
            raise UsageError(f"These captions cannot be decoded: {sentence}.")
    return replace(decode, top_p=None) if decode.beams > 1 else decode


def image_seed(decode_seed: int, seed: int) -> int:
    """One 63-bit seed of the decoding's seed and the image's own."""
    return int.from_bytes(hashlib.sha256(f"{decode_seed}:{seed}".encode()).digest()[:8], "big") >> 1


def decode_tokens(
    step: Step, decode: Decode, seeds: list[int], markers: Markers, device: object
) -> list[list[list[int]]]:
    """For each of len(seeds) images its captions as token ids, markers left out.

    At most `decode.max_tokens` tokens are made per caption, the end marker among them, and never more than the context
    holds; no end marker comes before `decode.min_tokens` tokens. Sampling (beams = 1): temperature, then the smallest
    set of tokens whose probability reaches top_p; temperature 0 = greedy. Beam search: the best by mean log-probability.
    """
    import torch

    with torch.no_grad():
        if decode.beams > 1:
            return _beam_search(step, decode, len(seeds), markers, device)
        return _sample(step, decode, seeds, markers, device)


def room(decode: Decode, markers: Markers) -> int:
    """Tokens that may be made after the start marker."""
    return max(1, min(decode.max_tokens, markers.context_length - 1))


def _sample(step: Step, decode: Decode, seeds: list[int], markers: Markers, device: object) -> list[list[list[int]]]:
    import torch

    limit, n = room(decode, markers), decode.captions
    draws = torch.cat([_draws(image_seed(decode.seed, seed), n, limit) for seed in seeds])  # [b * n, limit]
    owner = torch.arange(len(seeds), device=device).repeat_interleave(n)  # type: ignore[call-overload]
    tokens = torch.full((len(owner), 1), markers.start, device=device)  # type: ignore[call-overload]
    rows = torch.arange(len(owner))
    made: list[list[int]] = [[] for _ in range(len(owner))]
    for place in range(limit):
        logits = _wide(step(tokens, owner))
        _ban(logits, markers, early=place < decode.min_tokens)
        chosen = _choose(logits, decode, draws[rows, place].to(logits.device))
        going = chosen != markers.end
        for row, token, goes in zip(rows.tolist(), chosen.tolist(), going.tolist(), strict=True):
            if goes:
                made[row].append(token)
        if not bool(going.any()):
            break
        tokens = torch.cat([tokens, chosen[:, None]], 1)[going]
        owner, rows = owner[going], rows[going.cpu()]
    return [made[start : start + n] for start in range(0, len(made), n)]


def _draws(seed: int, captions: int, limit: int) -> Tensor:
    """[captions, limit] uniform numbers; the first captions are the same however many are asked for."""
    import torch

    return torch.rand(captions, limit, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _choose(logits: Tensor, decode: Decode, draws: Tensor) -> Tensor:
    """[n, V] logits and [n] uniform numbers -> [n] tokens, by the inverse of the cumulative distribution."""
    if decode.temperature == 0:
        return logits.argmax(-1)
    probs, order = (logits / decode.temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
    total = probs.cumsum(-1)
    kept = total - probs < (1.0 if decode.top_p is None else decode.top_p)
    kept[:, 0] = True
    mass = (probs * kept).sum(-1, keepdim=True)
    place = (total < draws.to(total.dtype)[:, None] * mass).sum(-1)
    place = place.minimum(kept.sum(-1) - 1)  # rounding of the cumulative sum
    return order.gather(-1, place[:, None])[:, 0]


def _wide(logits: Tensor) -> Tensor:
    """A copy in float64 (float32 where the device has no float64): sums over a vocabulary keep their last digits."""
    import torch

    return logits.to(torch.float32 if logits.device.type == "mps" else torch.float64, copy=True)


def _ban(logits: Tensor, markers: Markers, *, early: bool) -> None:
    logits[:, markers.start] = float("-inf")
    if early:
        logits[:, markers.end] = float("-inf")


class _Beams:
    """One image's finished captions (the `k` best so far) and the sums of its live ones."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.best: list[tuple[float, int, list[int]]] = []  # a heap: (mean log-probability, -arrival, tokens)
        self._arrivals = 0

    def finish(self, log_prob: float, length: int, tokens: list[int]) -> None:
        self._arrivals += 1
        entry = (log_prob / length, -self._arrivals, tokens)
        if len(self.best) < self.k:
            heapq.heappush(self.best, entry)
        else:
            heapq.heappushpop(self.best, entry)

    def done(self, best_live: float, length: int) -> bool:
        """Whether no live caption beats the worst kept one, were it to end now (transformers' early_stopping=False)."""
        return len(self.best) == self.k and best_live / length <= self.best[0][0]

    def ranked(self, count: int) -> list[list[int]]:
        return [tokens for _, _, tokens in sorted(self.best, reverse=True)[:count]]


def _beam_search(step: Step, decode: Decode, images: int, markers: Markers, device: object) -> list[list[list[int]]]:
    import torch

    limit, k = room(decode, markers), decode.beams
    beams = [_Beams(k) for _ in range(images)]
    live = list(range(images))  # images still searched; each has k rows of `tokens`, in this order
    tokens = torch.full((images * k, 1), markers.start, device=device)  # type: ignore[call-overload]
    sums = torch.full((images, k), float("-inf"), device=device)  # type: ignore[call-overload]
    sums[:, 0] = 0.0
    for place in range(limit):
        owner = torch.tensor(live, device=tokens.device).repeat_interleave(k)
        log_probs = _wide(step(tokens, owner)).log_softmax(-1)
        _ban(log_probs, markers, early=place < decode.min_tokens)
        vocabulary = log_probs.shape[-1]
        total = (sums.to(log_probs)[:, :, None] + log_probs.view(len(live), k, vocabulary)).flatten(1)
        scores, index = total.topk(min(2 * k, total.shape[1]), dim=1)
        kept_rows, kept_tokens, kept_sums, still = [], [], [], []
        for number, image in enumerate(live):
            going = _advance(
                beams[image], scores[number].tolist(), index[number].tolist(), vocabulary, number * k, tokens, markers,
                last=place + 1 == limit,
            )  # fmt: skip
            if going and not beams[image].done(going[0][2], place + 1):
                going += [(number * k, markers.end, float("-inf"))] * (k - len(going))  # rows that no longer count
                still.append(image)
                kept_rows += [row for row, _, _ in going]
                kept_tokens += [token for _, token, _ in going]
                kept_sums.append([log_prob for _, _, log_prob in going])
        live = still
        if not live:
            break
        fresh = torch.tensor(kept_tokens, device=tokens.device)
        tokens = torch.cat([tokens[torch.tensor(kept_rows, device=tokens.device)], fresh[:, None]], 1)
        sums = torch.tensor(kept_sums, device=tokens.device, dtype=log_probs.dtype)
    return [one.ranked(decode.captions) for one in beams]


def _advance(
    beams: _Beams, scores: list[float], index: list[int], vocabulary: int, first_row: int, tokens: Tensor,
    markers: Markers, *, last: bool,
) -> list[tuple[int, int, float]]:  # fmt: skip
    """Finish what ends among an image's best continuations; returns the k best others as (row, token, log-probability)."""
    going: list[tuple[int, int, float]] = []
    for rank, (score, place) in enumerate(zip(scores, index, strict=True)):
        if score == float("-inf"):
            break
        row, token = first_row + place // vocabulary, place % vocabulary
        if token == markers.end or last:
            if rank < beams.k:  # an end that is not among the k best is no candidate
                made = tokens[row, 1:].tolist() + ([] if token == markers.end else [token])
                beams.finish(score, tokens.shape[1], made)
        elif len(going) < beams.k:
            going.append((row, token, score))
    return going
