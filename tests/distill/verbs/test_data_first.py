"""The data is looked at before any teacher is loaded or downloaded, and before anything is written."""

import pytest

from tests.command_line import distill
from tests.reinforced_data.sources.test_sources import png, put


@pytest.fixture
def no_models(monkeypatch):
    """Loading any model is a failure of the test."""

    def load(*arguments, **options):
        pytest.fail("a model was loaded before the data had been looked at")

    for name in ("load_teacher", "load_captioner"):
        monkeypatch.setattr(f"distill.models.{name}", load)


@pytest.fixture
def places(tmp_path):
    """Folders that open and hold nothing of use, for training or for calibration."""
    for number in range(3):
        put(tmp_path / "wordless" / f"{number}.png", png(number))
        put(tmp_path / "broken" / f"{number}.png", b"\x89PNG\r\n\x1a\n and no more")
        put(tmp_path / "broken" / f"{number}.txt", "a caption")
    for number in range(40):
        put(tmp_path / "few" / f"{number}.png", png(number))
        put(tmp_path / "few" / f"{number}.txt", f"caption {number}")
    return tmp_path


CALLS = {
    "no such place": (["--data", "nowhere"], "There is no data at 'nowhere'"),
    "no captions": (["--data", "wordless"], "no caption"),
    "no image that decodes": (["--data", "broken"], "None of the"),
    "too few to calibrate": (["--data", "few", "--calibrate"], "at least 16 must"),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_reinforce_looks_at_the_data_first(places, no_models, name):
    words, message = CALLS[name]
    said = distill("reinforce", *words, "--teacher", "dfn-vitl14", "--out", "o", cwd=places)
    assert said.returncode == 2, said.stderr
    assert message in said.stderr
    assert not (places / "o").exists()


@pytest.mark.parametrize("data", ["nowhere", "wordless", "broken"])
def test_run_looks_at_the_data_first(places, no_models, data):
    said = distill(
        "run", "--data", data, "--teacher", "dfn-vitl14", "--out", "o", "--set", "train.batch_size=2",
        "--set", "eval.data=rendered:eval=8", cwd=places,
    )  # fmt: skip
    assert said.returncode == 2, said.stderr
    assert not (places / "o").exists()


def test_eval_looks_at_the_data_first(places, no_models):
    said = distill("eval", "dfn-vitl14", "--data", "nowhere", cwd=places)
    assert said.returncode == 2
    assert "There is no data at 'nowhere'" in said.stderr


def test_a_captioner_makes_wordless_images_usable(places):
    from reinforced_data.labelling.preparation import prepare
    from reinforced_data.source import open_source

    source = open_source(str(places / "wordless"), "given")
    prepare.refuse_useless(source, captioned=True)


def test_of_a_large_source_the_rest_may_serve(places, monkeypatch):
    from reinforced_data.labelling.preparation import prepare
    from reinforced_data.source import open_source

    monkeypatch.setattr(prepare, "FIRST_LOOK", 2)
    prepare.refuse_useless(open_source(str(places / "wordless"), "given"))


def test_an_executor_that_is_not_installed_is_said_first(places, no_models, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said = distill("reinforce", "--data", "few", "--executor", "local", "--out", "o", cwd=places)
    assert said.returncode == 2
    assert "distill-edge[cluster]" in said.stderr
    assert not (places / "o").exists()


def test_a_batch_that_is_proposed_fits(places):
    words = ["run", "--data", "few", "--out", "o", "--set", "eval.data=rendered:eval=8"]
    said = distill(*words, "--set", "train.batch_size=64", cwd=places)
    assert said.returncode == 2
    assert "--set train.batch_size=32" in said.stderr  # 36 of the 40 are for training
    assert "fewer than 100 images" in said.stderr
    one = distill(*words, "--set", "limit=2", cwd=places)
    assert "train.batch_size=2," in one.stderr
