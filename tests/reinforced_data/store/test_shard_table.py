"""Of very many shards a mapped table says what the manifest says of few; the set is otherwise the same."""

import json
import pickle
import shutil

import pyarrow as pa
import pytest

from distill.core.errors import DistillError
from distill.core.existing import Existing
from reinforced_data.labelling import reinforce as labelling
from reinforced_data.store import shards as shards_module
from reinforced_data.store.identity import set_identity
from reinforced_data.store.manifest import read_manifest
from reinforced_data.store.names import MANIFEST_FILE, SHARD_TABLE
from reinforced_data.store.reader import ReinforcedData
from reinforced_data.store.shards import ShardTable
from tests.reinforced_data.labelling.test_reinforce import BASE, hashes
from tests.reinforced_data.stubs import ListSource, make_set, samples, two_teachers


@pytest.fixture
def few(monkeypatch):
    """More than two shards are very many."""
    monkeypatch.setattr(shards_module, "LISTED_SHARDS", 2)
    monkeypatch.setattr(labelling, "LISTED_SHARDS", 2)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """(the folder of a listed set of five shards, that of the same set with a table, what making it gave)."""
    make_set(ListSource(samples(23)), two_teachers(), tmp_path / "listed", **BASE)
    with monkeypatch.context() as patch:
        patch.setattr(shards_module, "LISTED_SHARDS", 2)
        patch.setattr(labelling, "LISTED_SHARDS", 2)
        manifest = make_set(ListSource(samples(23)), two_teachers(), tmp_path / "table", **BASE)
    return tmp_path / "listed", tmp_path / "table", manifest


def test_a_set_with_a_table_is_the_set_without(made):
    listed, table, manifest = made
    one, other = ReinforcedData(listed), ReinforcedData(table)
    assert isinstance(other.manifest.shards, ShardTable)
    assert isinstance(one.manifest.shards, list)
    assert list(other.manifest.shards) == one.manifest.shards == list(manifest.shards)
    assert other.manifest.shards[1:4:2] == one.manifest.shards[1:4:2]
    for field in ("samples", "captions", "rejected", "rejected_reasons", "licence_summary"):
        assert getattr(other.manifest, field) == getattr(one.manifest, field)
    for reader in (other, pickle.loads(pickle.dumps(other))):
        assert [reader.key(i) for i in range(23)] == [one.key(i) for i in range(23)]
        assert (reader.image_embeds(22, "alpha") == one.image_embeds(22, "alpha")).all()
    assert other.rejected() == one.rejected()
    assert set_identity(manifest) == set_identity(other.manifest) != set_identity(one.manifest)
    assert json.loads((table / MANIFEST_FILE).read_text())["shards"] == {
        "file": SHARD_TABLE, "sha256": hashes(table)[SHARD_TABLE], "count": 5,
    }  # fmt: skip
    with pa.memory_map(str(table / SHARD_TABLE)) as file:
        assert pa.ipc.open_file(file).read_all()["size_bytes"].to_pylist() == [
            (table / f"shard-0000{n}.arrow").stat().st_size for n in range(5)
        ]


def test_finishing_again_gives_the_same_bytes(made, few):
    _, table, _ = made
    before = hashes(table)
    (table / MANIFEST_FILE).unlink()
    make_set(ListSource(samples(23)), two_teachers(), table, **{**BASE, "existing": Existing.RESUME})
    assert hashes(table) == before
    make_set(ListSource(samples(4)), two_teachers(), table, **{**BASE, "existing": Existing.OVERWRITE})
    assert SHARD_TABLE not in hashes(table)  # one shard is listed


def test_a_table_that_is_missing_or_another_is_named(made):
    listed, table, _ = made
    shutil.copy(listed / "shard-00000.arrow", table / SHARD_TABLE)
    with pytest.raises(DistillError, match=r"shards\.arrow' has another SHA-256"):
        read_manifest(table)
    (table / SHARD_TABLE).unlink()
    with pytest.raises(DistillError, match=r"shards\.arrow' is missing"):
        ReinforcedData(table)


def test_a_shard_that_is_not_the_manifest_s_is_named_when_it_is_opened(made):
    _, table, _ = made
    with open(table / "shard-00003.arrow", "ab") as stream:
        stream.write(b"more")
    (table / "shard-00004.arrow").unlink()
    data = ReinforcedData(table)
    assert data.key(0) == "s000"
    for index, words in ((15, "has .* bytes where the manifest says"), (22, "is missing")):
        with pytest.raises(DistillError, match=f"shard-0000{index // 5}.arrow' {words}"):
            data.key(index)


def test_reading_a_manifest_looks_at_no_shard_of_a_table(made, monkeypatch):
    _, table, _ = made
    monkeypatch.setattr(ShardTable, "__getitem__", None)
    assert len(read_manifest(table).shards) == 5
    assert len(ReinforcedData(table)) == 23
