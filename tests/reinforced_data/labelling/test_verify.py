"""`verify` against stores that are right, that differ in one view or caption, and that were made by other weights."""

import numpy as np
import pytest
import torch

from distill.core.errors import DistillError, UsageError
from reinforced_data.labelling.verify import require_passed, verify
from reinforced_data.store.dtypes import MIN_COSINE
from reinforced_data.store.reader import ReinforcedData
from tests.reinforced_data.stubs import ListSource, StubTeacher, make_set, samples, two_teachers

SETTINGS = {"views_per_image": 3, "view_preset": "mobileclip", "shard_size": 4, "batch_size": 4, "seed": 5}


@pytest.fixture(scope="module", params=["fp32", "fp16", "bf16", "int8"])
def stored(request, tmp_path_factory):
    out = tmp_path_factory.mktemp(request.param) / "set"
    make_set(ListSource(samples(7)), two_teachers(), out, embed_dtype=request.param, **SETTINGS)
    return out


def test_all_views_and_captions_of_all_samples(stored):
    teachers = two_teachers()
    for teacher in teachers:
        teacher.texts.clear()
    report = verify(stored, teachers, "all")
    assert (report["samples"], report["views"], report["captions"]) == (7, 21, 14)
    assert report["passed"]
    assert report["gate"] == MIN_COSINE[report["embed_dtype"]]
    require_passed(report, str(stored))
    for teacher in teachers:
        assert sum(shape[0] for shape in teacher.image_batches) == 21
        assert len(teacher.texts) == 14
        assert {shape[0] for shape in teacher.image_batches} <= {1, 4}
    for figures in report["teachers"].values():
        assert figures["same_weights"]
        assert MIN_COSINE[report["embed_dtype"]] <= figures["image_min"] <= figures["image_mean"] <= 1 + 1e-9


def test_n_counts_views_and_draws_whole_samples(stored):
    assert [verify(stored, two_teachers(), n)["samples"] for n in (1, 3, 4, 20, 500)] == [1, 1, 2, 7, 7]
    drawn = {verify(stored, two_teachers(), 3, seed)["teachers"]["alpha"]["image_worst"]["key"] for seed in range(12)}
    assert len(drawn) > 1
    with pytest.raises(UsageError, match="at least 1"):
        verify(stored, two_teachers(), 0)


def test_the_figures_are_those_of_a_second_road(stored):
    """Every view rendered and embedded alone, cosines with NumPy."""
    from reinforced_data.pixels.views import render_view

    data, report = ReinforcedData(stored), verify(stored, two_teachers(), "all")
    for teacher in two_teachers():
        name, cosines = teacher.spec.name, {}
        for i in range(len(data)):
            for v, view in enumerate(data.text(i).views):
                pixels = torch.from_numpy(render_view(data.decoded(i), view, teacher.spec.image_size)).permute(2, 0, 1)
                live = teacher.encode_image(pixels[None].float() / 255)[0].double().numpy()
                kept = data.image_embeds(i, name)[v].astype(np.float64)
                cosines[data.text(i).key, v] = live @ kept / np.linalg.norm(live) / np.linalg.norm(kept)
        figures = report["teachers"][name]
        assert figures["image_min"] == pytest.approx(min(cosines.values()), abs=1e-7)
        assert figures["image_mean"] == pytest.approx(np.mean(list(cosines.values())), abs=1e-7)


class OneOff(StubTeacher):
    """Like the teacher of its name, but for the view that it sees as number `place`, or for the caption `text`."""

    def __init__(self, place=-1, text=None, value=None):
        super().__init__("alpha", width=8, image_size=16)
        self.left, self.text, self.value = place, text, value

    def _spoil(self, embeds, row):
        embeds = embeds.clone()
        embeds[row] = -embeds[row] if self.value is None else self.value
        return embeds

    def encode_image(self, pixels):
        embeds, row = super().encode_image(pixels), self.left
        self.left -= len(embeds)
        return self._spoil(embeds, row) if 0 <= row < len(embeds) else embeds

    def encode_text(self, captions):
        embeds = super().encode_text(captions)
        return self._spoil(embeds, captions.index(self.text)) if self.text in captions else embeds


@pytest.mark.parametrize(("kind", "key", "part"), [("view", "s005", 1), ("caption", "s004", 1)])
def test_one_wrong_number_among_all_is_found_and_named(stored, kind, key, part):
    data = ReinforcedData(stored)
    text = next(data.text(i).captions[part].text for i in range(len(data)) if data.text(i).key == key)
    report = verify(stored, [OneOff(16) if kind == "view" else OneOff(text=text)], "all")
    assert not report["passed"]
    with pytest.raises(
        DistillError, match=rf"{kind} {part} of sample '{key}' has a cosine of -(1\.0|0\.999).*'alpha'"
    ) as caught:
        require_passed(report, "the set")
    assert caught.value.exit_status == 1


def test_an_embedding_that_is_not_finite_cannot_pass(stored):
    report = verify(stored, [OneOff(5, value=float("nan"))], "all")
    assert not report["passed"]
    assert report["teachers"]["alpha"]["image_min"] == -1


def test_other_weights_are_said_to_be_the_reason(stored):
    report = verify(stored, [StubTeacher("alpha", width=8, image_size=16, seed=99)], "all")
    with pytest.raises(DistillError, match="other weights than the one that made the set"):
        require_passed(report, "the set")


def test_gates_are_those_of_the_issue():
    assert (MIN_COSINE["fp32"], MIN_COSINE["bf16"], MIN_COSINE["int8"]) == (0.99999, 0.9999, 0.999)
