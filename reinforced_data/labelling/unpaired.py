"""Texts beyond the captions: which ones, and having the teachers read them once (`store.unpaired` keeps what they said)."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from distill.core.clip.model import import_open_clip
from distill.core.errors import DistillError, UsageError
from distill.core.progress import Progress, silent
from reinforced_data.labelling.encode import encode_texts
from reinforced_data.store.folder import disk_errors
from reinforced_data.store.unpaired import write_unpaired
from teachers.teacher import Teacher

IMAGENET = "imagenet"  # the thousand class names that open_clip ships
CLASSES = "classes:"  # a file of class names
# A class name as people write of it in captions and as classifiers ask for it. The bare name carries most of it.
PROMPTS = ("{}", "a photo of a {}.", "a picture of the {}.", "a close-up photo of a {}.", "a photo of many {}.")


def read_texts(places: Iterable[str]) -> list[str]:
    """The texts that a recipe's `reinforce.texts` means, each once, in their order.

    Args:
        places: "imagenet", "classes:FILE" (class names, which are put into `PROMPTS`), or a text file as it is; one a line.

    Raises UsageError where a file cannot be read or holds nothing.
    """
    found: list[str] = []
    for place in places:
        if place == IMAGENET:
            found += _in_prompts(_imagenet_names())
        elif place.startswith(CLASSES):
            found += _in_prompts(text_lines(Path(place.removeprefix(CLASSES)), "reinforce.texts"))
        else:
            if not Path(place).is_file():
                raise UsageError(
                    f"reinforce.texts: there is no file {place!r}. Name a text file, classes:FILE, or {IMAGENET}."
                )
            found += text_lines(Path(place), "reinforce.texts")
    return list(dict.fromkeys(found))


def absolute_texts(place: str) -> str:
    """The same place, whatever the working folder."""
    if place == IMAGENET:
        return place
    prefix = CLASSES if place.startswith(CLASSES) else ""
    return prefix + str(Path(place.removeprefix(prefix)).expanduser().absolute())


def text_lines(file: Path, key: str) -> list[str]:
    """The lines of a UTF-8 text file that are not empty. Raises UsageError, naming the recipe's key, where there are none."""
    if not file.is_file():
        raise UsageError(f"{key}: there is no file {str(file)!r}. Name a text file, a text a line.")
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{key}: {str(file)!r} cannot be read as UTF-8 text, a text a line: {error}.") from None
    if not any(lines):
        raise UsageError(f"{key}: {str(file)!r} holds no text. Write one a line.")
    return [line for line in lines if line]


def label_texts(
    file: Path, texts: list[str], teachers: Sequence[Teacher], batch_size: int, progress: Progress = silent
) -> None:
    """Have every teacher read the texts, and write what they said to `file`. Raises what teachers raise."""
    import numpy as np

    done, total, embeds = 0, len(texts) * len(teachers), {}
    for teacher in teachers:
        rows = []
        for start in range(0, len(texts), batch_size):
            rows.append(encode_texts(teacher, texts[start : start + batch_size], batch_size))
            done += len(rows[-1])
            progress(done, total, "texts")
        embeds[teacher.spec.name] = np.concatenate(rows)
        if (bad := np.flatnonzero(~np.isfinite(embeds[teacher.spec.name]).all(1))).size:
            raise DistillError(
                f"Teacher {teacher.spec.name!r} gave no finite embedding for {len(bad)} of {len(texts)} texts, the first of them "
                f"{texts[int(bad[0])]!r}. Leave these texts out of reinforce.texts; nothing was written."
            )
    with disk_errors(file.parent):
        write_unpaired(file, texts, embeds, {teacher.spec.name: teacher.weights_sha256 for teacher in teachers})


def _in_prompts(names: list[str]) -> list[str]:
    return [prompt.format(name) for prompt in PROMPTS for name in names]


def _imagenet_names() -> list[str]:
    import_open_clip()
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

    return [str(name) for name in IMAGENET_CLASSNAMES]
