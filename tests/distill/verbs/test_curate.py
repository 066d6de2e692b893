"""`distill curate`, `distill reinforce --filter`, and training on what they chose."""

import json
from collections import Counter

import pytest

import distill
from distill.core.errors import UsageError
from tests.command_line import distill as call
from tests.distill.verbs.test_cli import assert_paragraph

SOURCE = ["data=rendered:train=40,eval=8"]
SMALL = ["reinforce.shard_size=16", "reinforce.verify=0", "train.batch_size=8",
         "train.steps=3", "train.checkpoint_every=3", "student.inherit=none", "baseline.enabled=false"]  # fmt: skip
FILTERS = ["score:keep=0.5", "mix:size=1.2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_teacher):
    """A reinforced set with the selection that its own filters left."""
    out = tmp_path_factory.mktemp("curate") / "run"
    recipe = distill.load_recipe(None, [*SOURCE, *SMALL], {"teachers": [str(tiny_teacher)], "filters": FILTERS})
    result = distill.reinforce(recipe, out=out)
    assert result.selection == out / "selection"
    again = distill.reinforce(recipe, out=out, resume=True)
    assert again == result
    return out


def recorded(monkeypatch):
    """Keys of all pairs that training draws from now on."""
    from reinforced_data.training.pairs import StoredPairs

    seen, real = [], StoredPairs.pair

    def pair(self, index, rng):
        made = real(self, index, rng)
        seen.append(made.key)
        return made

    monkeypatch.setattr(StoredPairs, "pair", pair)
    return seen


def test_training_sees_exactly_the_selection(run, tmp_path, tiny_teacher, monkeypatch):
    from reinforced_data.curation.selection import Selection

    selection = Selection.load(run / "selection")
    expected = {key: int(n) for key, n in zip(selection.keys, selection.repeats, strict=True) if n}
    assert sum(expected.values()) == 24  # three batches: one epoch
    assert selection.steps[0]["kept"] == 20
    given = {"teachers": [str(tiny_teacher)], "data": str(run / "reinforced")}
    seen = recorded(monkeypatch)
    distill.train(distill.load_recipe(None, SMALL, given), out=tmp_path / "default")
    assert Counter(seen) == expected
    assert "24 draws" in (tmp_path / "default" / "log.txt").read_text()

    seen.clear()
    distill.train(distill.load_recipe(None, [*SMALL, "selection=none"], given), out=tmp_path / "all")
    assert len(set(seen)) == 24  # of 40 samples, each once

    distill.curate(run, ["score:keep=0.25"], out=tmp_path / "ten")
    seen.clear()
    distill.train(distill.load_recipe(None, [*SMALL, f"selection={tmp_path / 'ten'}"], given), out=tmp_path / "few")
    few = Selection.load(tmp_path / "ten")
    assert set(seen) <= {key for key, n in zip(few.keys, few.repeats, strict=True) if n}
    assert few.kept == 10


def test_filters_need_a_reinforced_set(tmp_path):
    recipe = distill.load_recipe(None, [*SOURCE, *SMALL, 'objective="clip"'], {"filters": FILTERS})
    with pytest.raises(UsageError, match="Reinforce it first"):
        distill.train(recipe, out=tmp_path / "o")
    recipe = distill.load_recipe(None, [*SOURCE, *SMALL, f"selection={tmp_path / 'nowhere'}"])
    with pytest.raises(UsageError, match="nowhere"):
        distill.run(recipe, out=tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_the_command_line_prints_writes_and_refuses(run, tmp_path):
    filters = ["--filter", "score:keep=0.3", "--filter", "duplicates:by=bytes"]
    dry = call("curate", run, *filters, "--dry-run", cwd=tmp_path)
    assert dry.returncode == 0, dry.stderr
    assert "not in the best 30 %" in dry.stdout
    assert "12 of 40 samples" in dry.stdout
    assert "nothing written" in dry.stdout
    assert dry.stdout.count("#") > 5
    assert list(tmp_path.iterdir()) == []
    done = call("curate", run / "reinforced", *filters, "--out", "chosen", "--json", cwd=tmp_path)
    facts = json.loads(done.stdout)
    assert (facts["out"], facts["kept"]) == ("chosen", 12)
    assert json.loads((tmp_path / "chosen" / "selection.json").read_text())["filters"] == facts["filters"]
    assert_paragraph(call("curate", run, *filters, "--out", "chosen", cwd=tmp_path), 2, "chosen", "--overwrite")
    assert_paragraph(call("curate", run, *filters, cwd=tmp_path), 2, "--out", "--dry-run")
    assert_paragraph(call("curate", run, "--filter", "skore", "--dry-run", cwd=tmp_path), 2, "skore", "score")
    assert_paragraph(call("curate", run, "--dry-run", cwd=tmp_path), 2, "at least one filter")
    assert_paragraph(call("curate", tmp_path, *filters, "--dry-run", cwd=tmp_path), 2, "no reinforced set")
    assert_paragraph(call("reinforce", "--filter", "score:keap=1", "--out", "o", cwd=tmp_path), 2, "keap", "keep")
    assert not (tmp_path / "o").exists()
    listed = json.loads(call("list", "filters", "--json", cwd=tmp_path).stdout)
    assert {row["name"] for row in listed} >= {"score", "clusters", "balance", "duplicates", "decontaminate", "mix"}


def test_a_set_is_decontaminated_against_the_evaluation_part_of_its_source(run, tmp_path):
    """`against` as one writes --data; the comma needs its quotes."""
    result = distill.curate(run, ['decontaminate:against="rendered:train=40,eval=8",by=bytes'], dry_run=True)
    assert result.facts["filters"][0]["facts"]["evaluation_images"] > 8
    assert result.kept == 40  # the generator never draws a test scene for training
    own = distill.curate(run, ['decontaminate:against="rendered:train=40,eval=8",by=bytes,split=train'], dry_run=True)
    assert own.kept == 0
    assert own.facts["filters"][0]["dropped"] == {"same bytes as an image of rendered:train=40,eval=8": 40}


def test_filters_that_leave_less_than_a_batch_say_how_to_go_on_and_it_works(run, tmp_path):
    import shlex

    out = tmp_path / "few"
    settings = [word for item in SMALL if "batch_size" not in item for word in ("--set", item)]
    said = call(
        "train", "--data", run / "reinforced", "--out", out, *settings, "--set", "filters=['score:keep=0.3']", "--set",
        "train.batch_size=32",
    )  # fmt: skip
    assert said.returncode == 2
    assert "There are 12 samples to train on" in said.stderr
    assert "--set train.batch_size=8" in said.stderr
    command = shlex.split(said.stderr.rpartition("by: ")[2])[1:]
    assert call(*command, "--set", "train.batch_size=8").returncode == 0
    later = call(*command, "--set", "train.batch_size=4")
    assert "other settings: train.batch_size" in later.stderr  # the training is done


def test_an_epoch_is_what_a_selection_that_is_there_draws(run):
    from distill.stages.budget import training_images

    data = {"data": str(run / "reinforced")}
    draws = json.loads((run / "selection" / "selection.json").read_text())["draws"]
    assert draws == 24  # half of 40, a fifth more of them drawn
    assert training_images(distill.load_recipe(None, [], data)) == draws
    assert training_images(distill.load_recipe(None, [], {**data, "selection": "none"})) == 40
    assert (
        training_images(distill.load_recipe(None, [], {**data, "filters": ["score:keep=0.1"]})) == 40
    )  # not yet known
