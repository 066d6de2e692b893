"""A set's rule of rendering: recorded, the same for teachers, student and verification, and never mixed."""

import json
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from distill.core.atomic import sha256_json
from distill.core.errors import UsageError
from distill.core.existing import Existing
from reinforced_data.labelling.reinforce import plan_sha256
from reinforced_data.labelling.verify import verify
from reinforced_data.sample import Caption, RawSample
from reinforced_data.store.manifest import read_plan
from reinforced_data.store.reader import ReinforcedData
from reinforced_data.training.loader import batches
from reinforced_data.training.pairs import RawPairs, StoredPairs
from tests.reinforced_data.stubs import ListSource, encoded, make_set, picture, two_teachers


def photos():
    """Photos of several kinds, larger than what both rules render alike, and a truncated one in second place."""
    exif = Image.Exif()
    exif[0x0112] = 6
    options = [{}, {"exif": exif}, {"subsampling": 0}, {"progressive": True}]
    data = [encoded(picture(n, 260 + 8 * n, 203), "JPEG", quality=90, **extra) for n, extra in enumerate(options)]
    data.append(encoded(picture(9, 200, 150)))
    data.insert(1, data[0][:-900])
    return ListSource([RawSample(f"p{n}", image, (Caption(f"photo {n}"),)) for n, image in enumerate(data)])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    out = tmp_path_factory.mktemp("rules")
    for rule in ("pillow", "turbo"):
        make_set(photos(), two_teachers(), out / rule, views_per_image=3, view_preset="mobileclip", embed_dtype="fp32",
                 shard_size=4, batch_size=4, rendering=rule)  # fmt: skip
    return out


def test_the_manifest_names_the_rule_and_its_decoder(folders):
    turbo, pillow = (ReinforcedData(folders / rule).manifest for rule in ("turbo", "pillow"))
    assert (turbo.rendering, turbo.versions["simplejpeg"]) == ("turbo", simplejpeg.__version__)
    assert pillow.rendering == "pillow"
    assert turbo.rejected == pillow.rejected
    assert [item.key for item in turbo.rejected] == ["p1"]
    for name in ("plan.json", "manifest.json"):  # so that older programs read such sets, and plans keep their hashes
        text = (folders / "pillow" / name).read_text(encoding="utf-8")
        assert "rendering" not in text
        assert "simplejpeg" not in text


def test_a_plan_from_before_there_was_a_choice_keeps_its_hash(folders):
    values = json.loads(Path(folders / "pillow" / "plan.json").read_text(encoding="utf-8"))
    assert plan_sha256(read_plan(folders / "pillow")) == sha256_json(values)


def test_teachers_students_and_verification_see_the_same_pixels(folders):
    data = ReinforcedData(folders / "turbo")
    teacher = two_teachers()[0]
    for index in range(len(data)):
        rendered = np.stack([data.picture(index).render(view, 16) for view in data.text(index).views])
        import torch

        live = teacher.encode_image(torch.from_numpy(rendered).permute(0, 3, 1, 2).float() / 255).numpy()
        assert np.abs(live - data.image_embeds(index, "alpha")).max() < 1e-6
    assert verify(folders / "turbo", two_teachers(), "all")["passed"]
    other = ReinforcedData(folders / "pillow")
    assert any(data.view(n, v) != other.view(n, v) for n in range(len(data)) for v in range(3))  # the grain


def test_fast_replay_of_a_turbo_set_is_its_exact_replay(folders):
    exact, fast = (StoredPairs(folders / "turbo", 64, replay=replay) for replay in ("exact", "fast"))
    for index in range(len(exact)):
        a, b = (pairs.pair(index, np.random.default_rng(index)) for pairs in (exact, fast))
        assert (a.image == b.image).all()


def test_processes_ranks_and_order_change_nothing(folders):
    pairs = StoredPairs(folders / "turbo", 48)

    def images(workers, world):
        parts = [
            list(batches(pairs, batch_size=4, seed=1, first_step=0, last_step=3, rank=r, world=world, workers=workers))
            for r in range(world)
        ]
        return [np.concatenate([part[step].images.numpy() for part in parts]) for step in range(3)]

    alone = images(0, 1)
    for workers, world in ((2, 1), (0, 4)):
        assert all((a == b).all() for a, b in zip(alone, images(workers, world), strict=True))


def test_a_set_of_one_rule_is_not_gone_on_with_by_the_other(folders, tmp_path):
    for before, now in (("pillow", "turbo"), ("turbo", "pillow")):
        with pytest.raises(UsageError, match="rendering"):
            make_set(photos(), two_teachers(), folders / before, existing=Existing.RESUME, views_per_image=3,
                     view_preset="mobileclip", embed_dtype="fp32", shard_size=4, batch_size=4, rendering=now)  # fmt: skip


def test_an_extended_set_is_the_set_made_at_once(folders, tmp_path):
    told = {"view_preset": "mobileclip", "embed_dtype": "fp32", "shard_size": 4, "batch_size": 4, "rendering": "turbo"}
    make_set(photos(), two_teachers(), tmp_path / "set", views_per_image=1, **told)
    make_set(photos(), two_teachers(), tmp_path / "set", existing=Existing.EXTEND, views_per_image=3, **told)
    once, grown = ReinforcedData(folders / "turbo"), ReinforcedData(tmp_path / "set")
    for index in range(len(once)):
        assert grown.text(index) == once.text(index)
        assert np.abs(grown.image_embeds(index, "alpha") - once.image_embeds(index, "alpha")).max() < 1e-6


def test_raw_pairs_pass_over_a_photo_that_ends_early_and_draw_as_if_it_were_not_there():
    first, again = (
        RawPairs(photos(), "light", 32, rendering="turbo"),
        RawPairs(photos(), "light", 32, rendering="turbo"),
    )
    a = first.pair(1, np.random.default_rng(3))
    assert a.key == "p2"
    assert list(first.rejected) == ["p1"]
    again.pair(1, np.random.default_rng(5))  # knows now
    b = again.pair(1, np.random.default_rng(3))
    assert (a.image == b.image).all()
