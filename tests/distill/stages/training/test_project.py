"""Projections in closed form: a teacher whose embeddings are a linear map of the student's own features is copied."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from distill.stages.training.project import can_project, new_projections, project
from reinforced_data.training.pairs import Pair
from students.inherit.projections.place import projection_of
from students.spec import STUDENTS
from students.student import Student, build_student

N = 96


@pytest.fixture
def student() -> Student:
    return build_student(STUDENTS.get("nano").resized(embed_dim=48), seed=0)


class Taught:
    """N samples with noise for images, and what teachers say of them and of three captions each."""

    unpaired: Any = None

    def __init__(self, student: Student, maps: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
        rng = np.random.default_rng(0)
        self.teacher_facts = {name: SimpleNamespace(width=weight.shape[1]) for name, (weight, _) in maps.items()}
        self.pixels = rng.integers(0, 256, (N, 64, 64, 3)).astype(np.uint8)
        self.texts = [[f"{color} {shape} number {i}" for color in ("red", "blue", "dark")] for i, shape in enumerate(["box", "ball"] * (N // 2))]  # fmt: skip
        student.eval()
        with torch.no_grad():
            pixels = torch.from_numpy(self.pixels).permute(0, 3, 1, 2).float() / 255
            with projection_of(student.clip, "visual").left_out():
                image = student.clip.encode_image(student.normalised(pixels))
            with projection_of(student.clip, "text").left_out():
                text = student.clip.encode_text(student.tokenize([one for row in self.texts for one in row]))
        self.image = {name: image @ weight[: image.shape[1]] + offset for name, (weight, offset) in maps.items()}
        self.text = {name: text @ weight[: text.shape[1]] + offset for name, (weight, offset) in maps.items()}

    def __len__(self) -> int:
        return N

    def pair(self, index: int, rng: np.random.Generator) -> Pair:
        image = {name: value[index].numpy() for name, value in self.image.items()}
        text = {name: value[3 * index].numpy()[None] for name, value in self.text.items()}
        return Pair("k", self.pixels[index], 0, (self.texts[index][0],), image, text)

    def captions(self, index: int) -> tuple[list[str], dict[str, Any]]:
        return self.texts[index], {name: value[3 * index : 3 * index + 3].numpy() for name, value in self.text.items()}


def _map(width: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(96, width, generator=rng) / 10, torch.randn(width, generator=rng)


def test_a_linear_teacher_is_copied(student: Student) -> None:
    data: Any = Taught(student, {"t": _map(48, 1)})
    found = project(student, data, ["visual", "text"], seed=0)
    with torch.no_grad():
        images = student.encode_image(torch.from_numpy(data.pixels).permute(0, 3, 1, 2).float() / 255)
        texts = student.encode_text(student.tokenize([one for row in data.texts for one in row]))
    for own, theirs in ((images, data.image["t"]), (texts, data.text["t"])):
        assert float(nn.functional.cosine_similarity(own, theirs).min()) > 0.999
    assert found["visual"]["samples"] == N
    assert found["text"]["samples"] == 3 * N
    assert min(tower["explained"] for tower in found.values()) > 0.9
    assert student.training is False


def test_texts_of_no_image_count_too(student: Student) -> None:
    """Captions say nothing of the words here: every caption is the same, so that the map is known from the texts alone."""
    data: Any = Taught(student, {"t": _map(48, 1)})
    texts, said = [one for row in data.texts for one in row], data.text["t"]
    data.texts, data.text = [[texts[0]] * 3] * N, {"t": said[:1].expand(3 * N, -1)}
    data.unpaired = Unpaired(texts, said)
    found = project(student, data, ["text"], seed=0)
    with torch.no_grad():
        got = student.encode_text(student.tokenize(texts))
    assert float(nn.functional.cosine_similarity(got, said).min()) > 0.99
    assert found["text"]["samples"] == 6 * N


class Unpaired:
    """Texts of no image, in memory."""

    def __init__(self, texts: list[str], said: torch.Tensor) -> None:
        self.texts, self.said = texts, said

    def __len__(self) -> int:
        return len(self.texts)

    def embeds(self, name: str, numbers: Any) -> Any:
        return self.said[numbers].numpy()


def test_two_teachers_are_met_in_their_mean_similarity(student: Student) -> None:
    data: Any = Taught(student, {"a": _map(24, 1), "b": _map(16, 2)})
    for side in (data.image, data.text):
        for name in side:
            side[name] = nn.functional.normalize(side[name], dim=1)
    project(student, data, ["visual", "text"], seed=0)
    with torch.no_grad():
        images = student.encode_image(torch.from_numpy(data.pixels).permute(0, 3, 1, 2).float() / 255)
        texts = student.encode_text(student.tokenize([row[0] for row in data.texts]))
    wanted = sum(data.image[name] @ data.text[name][::3].T for name in "ab") / 2
    got = images @ texts.T
    assert float(torch.corrcoef(torch.stack([wanted.flatten(), got.flatten()]))[0, 1]) > 0.95


def test_only_towers_that_know_something_and_say_nothing_are_projected(student: Student) -> None:
    origins = dict.fromkeys(student.clip.state_dict(), "inherited")
    every: dict[str, Any] = {"towers": ["visual", "text"], "origins": origins}
    assert new_projections(student, every) == {}
    every["origins"] = {**origins, "visual.proj": "new", "text_projection": "new"}
    assert new_projections(student, every) == {"visual": ["visual.proj"], "text": ["text_projection"]}
    assert list(new_projections(student, {**every, "towers": ["text"]})) == ["text"]


def test_data_without_a_teacher_serves_no_projection(student: Student) -> None:
    """Pairs that were not reinforced, as full teachers are trained on: their student keeps its new projection."""
    taught: Any = Taught(student, {"t": _map(48, 1)})
    raw: Any = Taught(student, {})
    assert can_project(taught)
    assert not can_project(raw)
    with pytest.raises(ValueError, match="no stored embeddings"):
        project(student, raw, ["text"], seed=0)


def test_one_teacher_as_wide_as_the_student_costs_no_view_more(student: Student) -> None:
    data: Any = Taught(student, {"t": _map(48, 1)})
    drawn: list[int] = []
    pair = data.pair
    data.pair = lambda index, rng: drawn.append(index) or pair(index, rng)
    project(student, data, ["text"], seed=0)
    assert drawn == []
    project(student, data, ["visual"], seed=0)
    assert sorted(drawn) == list(range(N))
