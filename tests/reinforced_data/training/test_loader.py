"""The loader over processes: the same samples for any ranks and workers, two streams, and failures that name the sample."""

import itertools
import os
import signal

import numpy as np
import pytest
import torch

from distill.core.errors import DistillError, UsageError
from reinforced_data.sample import Caption, RawSample
from reinforced_data.training.caption_policy import CaptionPolicy
from reinforced_data.training.loader import batches, enough_workers
from reinforced_data.training.pairs import Pair, RawPairs, StoredPairs
from tests.reinforced_data.stubs import ListSource, make_set, samples, two_teachers

COUNT, BATCH = 22, 4


class Numbers:
    """Pairs that know their number; each also draws, so that draws are compared too."""

    teacher_facts: dict = {}  # noqa: RUF012
    unpaired = None
    image_size = 100

    def __init__(self, fault=None, at=13):
        self.fault, self.at = fault, at

    def __len__(self):
        return COUNT

    def key(self, index):
        return f"key-{index}"

    def side(self):
        return 500

    def pair(self, index, rng):
        if index == self.at and self.fault is not None:
            self.fault()
        draw = int(rng.integers(1 << 30))
        return Pair(
            key=f"{index}:{draw}", image=np.full((2, 2, 3), index, np.uint8), image_id=index, texts=(f"text {index}",)
        )


def keys(first, last, world, workers):
    """Keys of each global batch, put together from its ranks."""
    common = {"batch_size": BATCH, "seed": 5, "first_step": first, "last_step": last, "workers": workers}
    parts = [list(batches(Numbers(), rank=rank, world=world, **common)) for rank in range(world)]
    return [[key for part in parts for key in part[step].keys] for step in range(last - first)]


def test_ranks_workers_and_resume_change_nothing():
    whole = keys(0, 12, 1, 0)
    assert len({key.split(":")[0] for batch in whole[:5] for key in batch}) == 20
    for world, workers in itertools.product((1, 2, 4), (0, 2)):
        assert keys(0, 12, world, workers) == whole, (world, workers)
    for world, workers in ((1, 0), (2, 2), (4, 0)):
        assert keys(7, 12, world, workers) == whole[7:]  # the middle of the second epoch, other ranks and workers


class Letters:
    """A tokenizer: the letters of a text, and whether it ran where tokenizers may start threads."""

    def __call__(self, texts):
        quiet = os.environ.get("TOKENIZERS_PARALLELISM") == "false"
        return torch.tensor([[*map(ord, text.ljust(32)[:32]), quiet] for text in texts])


def test_tokens_stand_beside_their_texts_for_any_ranks_and_workers(both_kinds, monkeypatch):
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)  # which open_clip sets where it is imported
    pairs = StoredPairs(both_kinds, 16)
    whole = None
    for world, workers in ((1, 0), (2, 2), (4, 0), (1, 2)):
        common = {"batch_size": BATCH, "seed": 5, "first_step": 2, "last_step": 6, "workers": workers}
        parts = [list(batches(pairs, rank=rank, world=world, tokenize=Letters(), **common)) for rank in range(world)]
        for batch in itertools.chain(*parts):
            assert torch.equal(batch.tokens[:, :-1], Letters()(batch.texts)[:, :-1])
            assert batch.tokens[:, -1].bool().all() == bool(workers)
        # [steps, streams, B, letters]: the ranks of each stream after one another
        steps = [torch.cat([part[step].tokens.unflatten(0, (2, -1)) for part in parts], 1) for step in range(4)]
        tokens = torch.stack(steps)[..., :-1]
        whole = tokens if whole is None else whole
        assert torch.equal(tokens, whole), (world, workers)


def test_a_pinned_batch_is_the_same_with_every_tensor_pinned(both_kinds, monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(self) or self)
    batch = next(
        batches(StoredPairs(both_kinds, 16), batch_size=4, seed=1, first_step=0, last_step=1, tokenize=Letters())
    )
    again = batch.pin_memory()
    tensors = [batch.images, batch.image_ids, batch.tokens, *batch.teacher_image.values(), *batch.teacher_text.values()]
    assert sorted(map(id, pinned)) == sorted(map(id, tensors))
    assert (again.keys, again.texts, again.unpaired) == (batch.keys, batch.texts, batch.unpaired)


def test_workers_leave_a_core_for_training_and_small_images_to_a_thread(both_kinds):
    assert [enough_workers(Numbers(), cores, 1, gpu=False)[0] for cores in (1, 2, 4, 64)] == [0, 1, 3, 8]
    assert [enough_workers(Numbers(), cores, 4, gpu=True)[0] for cores in (1, 16, 64, 256)] == [0, 3, 15, 16]
    assert "16 cores for 4 processes" in enough_workers(Numbers(), 16, 4, gpu=True)[1]
    # A worker holds 3 batches of 10 x 3 x 100 x 100 bytes, 0.9 MB; four fifths of what is shared may be filled.
    for megabytes, workers in ((64, 8), (9, 8), (8.9, 7), (3, 2), (1, 0)):
        number, why = enough_workers(Numbers(), 64, 1, gpu=False, batch=10, shared_bytes=megabytes * 1e6)
        assert number == workers
        assert ("--shm-size" in why) == (workers < 8)
    assert enough_workers(Numbers(), 64, 3, gpu=False, batch=10, shared_bytes=9e6)[0] == 2  # they share it
    for pairs in (StoredPairs(both_kinds, 16), RawPairs(ListSource(samples(3)), "none", 8)):
        assert 0 < pairs.side() <= 30
        workers, why = enough_workers(pairs, 64, 1, gpu=False)
        assert workers == 0
        assert "kept decoded" in why


def boom():
    raise ValueError("the file is upside down")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_failing_sample_is_named(workers):
    with pytest.raises(DistillError, match=r"'key-13'.*ValueError: the file is upside down"):
        list(batches(Numbers(boom), batch_size=BATCH, seed=5, first_step=0, last_step=5, workers=workers))


def test_a_killed_worker_is_named_with_its_sample():
    before = signal.getsignal(signal.SIGCHLD)
    with pytest.raises(DistillError, match=r"worker died \(signal 9\) while at sample 'key-13'.*--resume"):
        list(batches(Numbers(die), batch_size=BATCH, seed=5, first_step=0, last_step=6, workers=2))
    assert signal.getsignal(signal.SIGCHLD) == before


@pytest.fixture(scope="module")
def both_kinds(tmp_path_factory):
    """A set with real, synthetic and sentence captions; sample 3 has no synthetic one."""
    extra = ("synthetic:coca", "synthetic:coca#sentence")
    raw = [
        RawSample(s.key, s.image, (*s.captions, *(Caption(f"{s.key} {source}", source) for source in extra if n != 3)))
        for n, s in enumerate(samples(COUNT))
    ]
    out = tmp_path_factory.mktemp("kinds") / "set"
    make_set(ListSource(raw), two_teachers(), out, views_per_image=2, view_preset="light", embed_dtype="fp32",
              shard_size=9, batch_size=8, seed=0)  # fmt: skip
    return out


def test_sum_makes_two_streams_with_their_own_teacher_texts(both_kinds):
    pairs = StoredPairs(both_kinds, 16)
    assert pairs.policy.name == "sum"  # "auto", and the set has both kinds
    index = {pairs.key(i): i for i in range(COUNT)}
    fell_back = False
    for batch in batches(pairs, batch_size=BATCH, seed=1, first_step=0, last_step=10):
        assert len(batch.texts) == 2 * BATCH
        assert len(batch.keys) == BATCH
        for row, text in enumerate(batch.texts):
            key = batch.keys[row % BATCH]
            captions = pairs.data.text(index[key]).captions
            (number,) = [n for n, caption in enumerate(captions) if caption.text == text]
            source = captions[number].source
            fell_back |= key == "s003" and row >= BATCH and source == "real"
            assert source == ("real" if row < BATCH or key == "s003" else "synthetic:coca")
            for name in pairs.teacher_facts:
                stored = torch.from_numpy(pairs.data.text_embeds(index[key], name)[number])
                assert torch.equal(batch.teacher_text[name][row], stored)
    assert fell_back


def test_only_the_drawn_view_and_captions_are_read(both_kinds, monkeypatch):
    pairs = StoredPairs(both_kinds, 16)
    for whole in ("image_embeds", "text_embeds", "sample", "text"):
        monkeypatch.setattr(type(pairs.data), whole, lambda *_: pytest.fail("read more than was drawn"))
    read = []
    for one in ("image_embed", "text_embed"):
        real = getattr(type(pairs.data), one)
        monkeypatch.setattr(
            type(pairs.data), one, lambda self, i, t, n, one=one, real=real: read.append(one) or real(self, i, t, n)
        )
    pairs.pair(0, np.random.default_rng(0))
    assert sorted(read) == ["image_embed"] * 2 + ["text_embed"] * 4  # two teachers, one view, two captions


def test_sentences_are_drawn_when_they_are_stored_and_refused_when_not(both_kinds, tmp_path):
    pairs = StoredPairs(both_kinds, 16, CaptionPolicy("mix", {"synthetic:coca": 1}, sub_sentences=True))
    texts = {text for batch in batches(pairs, batch_size=BATCH, seed=1, first_step=0, last_step=20) for text in batch.texts}  # fmt: skip
    assert {"s000 synthetic:coca", "s000 synthetic:coca#sentence"} <= texts
    make_set(ListSource(samples(4)), two_teachers(), tmp_path / "plain", views_per_image=1, view_preset="none",
              embed_dtype="fp32", shard_size=4, batch_size=4, seed=0)  # fmt: skip
    with pytest.raises(UsageError, match="stores no sentences"):
        StoredPairs(tmp_path / "plain", 16, CaptionPolicy(sub_sentences=True))


def test_raw_pairs_cut_sentences_as_they_are_drawn():
    from reinforced_data.training.pairs import RawPairs

    raw = [RawSample(s.key, s.image, (Caption("A dog runs. The sun shines."),)) for s in samples(4)]
    pairs = RawPairs(ListSource(raw), "none", 8, CaptionPolicy(sub_sentences=True))
    drawn = {pairs.pair(0, np.random.default_rng(seed)).texts[0] for seed in range(40)}
    assert drawn == {"A dog runs. The sun shines.", "A dog runs.", "The sun shines."}
