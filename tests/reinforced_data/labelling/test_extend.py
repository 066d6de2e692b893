"""Adding to a finished set computes only what is missing and gives what one run would have given."""

import shutil

import numpy as np
import pytest

from distill.core.errors import UsageError
from distill.core.existing import Existing
from reinforced_data.sample import RawSample
from reinforced_data.store.manifest import read_manifest
from reinforced_data.store.reader import ReinforcedData
from tests.reinforced_data.labelling.test_reinforce import BASE, hashes
from tests.reinforced_data.stubs import ListSource, StubCaptioner, StubTeacher, make_set, samples, two_teachers

INT8 = {**BASE, "embed_dtype": "int8"}


def assert_same(left, right):
    """Everything that two sets say, without their provenance. Other batches may round a last bit otherwise."""
    a, b = ReinforcedData(left), ReinforcedData(right)
    assert len(a) == len(b)
    for one, other in ((a.sample(i), b.sample(i)) for i in range(len(a))):
        assert (one.key, one.image, one.captions, one.views) == (other.key, other.image, other.captions, other.views)
        for side in ("image_embeds", "text_embeds"):
            mine, theirs = getattr(one, side), getattr(other, side)
            assert list(mine) == list(theirs)
            for name in mine:
                step = np.abs(mine[name]).max(axis=1, keepdims=True) / 127
                assert (np.abs(mine[name] - theirs[name]) <= 1.01 * step).all()


@pytest.fixture
def small(tmp_path):
    """Two of three views, one of two teachers, one of two captioners."""
    out = tmp_path / "grown"
    settings = {**INT8, "views_per_image": 2}
    make_set(ListSource(samples(13)), two_teachers()[:1], out, captioners=[StubCaptioner()], **settings)
    return out


def all_of_it(out, **change):
    teachers, captioners = two_teachers(), [StubCaptioner(), StubCaptioner("poet", 1)]
    manifest = make_set(ListSource(samples(13)), teachers, out, captioners=captioners, **{**INT8, **change})
    return manifest, teachers, captioners


def test_an_extended_set_equals_one_made_at_once(small, tmp_path):
    once, _, _ = all_of_it(tmp_path / "once")
    grown, teachers, captioners = all_of_it(small, existing=Existing.EXTEND)
    assert_same(small, tmp_path / "once")
    assert len(grown.parents) == 1
    assert once.parents == []
    # Only what is missing: the third view for the first teacher, all three for the second.
    assert sum(batch[0] for batch in teachers[0].image_batches) == 13
    assert sum(batch[0] for batch in teachers[1].image_batches) == 39
    assert sum(captioners[0].calls) == 0
    assert sum(captioners[1].calls) == 13
    assert all("poet" in text for text in teachers[0].texts)
    assert any("chatter" in text for text in teachers[1].texts)


def test_a_killed_extension_resumes(small, tmp_path):
    shutil.copytree(small, tmp_path / "other")
    all_of_it(small, existing=Existing.EXTEND)
    calls = []

    class Dying(StubTeacher):
        def encode_image(self, pixels):
            calls.append(1)
            if len(calls) == 6:
                raise KeyboardInterrupt
            return super().encode_image(pixels)

    teachers = [two_teachers()[0], Dying("open_clip:X-1/y", 12, 12, "sigmoid", 10.0, -10.0, 3)]
    captioners = [StubCaptioner(), StubCaptioner("poet", 1)]
    other = tmp_path / "other"
    with pytest.raises(KeyboardInterrupt):
        make_set(
            ListSource(samples(13)), teachers, other, captioners=captioners, **{**INT8, "existing": Existing.EXTEND}
        )
    assert not (other / "manifest.json").exists()
    _, teachers, _ = all_of_it(other, existing=Existing.RESUME)
    assert 0 < sum(batch[0] for batch in teachers[1].image_batches) < 39
    assert hashes(other) == hashes(small)
    assert all_of_it(other, existing=Existing.EXTEND)[0] == read_manifest(small)  # nothing left to do


def test_extending_may_only_add(small):
    before = hashes(small)
    cases = [
        (two_teachers()[1:], [StubCaptioner()], {}, "teachers"),
        (two_teachers()[:1], [], {}, "captioners"),
        (two_teachers()[:1], [StubCaptioner()], {"views_per_image": 1}, "views_per_image"),
        (two_teachers()[:1], [StubCaptioner()], {"embed_dtype": "fp16"}, "embed_dtype"),
        (two_teachers()[:1], [StubCaptioner(captions=1)], {}, "decode"),
    ]
    for teachers, captioners, change, words in cases:
        settings = {**INT8, "views_per_image": 2, "existing": Existing.EXTEND, **change}
        with pytest.raises(UsageError, match=f"cannot be extended so: .*{words}"):
            make_set(ListSource(samples(13)), teachers, small, captioners=captioners, **settings)
    with pytest.raises(UsageError, match="--extend"):
        all_of_it(small, existing=Existing.RESUME)
    assert hashes(small) == before


def test_captions_carry_their_source_and_follow_the_real_ones(small):
    data = ReinforcedData(small)
    assert data.manifest.captions == {"real": 26, "synthetic:chatter": 26}
    assert data.manifest.captioners[0]["decode"]["captions"] == 2
    for index in range(13):
        assert [caption.source for caption in data.text(index).captions] == ["real"] * 2 + ["synthetic:chatter"] * 2
        texts = [caption.text for caption in data.text(index).captions]
        live = two_teachers()[0].encode_text(texts).numpy()
        assert np.abs(data.text_embeds(index, "alpha") - live).max() < 5e-3


def test_a_captioner_gives_voice_to_images_without_captions(tmp_path):
    good = samples(8)
    mute = [RawSample(s.key, s.image, ()) for s in good]
    manifest = make_set(ListSource(mute), two_teachers(), tmp_path / "o", captioners=[StubCaptioner()], **INT8)
    assert manifest.captions == {"synthetic:chatter": 16}
    shy = make_set(ListSource(mute), two_teachers(), tmp_path / "s", captioners=[StubCaptioner(shy=True)], **INT8)
    widths = [18 + number % 5 for number in range(8)]
    assert [item.key for item in shy.rejected] == [f"s{i:03d}" for i, width in enumerate(widths) if width % 2]
    assert shy.rejected_reasons == {"no caption": len(shy.rejected)}
    data = ReinforcedData(tmp_path / "s")
    for index in range(len(data)):  # the dropped ones' embeddings did not shift their neighbours'
        sample = next(s for s in good if s.key == data.key(index))
        whole = ReinforcedData(tmp_path / "o")
        other = next(i for i in range(8) if whole.key(i) == sample.key)
        assert (data.image_embeds(index, "alpha") == whole.image_embeds(other, "alpha")).all()


class Talker(StubCaptioner):
    """Long captions, the last sentence cut off."""

    def caption(self, images, seeds):
        return [
            [f"A dog of {self.spec.name} no. {seed % 7} runs. It is 3.5 m long. The U.S. flag wa"] for seed in seeds
        ]


def test_sentences_are_stored_beside_their_caption_with_their_own_embeddings(tmp_path):
    source = ListSource(samples(7))
    told = {**INT8, "sentences": True}
    make_set(source, two_teachers(), tmp_path / "o", captioners=[Talker("talker")], **told)
    data = ReinforcedData(tmp_path / "o")
    assert data.manifest.captions == {"real": 14, "synthetic:talker": 7, "synthetic:talker#sentence": 14}
    captions = data.text(3).captions
    assert [caption.source for caption in captions[2:]] == ["synthetic:talker", *["synthetic:talker#sentence"] * 2]
    assert captions[2].text.endswith("runs. It is 3.5 m long.")  # what the length cut off is not kept
    assert captions[4].text == "It is 3.5 m long."
    live = two_teachers()[0].encode_text([caption.text for caption in captions]).numpy()
    assert np.abs(data.text_embeds(3, "alpha") - live).max() < 5e-3
    # A second captioner comes after the first one's sentences, whether it was there from the beginning or not.
    both = [Talker("talker"), Talker("second")]
    make_set(source, two_teachers(), tmp_path / "o", captioners=both, **{**told, "existing": Existing.EXTEND})
    make_set(source, two_teachers(), tmp_path / "once", captioners=both, **told)
    assert_same(tmp_path / "o", tmp_path / "once")
