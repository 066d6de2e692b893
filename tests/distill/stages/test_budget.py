"""What a run fills in for a student whose authors published their training, and what it never touches.

The published numbers here are the papers' own: MobileCLIP2 (arXiv:2508.20691) and TinyCLIP (arXiv:2309.12314).
"""

import json

import pytest
import torch

from distill.console import Console
from distill.core import atomic
from distill.core.errors import UsageError
from distill.core.existing import Existing
from distill.learning.loop.clock import CheckpointClock
from distill.learning.settings import CheckpointSettings
from distill.processes import Place
from distill.recipe import Recipe, load_recipe
from distill.rehearsal import rehearsal_of
from distill.run_folder import RunFolder
from distill.stages import budget
from distill.stages.opening import open_run
from distill.verbs.flags import recipe_to_go_on

MCI2 = ["student.name=mci2", "teachers=['dfn-vitl14']", "data=rendered:train=5000"]


@pytest.fixture
def machine(monkeypatch):
    """A machine with one GPU of 80 GiB that knows bf16."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(budget, "memory_gb", lambda recipe: 85.0)


def settled(recipe, tmp_path, capsys, existing=Existing.REFUSE, world=1):
    job, filled = budget.settle(recipe, RunFolder(tmp_path / "run"), existing, Place(0, world, 0), Console())
    return job, filled, capsys.readouterr().err


def test_a_student_with_a_published_recipe_trains_by_it(machine, tmp_path, capsys):
    job, filled, said = settled(load_recipe(None, MCI2), tmp_path, capsys)
    train = job.train
    assert (train.lr, train.lr_floor, train.weight_decay, train.beta1, train.beta2) == (1e-3, 1e-6, 0.2, 0.9, 0.95)
    assert (train.precision, train.clip_norm, train.workers) == ("bf16", 1.0, "auto")
    assert (job.reinforce.view_preset, job.reinforce.views_per_image) == ("mobileclip", 5)
    assert train.batch_size == 256  # 0.23 GB a pair: the published 512 would need 118 of 85 GB
    assert train.steps == -(-20 * 5000 // 256)
    assert train.warmup_steps == -(-train.steps // 20)  # 10,000 of 200,000
    assert (train.epochs, train.samples, train.checkpoint_minutes) == (None, None, 15.0)
    assert job.objective == "small-batch"  # affinity alone was published for batches of 8,192 and more
    for key in filled:
        section, _, name = key.rpartition(".")
        value = getattr(getattr(job, section) if section else job, name)
        assert f"  {key} = {value}: {filled[key]}" in said
    assert "2508.20691" in said


def test_processes_on_processors_share_the_memory_of_the_machine_or_its_container(monkeypatch):
    recipe = load_recipe(None, ["train.device=cpu"])
    monkeypatch.setattr(budget, "memory_bytes", lambda: 32e9)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert budget.memory_gb(recipe) == 32.0
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert budget.memory_gb(recipe) == 8.0


@pytest.mark.parametrize(("pixels", "batch"), [(128, 512), (512, 64)])
def test_another_image_size_needs_another_batch(machine, tmp_path, capsys, pixels, batch):
    recipe = load_recipe(None, [*MCI2, f"student.image_size={pixels}"])
    assert settled(recipe, tmp_path, capsys)[0].train.batch_size == batch


def test_few_images_are_seen_more_often_than_was_published(machine, tmp_path, capsys):
    job, filled, _ = settled(load_recipe(None, [*MCI2, "data=rendered:train=300"]), tmp_path, capsys)
    assert job.train.steps * job.train.batch_size == pytest.approx(10_240, rel=0.02)  # and not 20 x 300
    assert "20 epochs were published" in filled["train.steps"]
    job, _, _ = settled(load_recipe(None, [*MCI2, "data=rendered:train=120"]), tmp_path, capsys)
    assert job.train.steps == -(-40 * 120 // job.train.batch_size)


def test_tinyclip_has_its_own(machine, tmp_path, capsys):
    job = settled(load_recipe(None, ["student.name=tinyclip-vit8m16", *MCI2[1:]]), tmp_path, capsys)[0]
    train = job.train
    assert (train.lr, train.weight_decay, train.beta1, train.beta2, train.clip_norm) == (1e-4, 0.2, 0.9, 0.98, 5.0)
    assert train.batch_size == 1024
    assert train.steps == -(-6 * 5000 // 1024)
    assert job.reinforce == Recipe().reinforce  # views are not published


def test_what_the_user_says_stays(machine, tmp_path, capsys):
    said = {
        "train.lr": 3e-4, "train.weight_decay": 0.05, "train.beta2": 0.99, "train.batch_size": 64, "train.steps": 9,
        "train.warmup_steps": 1, "train.workers": 0, "train.precision": "no", "train.checkpoint_every": 3,
        "reinforce.view_preset": "light", "reinforce.views_per_image": 1, "objective": "clipkd",
    }  # fmt: skip
    before = load_recipe(None, said, {"student.name": "mci2", "data": "rendered:train=5000"})
    job, filled, _ = settled(before, tmp_path, capsys)
    assert not set(filled) & set(said)
    assert set(filled) == {"train.lr_floor", "train.beta1", "train.clip_norm"}
    assert job == before.model_copy(update={"train": before.train.model_copy(update={"lr_floor": 1e-6})})


@pytest.mark.parametrize(
    "settings", [["train.steps=3"], ["student.name=rendered-teacher", "objective=clip", "train.steps=3"]]
)
def test_a_student_whose_length_and_batch_are_said_is_left_alone_but_for_what_a_gpu_is_good_at(
    machine, tmp_path, capsys, monkeypatch, settings
):
    settings = [*settings, "train.batch_size=256"]
    before = load_recipe(None, settings)
    job, filled, said = settled(before, tmp_path, capsys)
    assert job == before.model_copy(update={"train": before.train.model_copy(update={"precision": "bf16"})})
    assert list(filled) == ["train.precision"]
    assert "  train.precision = bf16: " in said
    told = load_recipe(None, [*settings, "train.precision=no"])
    assert settled(told, tmp_path, capsys) == (told, {}, "")
    auto = load_recipe(None, [*settings, "train.precision=auto"])
    assert settled(auto, tmp_path, capsys)[0] == job
    for on_cpu, there, reason in (
        (load_recipe(None, [*settings, "train.device=cpu"]), True, "as train.device says"),
        (before, False, "there is no GPU here"),
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        job, filled, said = settled(on_cpu, tmp_path, capsys)
        assert job == on_cpu
        assert list(filled) == ["train.precision"]
        assert "  train.precision = no: " in said
        assert reason in said


@pytest.mark.parametrize(
    ("images", "settings", "batch", "steps", "warmup"),
    [
        (2048, [], 256, 40, 10),  # the embedded default, as its figures in docs/ were made
        (270, [], 64, 160, 10),  # 10,240 samples, 38 times each
        (100, [], 16, 250, 13),  # 40 times each, no more
        (300, [], 64, 160, 10),  # not 161 for a rounding
        (1_000_000, [], 256, 5860, 293),  # one and a half times each
        (270, ["student.inherit=none"], 64, 640, 32),
        (270, ["train.steps=auto", "train.batch_size=auto", "train.warmup_steps=auto"], 64, 160, 10),
        (270, ["train.batch_size=30"], 30, 342, 18),
        (270, ["train.epochs=2"], 64, 9, 3),
        (270, ["train.epochs=2", "train.warmup_steps=7"], 64, 9, 7),
        (270, ["train.steps=9"], 64, 9, 10),  # what is said stays, and so does what goes with it
        (5997, ["towers=sail-lite0-minilm"], 512, 275, 14),  # as its figures in docs/ were made, but for the warm-up
        (270, ["towers=sail-lite0-minilm"], 256, 550, 28),
        (40, ["train.steps=9"], 256, 9, 10),  # so few are refused before anything is spent
    ],
)
def test_length_and_batch_fit_the_data(tmp_path, capsys, images, settings, batch, steps, warmup):
    recipe = load_recipe(None, [f"data=rendered:train={images}", "train.device=cpu", *settings])
    job, filled, said = settled(recipe, tmp_path, capsys)
    train = job.train
    assert (train.batch_size, train.steps, train.warmup_steps, train.epochs) == (batch, steps, warmup, None)
    for key, reason in filled.items():
        assert f"  {key} = {getattr(train, key.partition('.')[2])}: {reason}" in said
    inherits = "starts at random" if "student.inherit=none" in settings else "inherits"
    inherits = "of heads" if any("towers" in item for item in settings) else inherits
    assert (inherits in said) == ("train.steps" in filled and not any("train.epochs" in item for item in settings))


def test_the_length_of_a_call_replaces_that_of_its_recipe():
    train = load_recipe("photos", [], {"train.steps": 7}).train
    assert (train.steps, train.epochs, train.lr) == (7, None, 5e-4)
    assert load_recipe("photos", ["train.samples=99"]).train.samples == 99


def test_the_objective_follows_where_the_batch_is_as_large_as_published(machine, tmp_path, capsys):
    recipe = load_recipe(None, [*MCI2, "train.batch_size=8192", "data=rendered:train=20000"])
    assert settled(recipe, tmp_path, capsys)[0].objective == "mobileclip"


@pytest.mark.parametrize("images", [2, 5, 40, 700])
@pytest.mark.parametrize(("memory", "world"), [(1e9, 1), (1e9, 3), (24, 1), (24, 2)])
def test_the_batch_fits_the_device_and_the_data(machine, images, memory, world):
    recipe = load_recipe(None, ["student.name=mci2"])
    published = budget.STUDENTS.get("mci2").training
    batch = budget.fill(recipe, published, images, Place(0, world, 0), memory)[0].train.batch_size
    share = batch // world
    assert batch % world == 0
    assert share >= 2
    assert share == 2 or (2 * batch <= images and share * 0.23 <= 0.7 * memory)
    larger = 2 * share
    assert larger > 512 or 2 * larger * world > images or larger * 0.23 > 0.7 * memory


@pytest.mark.parametrize(("setting", "steps"), [("train.samples=1000", 16), ("train.epochs=2.5", 20)])
def test_samples_and_epochs_are_other_ways_to_say_steps(tmp_path, capsys, setting, steps):
    recipe = load_recipe(None, ["data=rendered:train=500", "train.batch_size=64", setting])
    job, filled, said = settled(recipe, tmp_path, capsys)
    assert (job.train.steps, job.train.samples, job.train.epochs) == (steps, None, None)
    assert list(filled) == ["train.steps", "train.warmup_steps", "train.precision"]
    assert f"train.steps = {steps}" in said
    both = load_recipe(None, ["train.steps=3", setting])
    with pytest.raises(UsageError, match="once"):
        settled(both, tmp_path, capsys)


@pytest.mark.parametrize("length", ["train.samples=640", "train.epochs=2"])
def test_a_run_that_began_by_samples_or_epochs_goes_on_by_its_folder_alone(tmp_path, capsys, length):
    job, filled, _ = settled(load_recipe(None, [length, "data=rendered:train=320,eval=8"]), tmp_path, capsys)
    run = RunFolder(tmp_path / "run")
    open_run(run, job, Existing.REFUSE, filled)
    again, _, _ = settled(run.said_recipe(), tmp_path, capsys, Existing.RESUME)
    assert again.train.steps * again.train.batch_size == 640
    assert again == job
    open_run(run, again, Existing.RESUME)


def test_a_resumed_run_keeps_what_it_began_with(machine, tmp_path, capsys, monkeypatch):
    run = RunFolder(tmp_path / "run")
    recipe = load_recipe(None, MCI2)
    job, filled, _ = settled(recipe, tmp_path, capsys)
    open_run(run, job, Existing.REFUSE, filled)
    assert json.loads(run.resolved.read_text())["filled"] == filled
    monkeypatch.setattr(budget, "memory_gb", lambda recipe: 8.0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(budget, "training_images", lambda recipe: 77)
    again, kept, _ = settled(recipe, tmp_path, capsys, Existing.RESUME)
    assert (again, kept) == (job, filled)
    open_run(run, again, Existing.RESUME, kept)


@pytest.mark.parametrize(("kept", "wanted"), [("auto", "auto"), (False, False), (True, True), (None, False)])
def test_a_run_keeps_whether_its_towers_are_compiled_whatever_the_default_is_now(tmp_path, capsys, kept, wanted):
    """Runs that are older than the choice say false, and those older than the key say nothing: they began without."""
    run, recipe = RunFolder(tmp_path / "run"), load_recipe(None, ["train.steps=3", "train.batch_size=256"])
    job, filled, _ = settled(recipe, tmp_path, capsys)
    assert job.train.compile == "auto"
    open_run(run, job, Existing.REFUSE, filled)
    resolved = json.loads(run.resolved.read_text())
    resolved["recipe"]["train"]["compile"] = kept
    if kept is None:
        del resolved["recipe"]["train"]["compile"]
    run.resolved.write_text(json.dumps(resolved))
    assert run.read_recipe().train.compile == wanted
    again, more, _ = settled(recipe, tmp_path, capsys, Existing.RESUME)
    assert again.train.compile == wanted
    open_run(run, again, Existing.RESUME, more)


@pytest.mark.parametrize(
    "settings",
    [["data=rendered:train=270"], ["data=rendered:train=270", "train.epochs=2"], [*MCI2, "train.samples=9999"], MCI2],
)
def test_a_run_goes_on_by_its_folder_alone_with_the_length_that_was_found(tmp_path, capsys, settings):
    run = RunFolder(tmp_path / "run")
    job, filled, _ = settled(load_recipe(None, settings), tmp_path, capsys)
    open_run(run, job, Existing.REFUSE, filled, "train")
    recipe = recipe_to_go_on("train", run, Existing.RESUME, None, ())
    again, kept, _ = settled(recipe, tmp_path, capsys, Existing.RESUME)
    assert again.model_dump() == job.model_dump()
    assert kept == filled
    open_run(run, again, Existing.RESUME, kept, "train")


def test_a_run_that_began_without_keeps_the_defaults(machine, tmp_path, capsys):
    run, recipe = RunFolder(tmp_path / "run"), load_recipe(None, MCI2)
    open_run(run, recipe, Existing.REFUSE)
    values = atomic.read_json(run.resolved)
    del values["filled"]  # as an older version wrote it
    atomic.write_json(run.resolved, values)
    assert settled(recipe, tmp_path, capsys, Existing.RESUME)[:2] == (recipe, {})


def test_a_recipe_as_an_object_says_what_it_was_given_and_no_more(machine, tmp_path, capsys):
    given = Recipe.model_validate({"student": {"name": "mci2"}, "data": "rendered:train=5000", "train": {"lr": 5e-4}})
    job, filled, _ = settled(load_recipe(given, ["train.beta1=0.8"]), tmp_path, capsys)
    assert (job.train.lr, job.train.beta1, job.train.beta2) == (5e-4, 0.8, 0.95)
    assert "train.lr" not in filled


def test_an_absurd_budget_is_said_with_the_published_one(machine, tmp_path, capsys):
    short = ["train.steps=40", "train.batch_size=256"]
    said = settled(load_recipe(None, [*MCI2, *short]), tmp_path, capsys)[2].splitlines()[-1]
    for fact in ("10,240 samples", "99 M parameters", "13,107,200,000", "1,280,000 times"):
        assert fact in said
    other_size = load_recipe(None, [*MCI2, *short, "student.text_layers=2"])
    assert "M parameters" not in settled(other_size, tmp_path, capsys)[2]  # 99 M would be another model's
    enough = [*MCI2, "train.batch_size=4096", "train.steps=3300", "data=rendered:train=9000"]
    assert "short budget" not in settled(load_recipe(None, enough), tmp_path, capsys)[2]
    rehearsal = rehearsal_of(load_recipe(None, MCI2))
    job, _, said = settled(rehearsal, tmp_path, capsys)
    assert "short budget" not in said
    assert (job.train.steps, job.train.batch_size, job.reinforce.views_per_image) == (2, 4, 1)
    assert job.train.checkpoint_minutes is None


def test_checkpoints_come_by_minutes_or_by_steps(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("distill.learning.loop.clock.time.monotonic", lambda: now[0])
    by_steps = CheckpointClock(CheckpointSettings(checkpoint_every=4), 10)
    assert [step for step in range(1, 11) if by_steps(step)] == [4, 8, 10]
    by_minutes = CheckpointClock(CheckpointSettings(checkpoint_every=4, checkpoint_minutes=0.5), 10)
    due = []
    for step in range(1, 11):
        now[0] += 13.0  # 30 s have passed after three steps
        due += [step] * by_minutes(step)
    assert due == [3, 6, 9, 10]
