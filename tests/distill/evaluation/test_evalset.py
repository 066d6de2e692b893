"""What models are judged on, and that each sees it as it was trained to."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from distill.core.errors import UsageError
from distill.evaluation.evalset import Embedder, EvalSet, evaluate_model, load_evalset, pixels, teacher_embedder
from reinforced_data.sample import Caption, RawSample, ZeroShotTask
from reinforced_data.sources.parts.listing import LABEL_CAPTION_SOURCE
from tests.reinforced_data.stubs import ListSource


def encoded(width, height, seed=0):
    rng = np.random.default_rng(seed)
    smooth = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    out = io.BytesIO()
    smooth.save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("shape", [(60, 40), (41, 77), (32, 32), (300, 200)])
def test_pixels_are_open_clips(shape, mode, interpolation):
    from distill.core.torch_compat import ensure_torchvision

    ensure_torchvision()
    from open_clip.transform import image_transform

    theirs = image_transform(
        32, is_train=False, mean=(0, 0, 0), std=(1, 1, 1), resize_mode=mode, interpolation=interpolation, fill_color=0
    )
    data = encoded(*shape)
    expected = theirs(Image.open(io.BytesIO(data))).numpy()
    assert np.abs(pixels([("k", data)], 32, mode, interpolation)[0] - expected).max() < 1e-6


def test_an_unknown_resize_mode_is_named():
    with pytest.raises(UsageError, match="stretch"):
        pixels([("k", encoded(9, 9))], 8, "stretch")


def test_a_teacher_is_judged_by_its_own_preprocessing():
    """SigLIP and DFN's ViT-H squash, others crop; open_clip's table is the truth."""
    from open_clip import pretrained

    from teachers.load import load_teacher
    from teachers.open_clip.names import common_entry, pretrained_config, split_source
    from teachers.spec import TEACHERS

    squashing = set()
    for name, spec in TEACHERS.items():
        if spec.loader == "open_clip":
            model, tag, path = split_source(spec.source)
            entry = pretrained_config(model, tag) if path is None else common_entry(model)
            if entry.get("resize_mode") == "squash":
                squashing.add(name)
    assert {"siglip-b16", "dfn-vith14-378"} <= squashing
    assert "openai-vitb32" not in squashing
    assert pretrained.get_pretrained_cfg("ViT-B-16-SigLIP", "webli")["resize_mode"] == "squash"
    squash = load_teacher("siglip-b16", random_weights=True)
    assert teacher_embedder(squash).resize_mode == "squash"


def test_a_student_keeps_the_resize_mode_and_the_interpolation_of_its_spec(tmp_path):
    """Published models theirs, which for MobileCLIP is bilinear of whole images and bicubic of training's crops (Apple's too)."""
    from dataclasses import replace

    from distill.core.clip.folder import read_config
    from distill.evaluation.evalset import student_embedder
    from students.spec import STUDENTS
    from students.student import build_student, load_student

    bilinear = {name for name, spec in STUDENTS.items() if spec.interpolation == "bilinear"}
    assert bilinear == {name for name in STUDENTS if name.startswith(("mobileclip", "mci")) and "l14" not in name}
    for how in ("bicubic", "bilinear"):
        student = build_student(replace(STUDENTS.get("nano"), resize_mode="squash", interpolation=how), 0)
        student.save(tmp_path / how, {})
        written = read_config(tmp_path / how)["preprocess_cfg"]
        assert (written["resize_mode"], written["interpolation"]) == ("squash", how)
        embedder = student_embedder(load_student(tmp_path / how), "s")
        assert (embedder.resize_mode, embedder.interpolation) == ("squash", how)


def test_models_see_images_in_their_own_way():
    seen = {}

    def embedder(mode):
        def images(batch):
            seen[mode] = batch
            return np.eye(len(batch))

        return Embedder(mode, 16, images, lambda texts: np.eye(len(texts)), None, mode)

    wide = [RawSample(f"{n}", encoded(64, 16, n), (Caption(f"picture {n}"),)) for n in range(2)]
    for mode in ("shortest", "squash"):
        evaluate_model(embedder(mode), EvalSet("s", "f", wide, None, {}), 8)
    assert not np.allclose(seen["shortest"], seen["squash"])


def test_equal_images_are_one_and_label_captions_are_no_retrieval():
    label = Caption("a photo of a cat.", LABEL_CAPTION_SOURCE)
    twice = encoded(20, 20)
    raw = [RawSample("a", twice, (Caption("one"),)), RawSample("b", twice, (Caption("two"), Caption("one"))),
           RawSample("c", encoded(20, 20, 1), (label,), 0)]  # fmt: skip
    task = ZeroShotTask("t", (twice,), (0,), ("cat",), ("{}",))
    source = ListSource(raw)
    source.zero_shot = lambda: task
    data = load_evalset(source)
    assert [(sample.key, len(sample.captions)) for sample in data.samples] == [("a", 2), ("c", 1)]
    assert [sample.key for sample in data.retrieval_samples()] == ["a"]
    flat = Embedder("m", 8, lambda x: np.ones((len(x), 1)), lambda t: np.ones((len(t), 1)))
    assert evaluate_model(flat, data, 4)["retrieval"] is None  # one image is no retrieval


def test_outputs_come_back_from_the_device():
    """A teacher whose tensors are not on the host: numpy refuses them until .cpu() was called."""
    import torch

    class Elsewhere(torch.Tensor):
        def numpy(self):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")

        def cpu(self):
            return self.as_subclass(torch.Tensor)

    away = lambda rows: torch.ones(rows, 4).as_subclass(Elsewhere)  # noqa: E731
    teacher = SimpleNamespace(
        spec=SimpleNamespace(name="t", image_size=8), parameters=None, resize_mode="shortest", interpolation="bicubic",
        encode_image=lambda x: away(len(x)), encode_text=lambda t: away(len(t)),
    )  # fmt: skip
    made = teacher_embedder(teacher)
    assert made.images(np.zeros((2, 3, 8, 8), np.float32)).shape == (2, 4)
    assert made.texts(["a"]).shape == (1, 4)


def test_the_next_batch_is_decoded_while_the_model_runs(monkeypatch):
    import threading

    import distill.evaluation.evalset as module

    images = [(f"k{number}", encoded(30, 20, number)) for number in range(7)]
    wanted, second, seen = pixels(images, 8), threading.Event(), []

    def watched(part, *how):
        if part[0][0] in ("k3", "k4", "k5"):  # the second batch
            second.set()
        return pixels(part, *how)

    def model(batch):
        assert second.wait(20), "the model had to end before the second batch was begun"
        seen.append(batch)
        return batch.reshape(len(batch), -1)

    monkeypatch.setattr(module, "pixels", watched)
    got = module._embed_images(Embedder("m", 8, model, lambda texts: texts, None), images, 3)
    assert [len(batch) for batch in seen] == [3, 3, 1]
    assert np.array_equal(got, wanted.reshape(7, -1))
