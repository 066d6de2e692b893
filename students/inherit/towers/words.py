"""Which token of a source's vocabulary each token of a student's is."""

from collections.abc import Sequence
from dataclasses import dataclass

from distill.core.clip.weights import ClipWeights
from students.inherit.plan import OWN
from students.inherit.towers.tower import Tower


@dataclass(frozen=True)
class VocabularyMap:
    """How a student's tokens are found in the source.

    Attributes:
        indices: source token of each of the student's, `OWN` where there is none; None = the same tokens.
        difference: how the vocabularies differ, None = they do not.
    """

    indices: list[int] | None
    difference: str | None


def match_vocabularies(
    source: ClipWeights, vocabulary: str, tokens: Sequence[str] | None, old: Tower, new: Tower
) -> VocabularyMap:
    """The student's tokens in the source's vocabulary: by name where that is the same, else token by token as text."""
    if new.which != "text" or (source.vocabulary == vocabulary and old.vocab == new.vocab):
        return VocabularyMap(None, None)
    if source.tokens is None or tokens is None:
        unknown = "the source" if source.tokens is None else "the student"
        return VocabularyMap(
            [OWN] * new.vocab,
            f"differs, and the tokens of {unknown} are not known as text: token embeddings start at random",
        )
    exact = {token: index for index, token in enumerate(source.tokens[: old.vocab]) if token}
    plain: dict[str, int] = {}
    for token, index in sorted(exact.items(), key=lambda item: not item[0].endswith("</w>")):
        plain.setdefault(_plain(token), index)
    own = [*tokens[: new.vocab], *[""] * (new.vocab - len(tokens))]
    if all(token in exact for token in own):
        return VocabularyMap([exact[token] for token in own], None)
    indices = [exact.get(token, plain.get(_plain(token), OWN)) if token else OWN for token in own]
    found = sum(index != OWN for index in indices)
    return VocabularyMap(
        indices, f"differs; {found} of {new.vocab} tokens are in the source, the others start at random"
    )


def _plain(token: str) -> str:
    """A token as text that means the same under CLIP's BPE ("dog</w>"), WordPiece ("dog", "##s") and SentencePiece ("▁dog").

    CLIP marks the last piece of a word, SentencePiece the first, WordPiece those that go on; "##s" is therefore no "s".
    """
    return token.replace("</w>", "").removeprefix("▁").removeprefix("Ġ").lower()
