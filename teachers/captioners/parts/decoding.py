"""Decoding captions from any next-token model: nucleus sampling, greedy, and beam search, reproducible per image.

The model is a `Step`, so that the loops are tested against brute force and against another library's model. Each image
has a generator of its own (on the CPU, so that a GPU draws the same numbers), which makes its captions independent of
its neighbours in the batch up to the rounding of the forward pass. open_clip's own `generate` is not used: it cuts at 30
tokens by default, seeds nothing, encodes the image once per beam, and does not run beside transformers 5. Left out:
key-value caches, diverse beam groups, repetition penalties.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from teachers.captioner import CaptionSettings

# (tokens [n, t], image of each row [n]) -> logits of the next token [n, V]
Step = Callable[[Tensor, Tensor], Tensor]
Device = torch.device | str
IMPOSSIBLE = float("-inf")  # logit or log-probability of what must not be chosen


@dataclass(frozen=True)
class Markers:
    """A decoder's special tokens, and the length of its context (tokens, markers included)."""

    start: int
    end: int
    context_length: int


def decode_tokens(
    step: Step, settings: CaptionSettings, seeds: list[int], markers: Markers, device: Device
) -> list[list[list[int]]]:
    """For each of len(seeds) images its captions as token ids, markers left out.

    At most `settings.max_tokens` tokens are made per caption, the end marker among them, and never more than the context
    holds; no end marker comes before `settings.min_tokens` tokens. Sampling (beams = 1): temperature, then the smallest
    set of tokens whose probability reaches top_p; temperature 0 = greedy. Beam search: the best by mean log-probability.
    """
    with torch.no_grad():
        if settings.beams > 1:
            return _beam_search(step, settings, len(seeds), markers, device)
        return _sample(step, settings, seeds, markers, device)


def _room(settings: CaptionSettings, markers: Markers) -> int:
    """Tokens that may be made after the start marker."""
    return max(1, min(settings.max_tokens, markers.context_length - 1))


def _wide(logits: Tensor) -> Tensor:
    """A copy in float64 (float32 where the device has no float64): sums over a vocabulary keep their last digits."""
    return logits.to(torch.float32 if logits.device.type == "mps" else torch.float64, copy=True)


def _ban_markers(logits: Tensor, markers: Markers, *, early: bool) -> None:
    """Make the start marker impossible, and the end marker too while a caption is too short to end (`early`)."""
    logits[:, markers.start] = IMPOSSIBLE
    if early:
        logits[:, markers.end] = IMPOSSIBLE


# --- sampling ---


def _sample(
    step: Step, settings: CaptionSettings, seeds: list[int], markers: Markers, device: Device
) -> list[list[list[int]]]:
    limit, n = _room(settings, markers), settings.captions
    # All random numbers before the first token: which captions have ended cannot shift the draws of the others.
    draws = torch.cat([_draws(settings.image_seed(seed), n, limit) for seed in seeds])  # [b * n, limit]
    owner = torch.arange(len(seeds), device=device).repeat_interleave(n)
    tokens = torch.full((len(owner), 1), markers.start, device=device)
    rows = torch.arange(len(owner))  # which caption each row of `tokens` is: the batch shrinks as captions end
    made: list[list[int]] = [[] for _ in range(len(owner))]
    for place in range(limit):
        logits = _wide(step(tokens, owner))
        _ban_markers(logits, markers, early=place < settings.min_tokens)
        chosen = _choose(logits, settings, draws[rows, place].to(logits.device))
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
    return torch.rand(captions, limit, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _choose(logits: Tensor, settings: CaptionSettings, draws: Tensor) -> Tensor:
    """[n, V] logits and [n] uniform numbers -> [n] tokens, by the inverse of the cumulative distribution.

    One number per token, however large the vocabulary: `torch.multinomial` takes its numbers from the generator of the
    whole batch, which would make a caption depend on its neighbours.
    """
    if settings.temperature == 0:
        return logits.argmax(-1)
    probs, order = (logits / settings.temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
    total = probs.cumsum(-1)
    # A token is in the nucleus while the tokens before it fall short of top_p; the likeliest always is.
    kept = total - probs < (1.0 if settings.top_p is None else settings.top_p)
    kept[:, 0] = True
    mass = (probs * kept).sum(-1, keepdim=True)
    place = (total < draws.to(total.dtype)[:, None] * mass).sum(-1)
    place = place.minimum(kept.sum(-1) - 1)  # rounding of the cumulative sum
    return order.gather(-1, place[:, None])[:, 0]


# --- beam search ---


class Continuation(NamedTuple):
    """A prefix of a caption with one more token.

    Attributes:
        row: of the prefix, in the batch of prefixes.
        token: that follows it.
        log_prob: of prefix and token together.
    """

    row: int
    token: int
    log_prob: float


class Beam:
    """One image's search: it is told the best continuations of each step, and keeps the best captions that have ended.

    Args:
        width: k, prefixes searched at a time, and finished captions kept.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self._finished: list[tuple[float, int, list[int]]] = []  # a heap of (mean log-probability, -arrival, tokens)
        self._arrivals = 0  # breaks ties: of equally good captions the earlier is the better

    def advance(
        self, ranked: list[Continuation], prefixes: Tensor, markers: Markers, *, last: bool
    ) -> list[Continuation]:
        """Keep the captions that end here, and choose the k prefixes to search on from.

        Args:
            ranked: the image's 2 k best continuations, best first. Of so many at least k go on, since each of the k
                prefixes has one way to end.
            prefixes: [n, t] tokens of the batch, start marker included.
            markers: of the decoder.
            last: whether no further token may be made: then every continuation ends.

        Returns:
            k continuations, or none when the search is over. Where fewer than k are possible, impossible ones fill up.
        """
        length = prefixes.shape[1]  # tokens made, the continuation's own instead of the start marker
        going: list[Continuation] = []
        for rank, one in enumerate(ranked):
            if one.log_prob == IMPOSSIBLE:
                break
            ended = one.token == markers.end
            if ended or last:
                # Like a prefix, an end must be among the k best: a search that took worse ones would favour short captions.
                if rank < self.width:
                    self._finish(one.log_prob / length, prefixes[one.row, 1:].tolist() + [one.token] * (not ended))
            elif len(going) < self.width:
                going.append(one)
        if not going or self._is_settled(going[0].log_prob / length):
            return []
        return going + [Continuation(ranked[0].row, markers.end, IMPOSSIBLE)] * (self.width - len(going))

    def best(self, count: int) -> list[list[int]]:
        """The tokens of the `count` best captions, best first."""
        return [tokens for _, _, tokens in sorted(self._finished, reverse=True)[:count]]

    def _finish(self, score: float, tokens: list[int]) -> None:
        self._arrivals += 1
        entry = (score, -self._arrivals, tokens)
        if len(self._finished) < self.width:
            heapq.heappush(self._finished, entry)
        else:
            heapq.heappushpop(self._finished, entry)

    def _is_settled(self, best_live: float) -> bool:
        """Whether the best prefix, were it to end now, beats no caption kept (transformers' early_stopping=False)."""
        return len(self._finished) == self.width and best_live <= self._finished[0][0]


def _beam_search(
    step: Step, settings: CaptionSettings, images: int, markers: Markers, device: Device
) -> list[list[list[int]]]:
    limit, k = _room(settings, markers), settings.beams
    beams = [Beam(k) for _ in range(images)]
    live = list(range(images))  # images still searched; each has k rows of `tokens`, in this order
    tokens = torch.full((images * k, 1), markers.start, device=device)
    sums = torch.full((images, k), IMPOSSIBLE, device=device)
    sums[:, 0] = 0.0  # all k prefixes are the start marker: only one of them may count
    for place in range(limit):
        owner = torch.tensor(live, device=tokens.device).repeat_interleave(k)
        log_probs = _wide(step(tokens, owner)).log_softmax(-1)
        _ban_markers(log_probs, markers, early=place < settings.min_tokens)
        vocabulary = log_probs.shape[-1]
        total = (sums.to(log_probs)[:, :, None] + log_probs.view(len(live), k, vocabulary)).flatten(1)
        scores, index = total.topk(min(2 * k, total.shape[1]), dim=1)
        chosen: list[Continuation] = []
        still: list[int] = []
        for number, image in enumerate(live):
            ranked = [
                Continuation(number * k + at // vocabulary, at % vocabulary, score)
                for score, at in zip(scores[number].tolist(), index[number].tolist(), strict=True)
            ]
            going = beams[image].advance(ranked, tokens, markers, last=place + 1 == limit)
            if going:
                still.append(image)
                chosen += going
        live = still
        if not live:
            break
        rows, added = (torch.tensor([one[field] for one in chosen], device=tokens.device) for field in (0, 1))
        tokens = torch.cat([tokens[rows], added[:, None]], 1)
        sums = torch.tensor([one.log_prob for one in chosen], device=tokens.device, dtype=log_probs.dtype).view(-1, k)
    return [beam.best(settings.captions) for beam in beams]
