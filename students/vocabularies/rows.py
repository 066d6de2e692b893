"""Which rows of a source's token table a student with a cut vocabulary takes."""

from collections.abc import Sequence


def kept_rows(source: Sequence[str], own: Sequence[str]) -> list[int] | None:
    """Of each of the student's tokens, its place in the source; None where one is not there.

    Args:
        source, own: tokens as text, by id (`distill.core.clip.tokenizer.token_texts`).
    """
    places = {token: index for index, token in enumerate(source) if token}
    found = [places.get(token, -1) for token in own]
    return None if -1 in found else found
