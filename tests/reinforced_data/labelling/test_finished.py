"""Finishing a set: from what the makers of its shards kept, and from the shards themselves where that is not to be had."""

import hashlib
import json

import pytest

from reinforced_data.labelling.plan import make_plan
from reinforced_data.labelling.reinforce import finish, shards_made, unfinished, work
from reinforced_data.labelling.settings import ReinforceSettings
from reinforced_data.store.folder import open_output
from reinforced_data.store.names import SHARD_GLOB, facts_name, shard_name
from tests.reinforced_data.stubs import ListSource, StubTeacher, samples


@pytest.fixture
def half(tmp_path):
    """A set of three shards of which process 0 of 2 has made the first and the last."""
    source, teacher = ListSource(samples(10)), StubTeacher()
    settings = ReinforceSettings(views_per_image=1, view_preset="light", shard_size=4, batch_size=4)
    plan = make_plan(source, [teacher], [], settings, 5)
    open_output(tmp_path, plan)
    assert work(source, [teacher], tmp_path, rank=0, world=2) is None
    return tmp_path, lambda: work(source, [teacher], tmp_path, rank=1, world=2)


def opened(monkeypatch):
    """Names of the shards that are opened from now on."""
    import reinforced_data.labelling.finished as module

    names, real = [], module.finished_shard
    monkeypatch.setattr(module, "finished_shard", lambda path, sha256: names.append(path.name) or real(path, sha256))
    return names


def test_how_far_a_set_is_can_be_counted_without_opening_a_shard(half, monkeypatch):
    folder, _ = half
    names = opened(monkeypatch)
    assert shards_made(folder) == (2, 3)
    assert names == []


def test_who_finishes_opens_no_shard_that_another_has_made(half, monkeypatch):
    folder, rest = half
    names = opened(monkeypatch)
    manifest = rest()
    assert set(names) == {"shard-00001.arrow"}  # its own, read back when it was written
    assert [facts.file for facts in manifest.shards] == sorted(path.name for path in folder.glob(SHARD_GLOB))
    for facts in manifest.shards:
        data = (folder / facts.file).read_bytes()
        assert (facts.sha256, facts.size_bytes) == (hashlib.sha256(data).hexdigest(), len(data))
    assert sum(facts.samples for facts in manifest.shards) == manifest.samples == 10
    assert sorted(path.name for path in folder.iterdir() if path.suffix == ".json") == ["manifest.json", "plan.json"]


@pytest.mark.parametrize("spoil", ["gone", "broken", "other plan", "other size"])
def test_what_was_kept_of_a_shard_and_does_not_fit_is_not_believed(half, monkeypatch, spoil):
    folder, rest = half
    kept = folder / facts_name("shard-00000.arrow")
    values = json.loads(kept.read_text())
    if spoil == "gone":
        kept.unlink()
    else:
        values["facts"]["sha256"] = "0" * 64
        values |= {"plan_sha256": "1" * 64} if spoil == "other plan" else {}
        values["facts"]["size_bytes"] += spoil == "other size"
        kept.write_text("{" if spoil == "broken" else json.dumps(values))
    names = opened(monkeypatch)
    manifest = rest()
    assert "shard-00000.arrow" in names
    assert manifest.shards[0].sha256 == hashlib.sha256((folder / "shard-00000.arrow").read_bytes()).hexdigest()


def test_a_shard_that_was_cut_off_after_it_was_hashed_is_made_again(half):
    folder, rest = half
    shard = folder / "shard-00000.arrow"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    assert rest() is None
    assert list(unfinished(folder)) == ["shard-00000.arrow"]
    assert finish(folder) is None


def test_names_sort_by_number_however_many_shards_there_are():
    assert shard_name(7, 12) == shard_name(7, 100_000) == "shard-00007.arrow"
    names = [shard_name(number, 1_000_000) for number in (0, 9, 99_999, 100_000, 999_999)]
    assert names == sorted(names)
    assert len({len(name) for name in names}) == 1
