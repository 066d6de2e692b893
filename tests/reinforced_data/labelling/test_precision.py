"""Teachers under autocast: what is stored, what is recorded, what is refused; captions by length; how much waits for a model."""

import numpy as np
import pytest
import torch

from distill.core.errors import DistillError, UsageError
from reinforced_data.labelling.encode import encode_texts
from reinforced_data.labelling.plan import make_plan
from reinforced_data.labelling.preparation.ahead import depth as depth_of
from reinforced_data.labelling.preparation.prepare import Preparation
from reinforced_data.labelling.reinforce import plan_sha256
from reinforced_data.labelling.settings import ReinforceSettings
from reinforced_data.labelling.verify import require_passed, verify
from reinforced_data.store.dtypes import MIN_COSINE
from reinforced_data.store.reader import ReinforcedData
from tests.reinforced_data.stubs import ListSource, StubCaptioner, StubTeacher, make_set, samples

SETTINGS = {"views_per_image": 2, "view_preset": "light", "shard_size": 4, "batch_size": 4, "seed": 5}


class Deep(StubTeacher):
    """Its image embedding goes through a thousand-fold cancellation, which bf16 does not survive."""

    def encode_image(self, pixels):
        first = super().encode_image(pixels)
        wide = torch.cat([1000 + first, torch.full_like(first, 1000.0)], 1)
        return torch.nn.functional.normalize(wide @ torch.cat([torch.eye(8), -torch.eye(8)]), dim=1)


def plan_of(precision, teachers=(), captioners=(), **changes):
    settings = ReinforceSettings.model_validate({
        **{key: value for key, value in SETTINGS.items() if key != "seed"}, "teacher_precision": precision, **changes
    })  # fmt: skip
    return make_plan(ListSource(samples(7)), teachers or [StubTeacher()], captioners, settings, 5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_labels_are_those_of_autocast_and_the_set_says_so(tmp_path, precision):
    teacher = StubTeacher("alpha")
    sets = {}
    for name, changes in (("full", {"embed_dtype": "fp32"}), ("half", {"teacher_precision": precision})):
        make_set(ListSource(samples(7)), [teacher], tmp_path / name, **SETTINGS, **changes)
        sets[name] = ReinforcedData(tmp_path / name)
    assert (sets["full"].manifest.teacher_precision, sets["half"].manifest.teacher_precision) == ("no", precision)
    assert "teacher_precision" not in (tmp_path / "full" / "plan.json").read_text()
    report = verify(tmp_path / "half", [teacher], "all")
    assert report["teacher_precision"] == precision
    assert report["passed"]
    wanted, got = (np.asarray(sets[name].image_embeds(0, "alpha"), np.float64) for name in ("full", "half"))
    lengths = np.linalg.norm(wanted, axis=1) * np.linalg.norm(got, axis=1)
    assert MIN_COSINE["int8"] < ((wanted * got).sum(1) / lengths).min() < 1 - 1e-9


def test_a_type_too_coarse_for_a_teacher_is_refused_before_anything_is_labelled(tmp_path):
    words = r"teacher_precision = 'bf16' moves a view of teacher 'deep'.*must reach 0\.999.*fp16"
    with pytest.raises(UsageError, match=words) as caught:
        make_set(ListSource(samples(7)), [Deep("deep")], tmp_path / "set", teacher_precision="bf16", **SETTINGS)
    assert not (tmp_path / "set").exists()
    assert caught.value.exit_status == 2
    make_set(ListSource(samples(7)), [Deep("deep")], tmp_path / "set", **SETTINGS)  # float32 is fine enough


def test_verify_names_the_arithmetic_where_the_check_before_was_passed_by(tmp_path, monkeypatch):
    monkeypatch.setattr("reinforced_data.labelling.reinforce.refuse_coarse", lambda *_: None)
    make_set(ListSource(samples(7)), [Deep("deep")], tmp_path / "set", teacher_precision="bf16", **SETTINGS)
    with pytest.raises(DistillError, match="labelled in bf16, too coarse for this teacher"):
        require_passed(verify(tmp_path / "set", [Deep("deep")], "all"), "the set")


def test_the_hash_of_a_float32_plan_is_that_of_before_there_was_a_choice():
    plan = plan_of("no")
    assert "teacher_precision" not in plan.model_dump(mode="json")
    assert plan_sha256(plan) != plan_sha256(plan_of("bf16"))


class Padding(StubTeacher):
    """Counts the letters that a tower would read which reads to the longest of a batch."""

    read = 0

    def encode_text(self, captions):
        self.read += len(captions) * max(map(len, captions))
        return super().encode_text(captions)


def test_captions_of_one_length_go_together_and_come_back_in_order():
    texts = ["a" * n for n in (3, 90, 4, 80, 2, 85, 5, 70)]
    teacher = Padding()
    got = encode_texts(teacher, texts, 4)
    assert teacher.read == 4 * 5 + 4 * 90  # as they come it would be 4 x 90 twice
    assert np.allclose(got, StubTeacher().encode_text(texts).numpy(), atol=1e-6)
    assert encode_texts(teacher, [], 4).shape == (0, 8)


@pytest.mark.parametrize(
    ("free", "captioned", "depth"),
    [
        (1e12, False, 2 + 2 * 128 // 2),  # enough for two batches of views
        (8 * 50 * 2 * 16 * 16 * 3, False, 50),  # an eighth of what is free
        (0, False, 2),  # one a thread at least
        (8 * 3 * 40e6, True, 3),  # whole images are large
    ],
)
def test_what_waits_for_a_model_is_bounded_by_memory(free, captioned, depth):
    captioners = [StubCaptioner()] if captioned else []
    plan = plan_of("no", captioners=captioners, batch_size=128)
    waiting = Preparation(ListSource(samples(7)), [StubTeacher()], captioners, plan)
    assert depth_of(waiting, 2, int(free)) == depth
