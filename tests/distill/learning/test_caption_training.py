"""The caption loss against brute force, and a CoCa trained on a few pictures until it says their captions by heart."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from distill.core.clip.model import build_clip, count_parameters
from distill.core.errors import UsageError
from distill.learning.embeddings import Embeddings
from distill.learning.loss import LOSSES
from distill.learning.objective import PRESETS, refuse_without_decoder
from distill.models import TeacherSet, new_student
from distill.recipe import load_recipe
from distill.stages.training.start import start_lines
from distill.verbs.train import train
from students.spec import STUDENTS
from students.student import IGNORED, build_student, caption_labels, load_student
from teachers.captioner import CaptionSettings
from teachers.load import load_teacher
from teachers.load_captioner import load_captioner

CAPTIONS = {"a red circle on a blue field!": ((220, 30, 30), (20, 40, 200)),
            "two green squares": ((30, 200, 40), (240, 240, 240)),
            "a small yellow triangle, far from a black one": ((250, 230, 20), (10, 10, 10))}  # fmt: skip


@pytest.fixture(scope="module")
def student():
    return build_student(STUDENTS.get("coca-nano"), 0)


def test_labels_are_the_next_tokens_up_to_the_first_end():
    tokens = torch.tensor([[7, 4, 0, 5, 9, 0, 0], [7, 9, 0, 0, 0, 0, 0], [7, 1, 2, 3, 4, 5, 9], [7, 0, 0, 9, 9, 9, 0]])
    assert caption_labels(tokens, end=9).tolist() == [
        [4, 0, 5, 9, IGNORED, IGNORED],
        [9, *[IGNORED] * 5],
        [1, 2, 3, 4, 5, 9],
        [0, 0, 9, *[IGNORED] * 3],
    ]


def test_the_loss_is_the_double_loop_over_open_clip_s_logits(student):
    """In float64, from the logits of open_clip's own forward, one caption at a time and without any padding."""
    model = student.double()
    images = torch.rand(3, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    captions = list(CAPTIONS)
    tokens = model.tokenize(captions)
    total, count = 0.0, 0
    end = model.tokenizer.eot_token_id
    with torch.no_grad():
        for number in range(3):
            row = tokens[number].tolist()
            length = row.index(end) + 1
            image = (images[number : number + 1] - 0.5) / 0.25
            logits = model.clip(image, tokens[number : number + 1, :length], output_labels=False)["logits"][0]
            for place in range(length - 1):
                scores = [float(v) for v in logits[place]]
                total -= scores[row[place + 1]] - math.log(sum(math.exp(v) for v in scores))
                count += 1
        image, text, logits, labels = model.encode_pair(images, tokens)
        embedded = Embeddings(image, text, image, text, torch.ones(()), torch.zeros(()), 0, "softmax", logits, labels)
        loss = LOSSES.get("caption")(96, {})(embedded, {})
        torch.testing.assert_close(image, model.encode_image(images))
        torch.testing.assert_close(text, model.encode_text(tokens))
    assert loss.item() == pytest.approx(total / count, rel=1e-10)
    assert logits.shape[1] == max(row.index(end) for row in tokens.tolist())  # and no longer
    student.float()


def test_the_preset_is_the_paper_s():
    assert PRESETS["coca"] == {"contrastive": 1.0, "caption": 2.0}
    with pytest.raises(UsageError, match=r"no caption decoder.*coca"):
        refuse_without_decoder("coca", "mci2", False)
    refuse_without_decoder("clip", "mci2", False)
    refuse_without_decoder("coca", "coca-nano", True)


def test_a_plain_student_is_refused_before_anything_is_written(tmp_path):
    recipe = load_recipe(None, ["objective=coca", "student.inherit=none", "student.name=nano"])
    with pytest.raises(UsageError, match="no caption decoder"):
        train(recipe, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "model"), [("coca-vitl14", "coca_ViT-L-14"), ("coca-vitb32", "coca_ViT-B-32")])
def test_named_architectures_are_open_clip_s(name, model):
    from teachers.open_clip.names import model_config

    shapes = [
        {key: tuple(value.shape) for key, value in build_clip(config, seed=0, device="meta").state_dict().items()}
        for config in (model_config(model), STUDENTS.get(name).model_cfg)
    ]
    assert shapes[0] == shapes[1]


def test_a_random_student_holds_no_uninitialised_memory(student):
    again = build_student(STUDENTS.get("coca-nano"), 0)
    for name, value in student.clip.state_dict().items():
        assert torch.equal(value, again.clip.state_dict()[name]), name
        assert value.isfinite().all()
    counts = count_parameters(student.clip)
    assert set(counts) == {"image", "text", "token_embedding", "caption_decoder"}
    assert sum(counts.values()) == sum(p.numel() for p in student.clip.parameters()) - 1


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures") / "train"
    folder.mkdir()
    (folder.parent / "test").mkdir()  # else a part of the pictures would be held out
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder.parent / "test" / "p.png")
    for number, (caption, (ink, ground)) in enumerate(CAPTIONS.items()):
        image = np.full((64, 64, 3), ground, np.uint8)
        image[16 : 40 + 4 * number, 16:48] = ink
        Image.fromarray(image).save(folder / f"p{number}.png")
        (folder / f"p{number}.txt").write_text(caption)
    return folder


@pytest.fixture(scope="module")
def trained(pictures, tmp_path_factory):
    recipe = load_recipe(
        None,
        [f"data={pictures.parent}", "objective=coca", "student.name=coca-nano", "student.inherit=none", "train.steps=120",
         "train.batch_size=3", "train.lr=2e-3", "train.warmup_steps=5", "train.checkpoint_every=120", "train.log_every=1",
         "train.device=cpu", "reinforce.view_preset=none", "train.weight_decay=0.0"],
    )  # fmt: skip
    out = tmp_path_factory.mktemp("run") / "coca"
    train(recipe, out=out)
    return out


def test_training_lowers_the_caption_loss(trained):
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    vocabulary = load_student(trained / "student").tokenizer.vocab_size
    assert rows[0]["caption"] == pytest.approx(math.log(vocabulary), rel=0.2)  # knows nothing: uniform
    assert rows[-1]["caption"] < 0.05
    assert rows[0]["loss"] == pytest.approx(rows[0]["contrastive"] + 2 * rows[0]["caption"], rel=1e-5)


def test_by_its_path_it_says_what_it_learned(trained, pictures):
    images = [np.asarray(Image.open(file)) for file in sorted(pictures.glob("*.png"))]
    for decode in (
        CaptionSettings(captions=1, temperature=0.0, min_tokens=0),
        CaptionSettings(captions=1, beams=3, min_tokens=0),
        CaptionSettings(captions=1, temperature=0.01, min_tokens=0),
    ):
        captioner = load_captioner(str(trained / "student"), decode)
        assert captioner.caption(images, [0, 1, 2]) == [[caption] for caption in CAPTIONS]
    assert captioner.spec.loader == "coca-folder"
    assert len(captioner.weights_sha256) == 64


def test_by_its_path_it_is_a_teacher_and_open_clip_s(trained):
    teacher = load_teacher(str(trained / "student"))
    student = load_student(trained / "student")
    pixels = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(teacher.encode_image(pixels), student.encode_image(pixels))
        tokens = student.tokenize(list(CAPTIONS))
        torch.testing.assert_close(teacher.encode_text(list(CAPTIONS)), student.encode_text(tokens))
    from open_clip import create_model_and_transforms

    model, _, _ = create_model_and_transforms(f"local-dir:{trained / 'student'}")
    assert torch.equal(model.state_dict()["text_decoder.text_projection"],
                       student.clip.state_dict()["text_decoder.text_projection"])  # fmt: skip


def test_fine_tuning_starts_from_every_weight_of_the_source(trained, tiny_teacher):
    recipe = load_recipe(
        None, ["student.name=coca-nano", "student.inherit=copy", f"student.inherit_from={trained / 'student'}"]
    )
    student, inherited = new_student(recipe.student, None, 3)
    before = load_student(trained / "student").clip.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in student.clip.state_dict().items())
    assert inherited["strategy"] == "copy"
    for change in ("student.name=nano", "student.context_length=16"):
        other = load_recipe(
            None,
            ["student.name=coca-nano", "student.inherit=copy", f"student.inherit_from={trained / 'student'}", change],
        )
        with pytest.raises(UsageError, match="same architecture"):
            new_student(other.student, None, 3)


def test_other_strategies_leave_the_attention_pooling_and_the_decoder_alone(trained):
    recipe = load_recipe(
        None, ["student.name=coca-nano", "student.inherit=front", f"student.inherit_from={trained / 'student'}"]
    )
    _, inherited = new_student(recipe.student, TeacherSet((), random_weights=False, seed=0), 3)
    assert inherited["towers"] == ["visual", "text"]
    new = {name for name, origin in inherited["origins"].items() if origin == "new"}
    assert {"visual.proj", "visual.attn_pool.query", "text_decoder.text_projection"} <= new
    assert {"visual.conv1.weight", "text.token_embedding.weight", "text.cls_emb"} & new == set()
    assert any("attn_pool" in line for line in start_lines(inherited))
