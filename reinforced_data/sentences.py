"""Splitting a long caption into its sentences (DreamLIP, arXiv 2403.17007), in English and its like.

At reinforcement each sentence becomes a caption of its own, with the source of the whole and `SENTENCE` after it, so
that teachers embed it as such. Which captions are drawn in training is the business of `training.caption_policy`; where a
sentence ends is that of `teachers.captioners.parts.text`.
"""

import re

from teachers.captioners.parts.text import sentences

SENTENCE = "#sentence"  # "synthetic:coca-vitl14#sentence" is a sentence out of a caption of "synthetic:coca-vitl14"

_BORDER = re.compile(r"\n\s*\n|(?<=[\u3002\uff01\uff1f])")  # an empty line; a full stop that no space follows


def sub_sentences(caption: str) -> list[str]:
    """The sentences of `caption`, in order and stripped; a caption of one sentence gives that one, an empty one none."""
    parts = [part for block in _BORDER.split(caption) for part in sentences(block)]
    return [part for part in parts if re.search(r"\w", part)]
