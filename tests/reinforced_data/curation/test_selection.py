"""Quotas, histograms, chains of filters, selections on disk, and pairs drawn from one."""

import itertools
import json
import shutil
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from distill.core.errors import DistillError, OutputExistsError, UsageError
from distill.core.existing import Existing
from reinforced_data.curation.curate import curate
from reinforced_data.curation.histogram import histogram, histogram_lines
from reinforced_data.curation.quota import quotas
from reinforced_data.curation.selection import SelectedPairs, Selection
from reinforced_data.store.reader import ReinforcedData
from reinforced_data.training.loader import batches
from reinforced_data.training.pairs import StoredPairs
from tests.reinforced_data.curation.planted import PlantedTeacher, plain, planted_set, unit_vectors

FILTERS = ["duplicates:min=0.999", "score:keep=0.5,captions=mean", "mix:size=2.5,batch=3"]


@pytest.mark.parametrize("seed", range(30))
def test_quotas_are_the_best_whole_numbers(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0 if seed % 3 == 0 else 1, 7, 4)
    total = int(rng.integers(0, sizes.sum() + 1))
    share = rng.random(4) ** 3
    wanted = share / share.sum() * total
    least = 1 if total >= (sizes > 0).sum() else 0
    cost = {
        x: ((np.array(x) - wanted) ** 2).sum()
        for x in itertools.product(*(range(min(least, m), m + 1) for m in sizes))
        if sum(x) == total
    }
    found = tuple(quotas(wanted, sizes, total).tolist())
    assert cost[found] == pytest.approx(min(cost.values()))


def test_quota_of_a_large_problem_is_exact():
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 5000, 500)
    share = np.exp(rng.normal(size=500) * 2)
    counts = quotas(share / share.sum() * 300_000, sizes, 300_000)
    assert counts.sum() == 300_000
    assert (counts >= 1).all()
    assert (counts <= sizes).all()


def test_histogram_counts_everything_once():
    scores = np.array([0.0, 0.0, 0.5, 1.0, np.nan, 0.25])
    keep = np.array([True, False, True, True, False, False])
    drawn = histogram(scores, keep, "s")
    assert sum(drawn["kept"]) == 3
    assert sum(drawn["dropped"]) == 2
    assert drawn["without_score"] == 1
    assert (drawn["kept"][0], drawn["dropped"][0], drawn["kept"][-1]) == (1, 1, 1)
    lines = histogram_lines(drawn)
    assert lines[0].startswith("s ")
    assert "#" in lines[1]
    assert "." in lines[1]
    assert sum(int(line.split()[-3]) + int(line.split()[-1]) for line in lines[1:21]) == 5
    for values in ([], [3.0, 3.0], [np.nan]):
        alone = histogram(np.array(values), np.ones(len(values), bool), "s")
        assert sum(alone["kept"]) == np.isfinite(values).sum()
        assert histogram_lines(alone)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """24 samples, of which the last four repeat the bytes of the first four."""
    folder = tmp_path_factory.mktemp("selection")
    images, texts = unit_vectors(24, 6), unit_vectors(24, 6, 1)
    encoded = [plain(i if i < 20 else i - 20) for i in range(24)]
    data = planted_set(folder / "set", [PlantedTeacher(images, texts)], images=encoded)
    curate(data, FILTERS, seed=1).save(folder / "sel")
    return folder


def test_each_filter_sees_what_the_one_before_kept(made):
    data = ReinforcedData(made / "set")
    result = curate(data, FILTERS, seed=1)
    came = [(step["filter"], step["came"], step["kept"]) for step in result.steps]
    assert came[:2] == [("1:duplicates", 24, 20), ("2:score", 20, 10)]
    assert came[2][1] == 10
    assert result.draws == 25
    scores = {i: float(data.image_embeds(i, "planted")[0] @ data.text_embeds(i, "planted")[0]) for i in range(20)}
    best = set(sorted(scores, key=lambda i: -scores[i])[:10])
    kept = set(np.flatnonzero(result.repeats).tolist())
    assert kept <= best
    assert len(kept) == came[2][2]
    for row in range(24):
        cause = result.causes[result.why[row] - 1][0] if result.why[row] else None
        expected = "1:duplicates" if row >= 20 else "2:score" if row not in best else None if row in kept else "3:mix"
        assert cause == expected
    for step in result.steps:
        assert step["came"] - step["kept"] == sum(step["dropped"].values())
    other = curate(data, [FILTERS[1], FILTERS[0]], seed=1)  # another order is another result
    assert [step["came"] for step in other.steps] == [24, 12]


def test_a_mix_may_use_the_score_of_a_filter_before(made):
    data = ReinforcedData(made / "set")
    filters = ["duplicates", "score:keep=0.5", 'mix:weights="#2=1"']
    before = json.dumps([step["settings"] for step in curate(data, filters).steps])
    assert "#2=1" in before
    direct = curate(data, ["duplicates", "score:keep=0.5", "mix:weights=planted=1"])
    assert (curate(data, filters).repeats == direct.repeats).all()
    with pytest.raises(UsageError, match="both set repeats"):
        curate(data, ["mix", "mix"])
    with pytest.raises(UsageError, match="at least one"):
        curate(data, [])


def test_what_is_left_out_after_a_mix_has_no_repeats(made):
    result = curate(ReinforcedData(made / "set"), ["mix:size=3", "score:keep=0.25"])
    kept = result.steps[-1]["kept"]
    assert kept == result.kept == (result.repeats > 0).sum()
    assert result.steps[-1]["draws"] == result.draws


def test_saved_and_loaded_it_is_the_same_and_pyarrow_reads_it(made):
    data = ReinforcedData(made / "set")
    fresh, loaded = curate(data, FILTERS, seed=1), Selection.load(made / "sel", data)
    assert sorted(file.name for file in (made / "sel").iterdir()) == ["selection.arrow", "selection.json"]
    assert loaded.facts() == json.loads(json.dumps(fresh.facts()))
    assert (loaded.repeats == fresh.repeats).all()
    causes = [[s.causes[w - 1] if w else None for w in s.why] for s in (fresh, loaded)]
    assert causes[0] == causes[1]
    with pa.OSFile(str(made / "sel" / "selection.arrow")) as file:
        table = pa.ipc.open_file(file).read_all().to_pylist()
    assert [row["key"] for row in table] == [data.text(i).key for i in range(24)]
    assert [row["index"] for row in table] == list(range(24))
    assert all((row["dropped_by"] is None) == (row["repeats"] > 0) for row in table)
    assert table[23]["dropped_by"] == "1:duplicates"
    assert table[23]["reason"] == "same image bytes as a kept sample"


def test_the_same_call_gives_the_same_bytes(made, tmp_path):
    curate(ReinforcedData(made / "set"), FILTERS, seed=1).save(tmp_path / "again")
    for name in ("selection.json", "selection.arrow"):
        assert (tmp_path / "again" / name).read_bytes() == (made / "sel" / name).read_bytes()
    curate(ReinforcedData(made / "set"), FILTERS, seed=2).save(tmp_path / "other")
    assert (tmp_path / "other" / "selection.arrow").read_bytes() != (made / "sel" / "selection.arrow").read_bytes()


def test_wrong_sets_and_damaged_files_are_refused(made, tmp_path):
    other = planted_set(tmp_path / "other", [PlantedTeacher(unit_vectors(24, 6, 9))])
    with pytest.raises(UsageError, match="another reinforced set"):
        Selection.load(made / "sel", other)
    with pytest.raises(UsageError, match="no selection"):
        Selection.load(tmp_path / "nothing")
    shutil.copytree(made / "sel", tmp_path / "hurt")
    arrow = tmp_path / "hurt" / "selection.arrow"
    arrow.write_bytes(arrow.read_bytes()[:-9])
    with pytest.raises(DistillError, match="damaged"):
        Selection.load(tmp_path / "hurt")
    arrow.unlink()
    with pytest.raises(DistillError, match="cannot be read"):
        Selection.load(tmp_path / "hurt")
    (tmp_path / "hurt" / "selection.json").write_text("{")
    with pytest.raises(DistillError, match="cannot be read"):
        Selection.load(tmp_path / "hurt")


def test_outputs_are_refused_or_replaced(made, tmp_path):
    data = ReinforcedData(made / "set")
    result = curate(data, ["score:keep=0.5"])
    result.save(tmp_path / "a")
    with pytest.raises(OutputExistsError):
        result.save(tmp_path / "a")
    curate(data, ["score:keep=0.25"]).save(tmp_path / "a", Existing.OVERWRITE)
    assert Selection.load(tmp_path / "a", data).kept == 6
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("x")
    with pytest.raises(UsageError, match="no selection"):
        result.save(tmp_path / "mine", Existing.OVERWRITE)
    nothing = curate(data, ["score:min=0.9999", "clusters:k=2,keep=0.5"])
    assert nothing.kept == 0
    assert nothing.steps[1]["came"] == 0
    with pytest.raises(DistillError, match="leave no sample"):
        nothing.save(tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_an_epoch_sees_exactly_the_kept_samples_as_often_as_said(made):
    pairs = StoredPairs(made / "set", 8)
    selection = Selection.load(made / "sel", pairs.data)
    selected = SelectedPairs(pairs, selection)
    assert len(selected) == 25
    expected = {key: int(n) for key, n in zip(selection.keys, selection.repeats, strict=True) if n}
    assert max(expected.values()) > 1
    for workers, world in ((0, 1), (1, 1), (0, 5)):
        seen = Counter(
            key
            for rank in range(world)
            for batch in batches(
                selected, batch_size=5, seed=3, first_step=0, last_step=5, rank=rank, world=world, workers=workers
            )
            for key in batch.keys
        )
        assert seen == expected
    assert selected.teacher_facts == pairs.teacher_facts


def test_a_selection_of_another_size_is_refused(made, tmp_path):
    planted_set(tmp_path / "small", [PlantedTeacher(unit_vectors(5, 6))])
    with pytest.raises(UsageError, match="24 samples and the set has 5"):
        SelectedPairs(StoredPairs(tmp_path / "small", 8), Selection.load(made / "sel"))
