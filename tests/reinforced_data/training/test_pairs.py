import pickle

import numpy as np
import pytest
import torch

from distill.core.errors import DistillError, UsageError
from reinforced_data.pixels.views import render_view
from reinforced_data.sample import RawSample
from reinforced_data.store.reader import ReinforcedData
from reinforced_data.training.loader import batches
from reinforced_data.training.order import EpochOrder
from reinforced_data.training.pairs import RawPairs, StoredPairs
from tests.reinforced_data.stubs import ListSource, make_set, samples, two_teachers

COUNT, BATCH = 22, 4  # 5 steps an epoch, two samples dropped


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    out = tmp_path_factory.mktemp("pairs") / "set"
    make_set(
        ListSource(samples(COUNT)),
        two_teachers(),
        out,
        views_per_image=3,
        view_preset="light",
        embed_dtype="fp16",
        shard_size=9,
        batch_size=8,
        seed=0,
    )
    return out


def run(pairs, first=0, last=12, **options):
    return list(batches(pairs, batch_size=BATCH, seed=7, first_step=first, last_step=last, **options))


def same(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.keys == b.keys
        assert a.texts == b.texts
        assert torch.equal(a.images, b.images)
        assert list(a.teacher_image) == list(b.teacher_image)
        for name in a.teacher_image:
            assert torch.equal(a.teacher_image[name], b.teacher_image[name])
            assert torch.equal(a.teacher_text[name], b.teacher_text[name])


@pytest.fixture(params=["stored", "raw"])
def make(request, stored):
    if request.param == "stored":
        return lambda: StoredPairs(stored, 16)
    return lambda: RawPairs(ListSource(samples(COUNT)), "mobileclip", 16)


def test_shapes_and_ranges(make, stored):
    batch = run(make(), 3, 4)[0]
    assert batch.images.shape == (4, 3, 16, 16)
    assert batch.images.dtype == torch.uint8
    assert batch.images.min() < batch.images.max()
    for name, width in (("alpha", 8), ("open_clip:X-1/y", 12)) if batch.teacher_image else ():
        for embeds in (batch.teacher_image[name], batch.teacher_text[name]):
            assert embeds.shape == (4, width)
            assert torch.allclose(embeds.norm(dim=1), torch.ones(4), atol=1e-6)


def test_a_pair_belongs_together(stored):
    """The image, text and both embeddings of a pair come from one view and one caption of one sample."""
    pairs, data = StoredPairs(stored, 16), ReinforcedData(stored)
    index = {data.text(i).key: i for i in range(len(data))}
    drawn = set()
    for batch in run(pairs):
        for row, key in enumerate(batch.keys):
            i = index[key]
            views = [render_view(data.decoded(i), view, 16) for view in data.text(i).views]
            image = batch.images[row].permute(1, 2, 0).numpy()
            (view,) = [v for v, expected in enumerate(views) if (expected == image).all()]
            caption = [c.text for c in data.text(i).captions].index(batch.texts[row])
            drawn.add((view, caption))
            for name in data.teacher_facts:
                live_image = torch.from_numpy(data.image_embeds(i, name)[view])
                live_text = torch.from_numpy(data.text_embeds(i, name)[caption])
                assert torch.allclose(batch.teacher_image[name][row], live_image, atol=1e-3)
                assert torch.allclose(batch.teacher_text[name][row], live_text, atol=1e-3)
    assert drawn == {(view, caption) for view in range(3) for caption in range(2)}


def test_epochs_visit_everything_once_in_a_new_order(make):
    steps = run(make(), 0, 10)
    first = [key for batch in steps[:5] for key in batch.keys]
    second = [key for batch in steps[5:] for key in batch.keys]
    assert len(set(first)) == len(first) == 20
    assert len(set(second)) == 20
    assert first != second
    assert sorted(EpochOrder(7, 0, COUNT).samples(0, COUNT)) == list(range(COUNT))
    assert first == [f"s{i:03d}" for i in EpochOrder(7, 0, COUNT).samples(0, 20)]


def test_resuming_at_any_step_gives_the_rest(make):
    whole = run(make())
    for first in (1, 4, 5, 11):
        same(run(make(), first), whole[first:])
    same(run(make(), 12, 12), [])


def test_ranks_share_each_global_batch_in_order(make):
    whole = run(make())
    for world in (2, 4):
        parts = [run(make(), rank=rank, world=world) for rank in range(world)]
        for step, batch in enumerate(whole):
            assert [key for part in parts for key in part[step].keys] == batch.keys
            assert [text for part in parts for text in part[step].texts] == batch.texts
            assert torch.equal(torch.cat([part[step].images for part in parts]), batch.images)
            for name in batch.teacher_image:
                assert torch.equal(
                    torch.cat([part[step].teacher_image[name] for part in parts]), batch.teacher_image[name]
                )


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(make, workers):
    same(run(make(), 2, 9, workers=workers), run(make(), 2, 9))


def test_another_seed_is_another_order(make):
    other = list(batches(make(), batch_size=BATCH, seed=8, first_step=0, last_step=5))
    assert [b.keys for b in other] != [b.keys for b in run(make(), 0, 5)]


def test_pairs_travel_to_other_processes(make):
    pairs = make()
    before = run(pairs)
    same(run(pickle.loads(pickle.dumps(pairs))), before)


def test_raw_pairs_skip_what_cannot_be_used():
    good = samples(6)
    good[2] = RawSample("bad", b"junk", good[2].captions)
    good[4] = RawSample("mute", good[4].image, ())
    pairs = RawPairs(ListSource(good), "none", 8)
    seen = {key for batch in run(pairs, 0, 8) for key in batch.keys}
    assert seen == {"s000", "s001", "s003", "s005"}
    assert set(pairs.rejected) == {"bad", "mute"}
    assert pairs.rejected["mute"] == "no caption"
    hopeless = RawPairs(ListSource([RawSample("bad", b"", ())] * 4), "none", 8)
    with pytest.raises(DistillError, match="None of the 4 samples"):
        run(hopeless, 0, 1)


def test_raw_pairs_decode_small_images_once(monkeypatch):
    from reinforced_data.pixels import picture as module

    calls = []
    real = module.decode_rgb
    monkeypatch.setattr(module, "decode_rgb", lambda data, key: calls.append(key) or real(data, key))
    pairs = RawPairs(ListSource(samples(COUNT)), "light", 8)
    run(pairs, 0, 20)
    assert len(calls) == len(set(calls))


def test_bad_calls(stored):
    pairs = StoredPairs(stored, 8)
    with pytest.raises(UsageError, match="fewer than one batch of 64"):
        batches(pairs, batch_size=64, seed=0, first_step=0, last_step=1)
    with pytest.raises(UsageError, match="divide"):
        batches(pairs, batch_size=4, seed=0, first_step=0, last_step=1, rank=0, world=3)
    with pytest.raises(UsageError, match="mobileclip"):
        RawPairs(ListSource(samples(3)), "mobileklip", 8)


def test_draws_depend_on_the_epoch():
    pairs = RawPairs(ListSource(samples(4)), "mobileclip", 8)
    steps = run(pairs, 0, 2)
    by_key = [dict(zip(batch.keys, batch.images.numpy(), strict=True)) for batch in steps]
    assert any(not np.array_equal(by_key[0][key], by_key[1][key]) for key in by_key[0])
