"""Students: published counts, open_clip's own loading, preprocessing, tokenizer."""

import pytest
import torch

from distill.core.clip.model import import_open_clip
from distill.core.errors import DistillError
from students.spec import STUDENTS
from students.student import build_student, load_student
from students.tokenizer import cut_merges, load_tokenizer, vocabulary_path

import_open_clip()


def test_a_saved_student_loads_in_open_clip_with_equal_outputs(tmp_path):
    import open_clip

    student = build_student(STUDENTS.get("nano"), 3).eval()
    student.save(tmp_path / "s", {"licence": "x"})
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 's'}")
    tokenizer = open_clip.get_tokenizer(
        f"local-dir:{tmp_path / 's'}", bpe_path=str(tmp_path / "s" / "bpe_merges.txt.gz")
    )
    pixels = torch.rand(2, 3, 64, 64)
    captions = ["two small striped blue squares", "a red circle"]
    normalise = preprocess.transforms[-1]
    model.eval()
    with torch.no_grad():
        theirs = model.encode_image(normalise(pixels), normalize=True)
        assert torch.allclose(student.encode_image(pixels), theirs, atol=1e-6)
        assert torch.equal(tokenizer(captions), student.tokenize(captions))
        text = model.encode_text(tokenizer(captions), normalize=True)
        assert torch.allclose(student.encode_text(student.tokenize(captions)), text, atol=1e-6)


def test_save_and_load_round_trip_and_half_weights(tmp_path):
    student = build_student(STUDENTS.get("nano"), 3).eval()
    student.save(tmp_path / "full", {"licence": "x"})
    student.save(tmp_path / "half", {"licence": "x"}, half=True)
    pixels = torch.rand(2, 3, 80, 80)
    again = load_student(tmp_path / "full")
    with torch.no_grad():
        assert torch.equal(again.encode_image(pixels), student.encode_image(pixels))
        halved = load_student(tmp_path / "half").encode_image(pixels)
    assert torch.cosine_similarity(halved, student.encode_image(pixels)).min() > 0.9999
    ratio = (tmp_path / "half/model.safetensors").stat().st_size / (tmp_path / "full/model.safetensors").stat().st_size
    assert ratio < 0.55


@pytest.mark.parametrize("file", ["model.safetensors", "open_clip_config.json", "card.json"])
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_damaged_folder_is_named(tmp_path, file, damage):
    build_student(STUDENTS.get("nano"), 0).save(tmp_path / "s", {"licence": "x"})
    path = tmp_path / "s" / file
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DistillError, match="s'"):
        load_student(tmp_path / "s")


def test_weights_that_do_not_fit_are_called_by_their_cause(tmp_path):
    from safetensors.torch import load_file, save_file

    student = build_student(STUDENTS.get("nano"), 0)
    student.save(tmp_path / "s", {"licence": "x"})
    file = tmp_path / "s/model.safetensors"
    state = load_file(file)
    save_file({f"module._orig_mod.{name}": value for name, value in state.items()}, file)
    again = load_student(tmp_path / "s").clip.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in state.items())
    save_file({f"model.{name}": value for name, value in state.items()}, file)
    with pytest.raises(
        DistillError, match=r"model\.safetensors cannot be loaded .*the prefix 'model\.'.*[^.]\. Train it"
    ):
        load_student(tmp_path / "s")


def test_building_depends_on_the_seed_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    a = build_student(STUDENTS.get("nano"), 1).clip.state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    b, c = (build_student(STUDENTS.get("nano"), seed).clip.state_dict() for seed in (1, 2))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(a["visual.proj"], c["visual.proj"])


def test_cut_vocabulary_is_made_from_the_rendered_words_and_splits_them_as_clip_does():
    from reinforced_data.rendered import words

    assert vocabulary_path("rendered").read_bytes() == cut_merges(words())
    cut, full = load_tokenizer(vocabulary_path("rendered"), 32), load_tokenizer(None, 32)
    assert cut.vocab_size < 1000
    for text in [*words(), "two dotted violet crescents beneath a house"]:
        ours = [cut.decoder[int(t)] for t in cut([text])[0] if t]
        theirs = [full.decoder[int(t)] for t in full([text])[0] if t]
        assert ours == theirs
    strange = cut(["Übermäßig zebra 漢字"])[0]
    assert (strange > 0).sum() > 6  # falls back to bytes instead of failing
    assert int(strange.argmax()) == int((strange > 0).sum()) - 1  # the end token is the largest id, last


def test_resized_changes_only_what_is_asked():
    spec = STUDENTS.get("mci0").resized(image_size=96, context_length=24, text_layers=3)
    assert (spec.image_size, spec.context_length, spec.published_params) == (96, 24, None)
    assert STUDENTS.get("mci0").image_size == 256
    assert STUDENTS.get("mci0").resized() is STUDENTS.get("mci0")
