"""Samples are made ready ahead of the models, by threads or processes: who does it, and when, changes no byte and no order."""

import os
import threading
from types import SimpleNamespace

import pytest
import torch

from distill.core.errors import DistillError
from distill.core.existing import Existing
from reinforced_data.labelling import reinforce as labelling
from reinforced_data.labelling.encode import ImageEncoder, encode_texts
from reinforced_data.labelling.preparation.ahead import enough_workers, prepared
from reinforced_data.labelling.preparation.prepare import Preparation
from reinforced_data.sample import RawSample
from reinforced_data.store.manifest import Rejected
from tests.reinforced_data.labelling.test_precision import plan_of
from tests.reinforced_data.labelling.test_reinforce import BASE, hashes
from tests.reinforced_data.stubs import ListSource, StubCaptioner, StubTeacher, make_set, samples, two_teachers


def some_bad():
    found = samples(23)
    found[3] = RawSample("empty", b"", found[3].captions)
    found[11] = RawSample("text", b"hello", found[11].captions)
    return ListSource(found)


@pytest.mark.process
def test_processes_and_threads_make_the_same_bytes_new_and_extended(tmp_path):
    def both(workers):
        folder = tmp_path / str(workers)
        call = {**BASE, "embed_dtype": "int8", "workers": workers}
        make_set(some_bad(), two_teachers()[:1], folder, **{**call, "views_per_image": 2})
        first = hashes(folder)
        call |= {"captioners": [StubCaptioner()], "existing": Existing.EXTEND}
        make_set(some_bad(), two_teachers(), folder, **call)
        return first, hashes(folder)

    by_threads = both(0)
    assert by_threads[0] != by_threads[1]
    assert both(2) == by_threads


@pytest.mark.process
def test_order_and_pixels_of_processes_are_those_of_threads():
    preparation = Preparation(
        some_bad(), two_teachers(), [StubCaptioner()], plan_of("no", captioners=[StubCaptioner()])
    )
    indices = [*range(22, 8, -1), *range(5)]
    ways = [list(prepared(preparation, iter(indices), workers)) for workers in (0, 1, 2)]
    for way in ways[1:]:
        for index, ours, theirs in zip(indices, ways[0], way, strict=True):
            if isinstance(ours, Rejected):
                assert index in (3, 11)
                assert theirs == ours
                continue
            assert theirs.item == ours.item
            assert ours.item.index == index
            assert (theirs.image == ours.image).all()
            assert list(theirs.views) == list(ours.views)
            for which, views in ours.views.items():
                assert all((a == b).all() for a, b in zip(views, theirs.views[which], strict=True))


class Bad(ListSource):
    """Its sample 5 breaks whoever reads it."""

    how = "raise"

    def __getitem__(self, index):
        if index == 5:
            if self.how == "die":
                os._exit(9)
            raise ValueError("a fault of the source")
        return super().__getitem__(index)


@pytest.mark.process
@pytest.mark.parametrize(("how", "words"), [("raise", r"Sample 5 .*a fault of the source"), ("die", "died.*--resume")])
def test_a_process_that_fails_or_dies_is_one_sentence(how, words):
    source = Bad(samples(8))
    source.how = how
    with pytest.raises(DistillError, match=words):
        list(prepared(Preparation(source, two_teachers(), [], plan_of("no")), range(8), 1))


def test_the_next_shard_is_read_before_the_last_one_has_its_texts(tmp_path):
    read, at_texts = [], []

    class Watched(ListSource):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    class Asked(StubTeacher):
        def encode_text(self, captions):
            at_texts.append(max(read))
            return super().encode_text(captions)

    make_set(Watched(samples(12)), [Asked()], tmp_path / "o", **{**BASE, "shard_size": 4, "batch_size": 64})
    assert read == list(range(12))  # each once, in order
    assert at_texts[0] > 3  # the last of the first shard


def test_a_shard_is_written_while_the_next_one_is_labelled(tmp_path, monkeypatch):
    real, second = labelling.write_shard, threading.Event()

    def slow(path, *arguments):
        if path.name == "shard-00000.arrow":
            assert second.wait(30), "the teacher waits for the disk"
        real(path, *arguments)

    class Asked(StubTeacher):
        def encode_text(self, captions):
            if any("sample 4 " in caption for caption in captions):
                second.set()
            return super().encode_text(captions)

    monkeypatch.setattr(labelling, "write_shard", slow)
    manifest = make_set(ListSource(samples(12)), [Asked()], tmp_path / "o", **{**BASE, "shard_size": 4})
    assert [shard.samples for shard in manifest.shards] == [4, 4, 4]


def test_a_batch_is_fetched_when_the_next_one_is_under_way():
    events = []

    class Remote:
        """An answer that is on a device: where it is used, the caller waits for it."""

        def __init__(self, number, embeds):
            self.number, self.embeds, self.shape = number, embeds, embeds.shape

        def detach(self):
            events.append(f"fetch {self.number}")
            return self.embeds

    class Device(StubTeacher):
        def _remote(self, embeds):
            number = sum(event.startswith("ask") for event in events)
            events.append(f"ask {number}")
            return Remote(number, embeds)

        def encode_image(self, pixels):
            return self._remote(super().encode_image(pixels))

        def encode_text(self, captions):
            return self._remote(super().encode_text(captions))

    in_turn = ["ask 0", "ask 1", "fetch 0", "ask 2", "fetch 1", "fetch 2"]
    views = list(torch.randint(0, 256, (5, 16, 16, 3), dtype=torch.uint8).numpy())
    encoder = ImageEncoder(Device(), 2)
    encoder.add(views)
    found = encoder.finish()
    assert events == in_turn
    whole = StubTeacher().encode_image(torch.stack([torch.from_numpy(v) for v in views]).permute(0, 3, 1, 2) / 255)
    assert abs(found - whole.numpy()).max() < 1e-6
    events.clear()
    texts = ["a", "ccc", "bb", "eeeee", "dddd"]
    found = encode_texts(Device(), texts, 2)
    assert events == in_turn
    assert abs(found - StubTeacher().encode_text(texts).numpy()).max() < 1e-6


@pytest.mark.parametrize(
    ("cores", "processes", "gpu", "workers"),
    [
        (64, 1, False, 0),
        (2, 1, True, 0),
        (3, 1, True, 0),
        (4, 1, True, 3),
        (16, 1, True, 15),
        (64, 1, True, 16),
        (64, 8, True, 7),
    ],
)
def test_processes_are_for_gpus_with_cores_beside_them(cores, processes, gpu, workers, monkeypatch):
    assert enough_workers(cores, processes, gpu=gpu)[0] == workers
    monkeypatch.setattr("multiprocessing.current_process", lambda: SimpleNamespace(daemon=True))
    assert enough_workers(cores, processes, gpu=gpu)[0] == 0
