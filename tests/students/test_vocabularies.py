"""Vocabularies cut to a corpus: what stays the same, what is saved, what unseen words become. CLIP's byte pairs and BERT's word pieces."""

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from distill.core.clip.folder import MERGES_FILE
from distill.core.clip.model import count_parameters, import_open_clip
from distill.core.clip.tokenizer import token_texts
from distill.core.clip.weights import ClipWeights
from distill.core.errors import DistillError, UsageError
from distill.models import student_spec
from distill.recipe import StudentRecipe
from distill.run_folder import RunFolder
from distill.stages.training.words import with_own_vocabulary
from students.inherit.start import start_from
from students.spec import STUDENTS, StudentSpec
from students.student import Student, build_student, hugging_face_tokenizer, load_student
from students.tokenizer import load_tokenizer, merges_of
from students.vocabularies.byte_pairs import FIXED, cut_byte_pairs
from students.vocabularies.cut import read_cut, size_of
from students.vocabularies.cut_pieces import cut_word_pieces
from students.vocabularies.rows import kept_rows

open_clip = import_open_clip()
from open_clip.tokenizer import SimpleTokenizer  # noqa: E402

CORPUS = [
    "A black dog is running after a white dog in the snow.",
    "Two children climb a rope ladder on a playground",
    "Men in hats are playing the accordion; women's voices echo",
    "a surfer rides a wave, 12 feet high!",
]
STRANGE = {mark + letter for mark in ("", "##") for letter in "漢字☆€"}  # of a script, and signs, that the corpus lacks
UNSEEN = ["an okapi grazes", "Übermäßig zebra 漢字", "xylophonist"]
needs_transformers = pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs transformers")
SMALL = StudentSpec(
    "small",
    {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
        "text_cfg": {"context_length": 40, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    },
)


def weights(student: Student) -> ClipWeights:
    return ClipWeights(
        "source", student.spec.model_cfg, dict(student.clip.state_dict()), "hash", student.vocabulary,
        tokens=token_texts(student.tokenizer),
    )  # fmt: skip


@pytest.fixture(scope="module")
def full() -> Student:
    return build_student(SMALL, 3).eval()


@pytest.mark.parametrize("strategy", ["copy", "uniform"])
def test_captions_inside_cut_byte_pairs_have_the_same_embedding(full: Student, tmp_path: Path, strategy: str):
    cut = cut_byte_pairs(CORPUS, None, tmp_path)
    student = build_student(SMALL.with_vocabulary(str(tmp_path / MERGES_FILE)), 0).eval()
    took = start_from(student, weights(full), strategy)
    assert (took["towers"], took["skipped"]) == (["visual", "text"], {})
    with torch.no_grad():
        before, after = (model.encode_text(model.tokenize(CORPUS)) for model in (full, student))
    assert (before - after).abs().max() < 1e-6
    saved = (cut.tokens_before - cut.tokens_after) * 32
    assert count_parameters(full.clip)["token_embedding"] - count_parameters(student.clip)["token_embedding"] == saved
    assert (cut.tokens_before, cut.captions_unchanged, cut.fertility_after) == (49_408, 1.0, cut.fertility_before)
    assert student.tokenize(UNSEEN).max(1).values.tolist() == [student.tokenizer.eot_token_id] * 3
    assert all((student.tokenize([text])[0] > 0).sum() > 4 for text in UNSEEN)
    student.save(tmp_path / "s", {"licence": "x"})
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path / 's'}", bpe_path=str(tmp_path / "s" / MERGES_FILE))
    assert torch.equal(tokens(CORPUS), load_student(tmp_path / "s").tokenize(CORPUS))


@pytest.mark.parametrize("size", [FIXED + 20, 600, 1500])
def test_byte_pairs_have_the_size_asked_for_and_every_merge_what_it_is_built_of(tmp_path: Path, size: int):
    cut = cut_byte_pairs(CORPUS * 3 + ["the dog"] * 40, size, tmp_path)
    tokenizer: Any = load_tokenizer(tmp_path / MERGES_FILE, 77)
    assert cut.tokens_after == tokenizer.vocab_size == size
    assert all(half in tokenizer.encoder for merge in tokenizer.bpe_ranks for half in merge)
    clip: Any = SimpleTokenizer()
    order = [clip.bpe_ranks[merge] for merge in tokenizer.bpe_ranks]
    assert order == sorted(order), "in CLIP's order, so that words are split as CLIP splits them"
    assert len(tokenizer.encode("dog")) == 1, "the most frequent words stay whole"


@pytest.mark.parametrize("size", [FIXED + 30, 700, None])
def test_the_figures_of_a_cut_are_those_of_both_tokenizers(tmp_path: Path, size: int | None):
    cut = cut_byte_pairs(CORPUS, size, tmp_path)
    clip: Any = SimpleTokenizer()
    own: Any = load_tokenizer(tmp_path / MERGES_FILE, 77)
    words = sum(len(clip.pat.findall(clip.clean_fn(caption))) for caption in CORPUS)
    pieces = [[[t.decoder[i] for i in t.encode(caption)] for caption in CORPUS] for t in (clip, own)]
    assert cut.words == words
    assert cut.fertility_before == pytest.approx(sum(map(len, pieces[0])) / words)
    assert cut.fertility_after == pytest.approx(sum(map(len, pieces[1])) / words)
    assert cut.captions_unchanged == sum(a == b for a, b in zip(*pieces, strict=True)) / len(CORPUS)
    assert f"49,408 to {own.vocab_size:,} byte pairs" in cut.line(512)


def test_merges_of_a_word_are_those_that_clip_applies():
    clip: Any = SimpleTokenizer()
    for word in ("aaa", "aaaa", "banana", "mississippi", "accordion"):
        used = merges_of(word, clip.bpe_ranks)
        assert len(word) - used.total() == len(clip.bpe(word).split(" "))
        again = {merge: rank for merge, rank in clip.bpe_ranks.items() if merge in used}
        only: Any = SimpleTokenizer()
        only.bpe_ranks, only.cache = again, {}
        assert only.bpe(word) == clip.bpe(word)


BERT = "timm:resnet18@32+hf:bert-2x64"


def bert_pieces(tmp_path: Path) -> Path:
    """A vocabulary of BERT's kind: markers last but for [PAD], single characters, words, and places that nothing uses."""
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()] + ["ß", "漢", "字", "☆", "€"]
    words = sorted({word.strip(".,;!'").lower() for caption in CORPUS for word in caption.split()})
    pieces = [
        "[PAD]",
        "[unused0]",
        "[unused1]",
        *letters,
        *(f"##{letter}" for letter in letters),
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
    ]
    pieces += [*words, "okapi", "##ing", "##ter", "graze", "##s!"]
    file = tmp_path / "vocab.txt"
    file.write_text("\n".join(dict.fromkeys(pieces)) + "\n", encoding="utf-8")
    return file


@needs_transformers
@pytest.mark.parametrize("strategy", ["copy", "uniform"])
def test_captions_inside_cut_word_pieces_have_the_same_embedding(tmp_path: Path, strategy: str):
    spec = STUDENTS.get(BERT).resized(context_length=40, embed_dim=32).with_tokenizer(str(bert_pieces(tmp_path)))
    full = build_student(spec, 3).eval()
    tokenizer: Any = hugging_face_tokenizer(spec)
    (tmp_path / "cut").mkdir()
    cut = cut_word_pieces(tokenizer.tokenizer, CORPUS, None, tmp_path / "cut")
    student = build_student(replace(spec, tokenizer=str(tmp_path / "cut")), 0).eval()
    took = start_from(student, weights(full), strategy)
    assert "text" in took["towers"]
    with torch.no_grad():
        before, after = (model.encode_text(model.tokenize(CORPUS)) for model in (full, student))
    assert (before - after).abs().max() < 1e-6
    saved = (cut.tokens_before - cut.tokens_after) * 64
    gone = {"[unused0]", "[unused1]", "okapi", "##ing", "##ter", "graze", "##s!", "women's", *STRANGE}
    assert full.tokenizer.tokenizer.get_vocab().keys() - student.tokenizer.tokenizer.get_vocab().keys() == gone  # type: ignore[attr-defined]
    assert saved == 64 * len(gone)
    assert count_parameters(full.clip)["token_embedding"] - count_parameters(student.clip)["token_embedding"] == saved
    assert (cut.captions_unchanged, cut.fertility_after) == (1.0, cut.fertility_before)
    own: Any = student.tokenizer
    unknown = own.tokenizer.unk_token_id
    unseen = student.tokenize(UNSEEN)
    assert (unseen == unknown).sum(1).tolist() == [0, 2, 0], "every word in the corpus' scripts still tokenises"
    assert (unseen != own.tokenizer.pad_token_id).sum(1).min() > 6
    student.save(tmp_path / "s", {"licence": "x"})
    assert torch.equal(open_clip.get_tokenizer(f"local-dir:{tmp_path / 's'}")(CORPUS), student.tokenize(CORPUS))
    assert torch.equal(load_student(tmp_path / "s").encode_text(unseen), student.encode_text(unseen))


@needs_transformers
def test_word_pieces_have_the_size_asked_for_and_figures_of_both_tokenizers(tmp_path: Path):
    spec = STUDENTS.get(BERT).with_tokenizer(str(bert_pieces(tmp_path)))
    tokenizer: Any = hugging_face_tokenizer(spec)
    fixed = [
        piece
        for piece in tokenizer.tokenizer.get_vocab()
        if len(piece.removeprefix("##")) == 1 and piece not in STRANGE
    ]
    (tmp_path / "cut").mkdir()
    size = len(fixed) + 5 + 9
    cut = cut_word_pieces(tokenizer.tokenizer, CORPUS + ["the dog"] * 9, size, tmp_path / "cut")
    own: Any = hugging_face_tokenizer(replace(spec, tokenizer=str(tmp_path / "cut")))
    assert cut.tokens_after == len(own.tokenizer) == size
    pieces = [[t.tokenizer.tokenize(caption) for caption in CORPUS + ["the dog"] * 9] for t in (tokenizer, own)]
    assert cut.fertility_before == pytest.approx(sum(map(len, pieces[0])) / cut.words)
    assert cut.fertility_after == pytest.approx(sum(map(len, pieces[1])) / cut.words)
    assert cut.captions_unchanged == sum(a == b for a, b in zip(*pieces, strict=True)) / 13
    assert own.tokenizer.tokenize("the dog") == ["the", "dog"]
    with pytest.raises(UsageError, match=rf"at least {len(fixed) + 5} .*not 40"):
        cut_word_pieces(tokenizer.tokenizer, CORPUS, 40, tmp_path / "cut")


@needs_transformers
def test_other_tokenizers_are_not_cut(tmp_path: Path):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0, "b": 1}, [])))
    with pytest.raises(UsageError, match="kind BPE is not cut here"):
        cut_word_pieces(other, CORPUS, None, tmp_path)


class Captioned:
    """Pairs, as far as a vocabulary asks for them."""

    unpaired = SimpleNamespace(texts=["zyzzyva zyzzyva"])  # a text of no image

    def __init__(self, captions: list[str]) -> None:
        self.captions, self.asked = captions, 0

    def __len__(self) -> int:
        return len(self.captions)

    def texts(self, index: int) -> list[str]:
        self.asked += 1
        return [self.captions[index]]


def test_a_run_cuts_once_and_goes_on_with_what_it_cut(tmp_path: Path):
    run, data, said = RunFolder(tmp_path), Captioned(CORPUS), []
    recipe = StudentRecipe(name="tinyclip-vit8m16", vocabulary="auto:900")
    made = with_own_vocabulary(recipe, run, data, said.append)
    assert (data.asked, made.vocabulary) == (4, str(run.vocabulary / MERGES_FILE))
    assert read_cut(run.vocabulary)[1].captions == 5  # type: ignore[index]
    assert "49,408 to 900 byte pairs (12.65 to 0.23 M parameters)" in said[0]
    assert with_own_vocabulary(recipe, run, data, said.append) == made
    assert (data.asked, said[0] == said[1]) == (4, True)
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("okapis graze\n\nan okapi\n", encoding="utf-8")
    other = recipe.model_copy(update={"vocabulary": "auto", "corpus": str(corpus)})
    with_own_vocabulary(other, run, data)
    setting, cut = read_cut(run.vocabulary) or ("", None)
    assert (data.asked, setting, cut.captions) == (4, f"auto {corpus}", 2)  # type: ignore[union-attr]
    assert with_own_vocabulary(StudentRecipe(), run, data) == StudentRecipe()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vocabulary": "auto", "corpus": "/nowhere.txt"}, "student.corpus: there is no file '/nowhere.txt'"),
        ({"vocabulary": "auto:100"}, "more than 514 tokens"),
        ({"vocabulary": "auto:many"}, "student.vocabulary = 'auto:many' is no choice"),
    ],
)
def test_what_is_wrong_with_a_vocabulary_is_said(tmp_path: Path, changes: dict[str, str], words: str):
    recipe = StudentRecipe(name="tinyclip-vit8m16", **changes)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=words):
        with_own_vocabulary(recipe, RunFolder(tmp_path), Captioned(CORPUS))
    assert not RunFolder(tmp_path).vocabulary.exists()
    with pytest.raises(UsageError, match=words):  # before anything is labelled, too
        student_spec(recipe)


def test_a_vocabulary_of_another_kind_or_place_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match=r"no file 'mine\.gz'"):
        SMALL.with_vocabulary("mine.gz")
    with pytest.raises(UsageError, match="reads no byte pairs"):
        STUDENTS.get(BERT).with_vocabulary("mine.gz")
    with pytest.raises(UsageError, match="is no choice"):
        size_of("half")
    with pytest.raises(DistillError, match="captions are empty"):
        cut_byte_pairs(["", "  "], None, tmp_path)


def test_copying_from_a_source_with_other_words_is_refused(full: Student, tmp_path: Path):
    cut_byte_pairs(CORPUS, None, tmp_path)
    student = build_student(SMALL.with_vocabulary(str(tmp_path / MERGES_FILE)), 0)
    tokens = weights(full).tokens
    assert tokens is not None
    other = replace(weights(full), tokens=[*tokens[:-1], "<other_end>"])
    with pytest.raises(UsageError, match=r"vocabularies differ|differ in"):
        start_from(student, other, "copy")
    assert kept_rows(["b", "a", "c"], ["a", "b"]) == [1, 0]
    assert kept_rows(["b", "a"], ["a", "z"]) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"quick_gelu": True}, "activation is quick_gelu in the source, gelu here"),
        (
            {"text_cfg": {**SMALL.model_cfg["text_cfg"], "no_causal_mask": True}},
            "text: causal is False in the source, True here",
        ),
    ],
)
def test_copying_weights_that_another_model_computes_with_is_refused(full: Student, change: dict[str, Any], words: str):
    """The same names and shapes, and another function of them."""
    source = build_student(replace(SMALL, model_cfg={**SMALL.model_cfg, **change}), 3)
    with pytest.raises(UsageError, match=words):
        start_from(build_student(SMALL, 0), weights(source), "copy")
    start_from(build_student(source.spec, 0), weights(source), "copy")
