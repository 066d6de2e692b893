"""`Classes`: the labels that a zero-shot classifier tells apart, and the sentences that each is put into.

Left out: their embeddings and the classifier itself (`export.towers.classifier`).
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.core.errors import UsageError

LABELS_FILE = "labels.txt"
PLACE = "{}"  # of the label in a template


def check_templates(templates: Sequence[str]) -> None:
    """Raise UsageError for a template without a place for the label: all labels would be the same sentence."""
    for template in templates:
        if PLACE not in template:
            raise UsageError(
                f"The template {template!r} has no {PLACE}, where the label belongs. For example: 'a photo of a {PLACE}.'"
            )


@dataclass(frozen=True)
class Classes:
    """A classifier's labels.

    Attributes:
        labels: in the order of the classifier's probabilities.
        templates: sentences with `PLACE` in them; a label's embedding is the mean over all of them. None where a model has
            learned the labels themselves.
    """

    labels: tuple[str, ...]
    templates: tuple[str, ...]

    @classmethod
    def read(cls, path: Path, templates: tuple[str, ...]) -> "Classes":
        """The labels in a text file, one a line, in UTF-8; empty lines and spaces around a label count for nothing.

        Raises UsageError for a file that cannot be read, has no label or one label twice, and for a template without a place.
        """
        check_templates(templates)
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"The labels in {str(path)!r} cannot be read: {error}. Give a text file in UTF-8."
            ) from None
        labels = tuple(line.strip() for line in lines if line.strip())
        if not labels:
            raise UsageError(f"{str(path)!r} has no labels. Write one on each line.")
        twice = [label for label, count in Counter(labels).items() if count > 1]
        if twice:
            raise UsageError(
                f"{str(path)!r} has {len(twice)} label{'s' * (len(twice) > 1)} more than once: {', '.join(map(repr, twice[:5]))}"
                f"{', ...' if len(twice) > 5 else ''}. Two classes of one name cannot be told apart: take the lines out, or "
                "say what tells them apart."
            )
        return cls(labels, tuple(dict.fromkeys(templates)))

    def prompts(self) -> list[str]:
        """Every label in every template: the templates of the first label, then those of the second, ..."""
        return [template.replace(PLACE, label) for label in self.labels for template in self.templates]

    def check_fit(self, tokenizer: Any, context_length: int) -> None:
        """Raise UsageError that names the first label which, in a template, is longer than the text tower reads.

        Args:
            tokenizer: captions, context_length -> [b, L], as open_clip's; it cuts what is too long.
            context_length: L of the text tower.
        """
        prompts = self.prompts()
        wide = 2 * context_length
        padding = int(tokenizer([""], context_length=wide)[0][-1])
        short, long = tokenizer(prompts, context_length=context_length), tokenizer(prompts, context_length=wide)
        for index, (cut, whole) in enumerate(zip(short, long, strict=True)):
            rest = whole[context_length:]
            if bool((cut != whole[:context_length]).any()) or bool((rest != padding).any()):
                raise UsageError(
                    f"The label {self.labels[index // len(self.templates)]!r} is too long: in the template "
                    f"{self.templates[index % len(self.templates)]!r} it has more than the {context_length} tokens that this "
                    "model reads, and its end would be lost. Shorten the label or the template."
                )

    def write(self, folder: Path, kind: str) -> dict[str, Any]:
        """Write labels.txt into `folder`. Returns the block "classes" of an artifact. `kind`: "softmax" or "sigmoid"."""
        (folder / LABELS_FILE).write_text("\n".join(self.labels) + "\n", encoding="utf-8")
        said = "a softmax over all of them" if kind == "softmax" else "a sigmoid of each label alone"
        return {
            "labels": LABELS_FILE,
            "count": len(self.labels),
            **({"templates": list(self.templates)} if self.templates else {}),
            "probabilities": f"in the order of {LABELS_FILE}; {said}, inside the graph",
        }

    @property
    def digest(self) -> str:
        """Hex SHA-256 of labels and templates."""
        return hashlib.sha256(json.dumps([self.labels, self.templates]).encode()).hexdigest()
