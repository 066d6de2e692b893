"""Labels and templates: what a file of them says, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest

from distill.core.errors import UsageError
from export.app.classes import Classes
from students.student import load_student
from students.tokenizer import load_tokenizer


def _file(folder: Path, text: str) -> Path:
    (folder / "labels.txt").write_text(text, encoding="utf-8")
    return folder / "labels.txt"


def test_labels_keep_their_order_and_their_inner_spaces(tmp_path: Path) -> None:
    found = Classes.read(_file(tmp_path, "\ufeffzebra\n\n  sea lion \r\nÄpfel {}\n"), ("a {}.", "{} {}", "a {}."))
    assert found.labels == ("zebra", "sea lion", "Äpfel {}")
    assert found.prompts()[2:] == ["a sea lion.", "sea lion sea lion", "a Äpfel {}.", "Äpfel {} Äpfel {}"]
    block = found.write(tmp_path, "sigmoid")
    assert (tmp_path / block["labels"]).read_text(encoding="utf-8").splitlines() == list(found.labels)
    assert (block["count"], block["templates"]) == (3, ["a {}.", "{} {}"])
    assert "sigmoid" in block["probabilities"]


@pytest.mark.parametrize(
    ("text", "templates", "named"),
    [
        ("", ("a {}",), "has no labels"),
        (" \n\n", ("a {}",), "has no labels"),
        ("cat\ndog\n cat\n", ("a {}",), "1 label more than once: 'cat'"),
        ("a\nb\na\nb\n", ("a {}",), "2 labels more than once: 'a', 'b'"),
        ("cat", ("a {}", "a photo"), "template 'a photo' has no {}"),
    ],
)
def test_refusals(text: str, templates: tuple[str, ...], named: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=named):
        Classes.read(_file(tmp_path, text), templates)


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "gone.txt", tmp_path, tmp_path / "binary"):
        with pytest.raises(UsageError, match="cannot be read"):
            Classes.read(path, ("{}",))


def test_a_label_that_is_cut_is_refused_and_one_that_just_fits_is_not() -> None:
    """Rows of 8: start and end take two, so six words of one token each fit."""
    tokenizer = load_tokenizer(None, 8)
    six = "cat dog car red sun sky"
    assert len(tokenizer.encode(six)) == 6  # type: ignore[attr-defined]
    Classes((six, "a"), ("{}",)).check_fit(tokenizer, 8)
    with pytest.raises(
        UsageError, match=r"label 'cat dog car red sun sky' is too long: in the template 'a \{\}'.*8 tokens"
    ):
        Classes(("a", six), ("{}", "a {}")).check_fit(tokenizer, 8)
    with pytest.raises(UsageError, match="too long"):
        Classes(("sky " * 40,), ("{}",)).check_fit(tokenizer, 8)


def test_a_hugging_face_tokenizer_tells_what_it_would_cut(
    make_hf_text_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """Rows of 12: its class and end marks take two."""
    student = load_student(make_hf_text_folder(tmp_path / "clip", kind="bert", pooler="mean_pooler"))
    Classes(("cat " * 10, ""), ("{}",)).check_fit(student.tokenizer, student.context_length)
    with pytest.raises(UsageError, match=r"too long.*12 tokens"):
        Classes(("dog", "cat " * 11), ("{}",)).check_fit(student.tokenizer, student.context_length)
