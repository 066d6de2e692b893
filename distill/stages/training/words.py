"""The vocabulary of a student, cut to what it reads: `student.vocabulary = "auto:8000"`.

It is cut once, into the run's vocabulary/, and used by every later start of the same training. Left out: the cutting
(`students.vocabularies`).
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from distill.core import atomic
from distill.core.clip.folder import MERGES_FILE
from distill.models import student_spec
from distill.processes import this_place, wait_until
from distill.recipe import StudentRecipe
from distill.run_folder import RunFolder
from reinforced_data.labelling.unpaired import text_lines
from students.vocabularies.cut import AUTO, REPORT_FILE, read_cut, size_of


def with_own_vocabulary(
    recipe: StudentRecipe, run: RunFolder, data: Any, say: Callable[[str], None] | None = None
) -> StudentRecipe:
    """The recipe with its vocabulary as a file, cut to a corpus where it says "auto"; every other recipe as it is.

    Args:
        recipe: of the student.
        run: gets vocabulary/.
        data: the pairs to train on, whose captions and unpaired texts are the corpus unless the recipe names a file.
        say: is told what the cut costs and saves.

    Raises:
        UsageError: a setting that makes no sense, or a corpus that is not there.
        DistillError: a corpus without words.
    """
    if recipe.vocabulary is None or not recipe.vocabulary.startswith(AUTO):
        return recipe
    setting, folder = f"{recipe.vocabulary} {recipe.corpus or ''}".strip(), run.vocabulary
    there = read_cut(folder)
    if this_place().rank == 0 and (there is None or there[0] != setting):
        corpus = iter(text_lines(Path(recipe.corpus), "student.corpus")) if recipe.corpus else _texts(data)
        _cut(recipe, corpus, folder, setting)
    wait_until((folder / REPORT_FILE).exists, f"the first process to write {str(folder)!r}")
    found = read_cut(folder)
    if say is not None and found is not None:
        say(found[1].line(int(student_spec(recipe).model_cfg["text_cfg"]["width"])))
    if (folder / MERGES_FILE).is_file():
        return recipe.model_copy(update={"vocabulary": str(folder / MERGES_FILE)})
    return recipe.model_copy(update={"vocabulary": None, "tokenizer": str(folder)})


def _cut(recipe: StudentRecipe, corpus: Iterator[str], folder: Path, setting: str) -> None:
    from students.student import hugging_face_tokenizer
    from students.vocabularies.byte_pairs import cut_byte_pairs
    from students.vocabularies.cut_pieces import cut_word_pieces

    spec, size = student_spec(recipe), size_of(str(recipe.vocabulary))
    with atomic.staged_dir(folder) as made:
        if spec.model_cfg["text_cfg"].get("hf_tokenizer_name"):
            tokenizer: Any = hugging_face_tokenizer(spec)
            cut = cut_word_pieces(tokenizer.tokenizer, corpus, size, made)
        else:
            cut = cut_byte_pairs(corpus, size, made)
        cut.write(made, setting)


def _texts(data: Any) -> Iterator[str]:
    for index in range(len(data)):
        yield from data.texts(index)
    if data.unpaired is not None:
        yield from data.unpaired.texts
