"""Texts of no image: which ones a recipe means, what is stored of them, and how training draws them."""

import itertools
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from distill.core.errors import DistillError, UsageError
from reinforced_data.labelling.unpaired import PROMPTS, absolute_texts, label_texts, read_texts
from reinforced_data.store.unpaired import UnpairedTexts, identity
from reinforced_data.training.loader import batches
from reinforced_data.training.pairs import StoredPairs
from tests.reinforced_data.stubs import ListSource, make_set, samples, two_teachers

TEXTS = [f"word {n}" for n in range(7)]


@pytest.fixture
def stored(tmp_path: Path) -> UnpairedTexts:
    label_texts(tmp_path / "texts.arrow", TEXTS, two_teachers(), batch_size=3)
    return UnpairedTexts(tmp_path / "texts.arrow")


def test_the_thousand_classes_and_files(tmp_path: Path) -> None:
    names, lines = tmp_path / "classes.txt", tmp_path / "lines.txt"
    names.write_text("zebra\n\naccordion\n", encoding="utf-8")
    lines.write_text("a photo of a zebra.\nmy own words\n", encoding="utf-8")
    found = read_texts(["imagenet", f"classes:{names}", str(lines)])
    assert len(set(found)) == len(found) > 900 * len(PROMPTS)
    assert {"zebra", "a photo of a zebra.", "a photo of a accordion.", "my own words"} <= set(found)
    assert read_texts([f"classes:{names}"])[:3] == ["zebra", "accordion", "a photo of a zebra."]
    assert absolute_texts("imagenet") == "imagenet"
    assert absolute_texts("classes:c.txt") == f"classes:{Path('c.txt').absolute()}"


@pytest.mark.parametrize(("content", "words"), [(None, "no file"), (b"\n \n", "no text"), (b"\xff\xfe\x80", "UTF-8")])
def test_a_file_without_texts_is_named(tmp_path: Path, content: bytes | None, words: str) -> None:
    file = tmp_path / "texts.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=rf"reinforce\.texts.*({words}.*texts\.txt|texts\.txt.*{words})"):
        read_texts([str(file)])


def test_what_teachers_said_is_there_again(stored: UnpairedTexts) -> None:
    again = pickle.loads(pickle.dumps(stored))
    assert again.texts == TEXTS
    for teacher in two_teachers():
        said = teacher.encode_text(TEXTS).numpy()
        got = again.embeds(teacher.spec.name, np.array([6, 0, 3]))
        assert np.abs(got - said[[6, 0, 3]]).max() < 1e-3  # float16
        assert np.abs(np.linalg.norm(got, axis=1) - 1).max() < 1e-6
    weights = {teacher.spec.name: teacher.weights_sha256 for teacher in two_teachers()}
    assert stored.identity == identity(TEXTS, weights) != identity(TEXTS[1:], weights)


def test_an_embedding_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    teacher = two_teachers()[0]
    encode = teacher.encode_text
    teacher.encode_text = lambda texts: encode(texts).where(
        torch.tensor([text != "word 4" for text in texts])[:, None], torch.nan
    )
    with pytest.raises(
        DistillError, match="'alpha' gave no finite embedding for 1 of 7 texts, the first of them 'word 4'"
    ):
        label_texts(tmp_path / "texts.arrow", TEXTS, [teacher], batch_size=3)
    assert not (tmp_path / "texts.arrow").exists()


def test_a_damaged_file_is_named(tmp_path: Path, stored: UnpairedTexts) -> None:
    stored.file.write_bytes(stored.file.read_bytes()[:200])
    with pytest.raises(DistillError, match=r"texts\.arrow.*labelled anew"):
        UnpairedTexts(stored.file)


def test_every_text_comes_once_before_any_comes_again(tmp_path: Path, stored: UnpairedTexts) -> None:
    """Whatever ranks and workers, and the embeddings are those of the text."""
    make_set(ListSource(samples(8)), two_teachers(), tmp_path / "set")
    pairs = StoredPairs(tmp_path / "set", image_size=8)
    pairs.unpaired = stored
    said = {teacher.spec.name: teacher.encode_text(TEXTS).numpy() for teacher in two_teachers()}
    expected = None
    for world, workers in itertools.product((1, 2), (0, 2)):
        common = {"batch_size": 4, "seed": 3, "first_step": 0, "last_step": 7, "world": world, "workers": workers}
        ranks = [list(batches(pairs, rank=rank, **common)) for rank in range(world)]
        drawn = []
        for batch in (batch for step in zip(*ranks, strict=True) for batch in step):
            n = batch.unpaired
            assert n == len(batch.images) == 4 // world
            assert not set(batch.texts[:-n]) & set(TEXTS)
            for name, rows in batch.teacher_text.items():
                numbers = [TEXTS.index(text) for text in batch.texts[-n:]]
                assert np.abs(rows[-n:].numpy() - said[name][numbers]).max() < 1e-3
            drawn += batch.texts[-n:]
        assert all(set(Counter(drawn[:end]).values()) == {end // 7} for end in (7, 14, 21, 28))
        assert expected in (None, drawn)
        expected = drawn
