import hashlib
import io
import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from distill.core.atomic import sha256_file
from distill.core.errors import DistillError, OutputExistsError, UsageError
from distill.core.existing import Existing
from distill.core.torch_compat import ensure_torchvision
from reinforced_data.labelling.settings import ReinforceSettings
from reinforced_data.pixels.views import render_view
from reinforced_data.published.datacompdr import VIEW_PIXELS, parse_views
from reinforced_data.published.embed_files import BadRecordError
from reinforced_data.published.imported import (
    ImagesByUid,
    PublishedSet,
    import_published,
    open_published,
    published_teachers,
    read_dr_shard,
)
from reinforced_data.sample import Caption, RawSample
from reinforced_data.source import open_source
from reinforced_data.store.reader import ReinforcedData
from teachers.spec import TeacherSpec
from tests.reinforced_data.sources.tar_tools import make_tar, npz, pth_gz, published_members, unit_rows
from tests.reinforced_data.stubs import ListSource, encoded, picture

WIDTHS = (8, 12)
TEACHERS = {
    TeacherSpec(name, "stub", "stub", width, 224, None, "softmax", "MIT", True): scale
    for name, width, scale in (("one", 8, 70.0), ("two", 12, 60.0))
}
SYN = {"old": "syn_text", "new": "syn_text_dfn_mscoco38k"}


def photo(number, size=(60, 40)):
    return encoded(picture(number, *size), "JPEG", quality=95)


def drawn(rng, width, height, count):
    """Views as torchvision draws them at 224: boxes in pixels, operations by index with RandAugment's magnitudes."""
    ensure_torchvision()
    from torchvision.transforms import InterpolationMode, RandAugment, RandomResizedCrop

    space = RandAugment(interpolation=InterpolationMode.NEAREST)._augmentation_space(31, (VIEW_PIXELS, VIEW_PIXELS))
    torch.manual_seed(int(rng.integers(1 << 30)))
    views = []
    for _ in range(count):
        box = RandomResizedCrop.get_params(Image.new("RGB", (width, height)), [0.08, 1.0], [3 / 4, 4 / 3])
        ops = []
        for number in rng.integers(0, 14, 2):
            values, signed = list(space.values())[number]
            magnitude = float(values[9]) if values.ndim else 0.0
            ops.append([int(number), -magnitude if signed and rng.integers(2) else magnitude])
        views.append([[int(side) for side in box], ops])
    return views


def torchvision_replay(image, view):
    """What Apple's loader does with a stored view: resized_crop, then RandAugment's operations, at 224."""
    from torchvision.transforms import InterpolationMode, RandAugment
    from torchvision.transforms import functional as F
    from torchvision.transforms.autoaugment import _apply_op

    box, ops = view
    names = list(RandAugment()._augmentation_space(31, (VIEW_PIXELS, VIEW_PIXELS)))
    out = F.resized_crop(image, *box, [VIEW_PIXELS, VIEW_PIXELS], InterpolationMode.BICUBIC)
    for number, magnitude in ops:
        out = _apply_op(out, names[number], magnitude, InterpolationMode.NEAREST, None)
    return np.asarray(out)


def test_published_views_replay_as_torchvision_does_bit_for_bit():
    rng = np.random.default_rng(0)
    for number in range(12):
        width, height = int(rng.integers(40, 700)), int(rng.integers(40, 700))
        image = picture(number, width, height)
        published = drawn(rng, width, height, 5)
        views = parse_views(json.loads(json.dumps(published)), width, height)
        for theirs, ours in zip(published, views, strict=True):
            assert (render_view(image, ours, VIEW_PIXELS) == torchvision_replay(image, theirs)).all(), theirs


@pytest.mark.parametrize("pixels", [-101.5, -30.45, -30.0, -1.0, -0.4, 0.0, 0.9, 1.0, 29.0, 30.0, 30.45, 57.0, 101.5])
def test_translations_are_their_whole_pixels(pixels):
    view = parse_views([[[0, 0, 50, 50], [[3, pixels]]]], 50, 50)[0]
    image = picture(1, 50, 50)
    assert (render_view(image, view, 224) == torchvision_replay(image, [[0, 0, 50, 50], [[3, pixels]]])).all()


def sample(number, layout, kind, rng, **changes):
    """The members of one published sample and what they should become."""
    uid, image = f"{number:032x}", photo(number)
    real, synthetic = [f"real {number}"], [f"made {number} {i}" for i in range(5)]
    images, texts = unit_rows(rng, 3, WIDTHS), unit_rows(rng, 6, WIDTHS)
    key = SYN[layout]
    arrays = {"image_emb": images, "text_emb": texts if layout == "old" else texts[:1]}
    if layout == "new":
        arrays[f"{key}_emb"] = texts[1:]
    views = drawn(rng, 60, 40, 3)
    told = {"sha256": hashlib.sha256(image).hexdigest(), "quoted": number % 2 == 0, "kind": kind, **changes}
    members = published_members(uid, arrays, views, {key: synthetic}, **told)
    return members, (uid, image, real, synthetic, views, images, texts)


def joined(number_of):
    return ImagesByUid([
        ListSource([RawSample(f"photos/{n:032x}.jpg", photo(n), (Caption(f"real {n}"),)) for n in number_of])
    ])  # fmt: skip


@pytest.mark.parametrize("kind", ["npz", "pth.gz"])
@pytest.mark.parametrize("layout", ["old", "new"])
def test_a_shard_becomes_rows_with_everything_in_its_place(tmp_path, layout, kind):
    rng = np.random.default_rng(1)
    made = [sample(number, layout, kind, rng) for number in range(4)]
    path = make_tar(tmp_path / "00000000.tar", [member for members, _ in made for member in members])
    rows, rejected = read_dr_shard(path, joined(range(4)), TEACHERS)
    assert not rejected
    slack = 0 if kind == "npz" else 2.0**-8  # bfloat16 keeps 8 bits
    for row, (_, (uid, image, real, synthetic, views, images, texts)) in zip(rows, made, strict=True):
        assert (row.key, row.image, row.width, row.height) == (uid, image, 60, 40)
        assert row.image_sha256 == hashlib.sha256(image).hexdigest()
        source = f"synthetic:{SYN[layout]}"
        assert list(row.captions) == [Caption(real[0]), *(Caption(text, source) for text in synthetic)]
        assert list(row.views) == parse_views(views, 60, 40)
        for stored, whole in ((row.image_embeds, images), (row.text_embeds, texts)):
            assert list(stored) == ["one", "two"]
            assert np.abs(stored["one"] - whole[:, :8]).max() <= slack
            assert np.abs(stored["two"] - whole[:, 8:]).max() <= slack
            assert stored["two"].dtype == np.float32


def test_images_and_captions_in_the_same_tar_go_before_a_second_source(tmp_path):
    members, _ = sample(0, "old", "npz", np.random.default_rng(2), image=photo(0), text="my own\ncaption")
    rows, _ = read_dr_shard(make_tar(tmp_path / "x.tar", members), None, TEACHERS)
    assert rows[0].captions[0] == Caption("my own caption")


def test_without_any_real_caption_the_synthetic_ones_stand_alone(tmp_path):
    members, facts = sample(0, "old", "npz", np.random.default_rng(2), image=photo(0))
    rows, _ = read_dr_shard(make_tar(tmp_path / "x.tar", members), None, TEACHERS)
    assert [caption.text for caption in rows[0].captions] == facts[3]
    assert (rows[0].text_embeds["one"] == facts[6][1:, :8]).all()


def squeezed(arrays):
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def changed(members, ending, data):
    return [
        (name, data if name.endswith(ending) else old) for name, old in members if data or not name.endswith(ending)
    ]


def test_what_does_not_fit_costs_that_sample_and_says_why(tmp_path):
    rng = np.random.default_rng(3)
    view = [[0, 0, 20, 20], [[0, 0.0], [0, 0.0]]]
    rows = {"image_emb": unit_rows(rng, 3, WIDTHS), "text_emb": unit_rows(rng, 6, WIDTHS)}
    turned = Image.Exif()
    turned[0x0112] = 6
    cases = {
        "resized copies do not fit": {"sha256": "0" * 64},
        "outside the image": (".paug.json", json.dumps({"param_aug": [[[0, 0, 41, 20], view[1]]] * 3})),
        "no operation 14": (".paug.json", json.dumps({"param_aug": [[view[0], [[14, 1.0]]]] * 3})),
        "impossible magnitude": (".paug.json", json.dumps({"param_aug": [[view[0], [[10, -1]]]] * 3})),
        "2 views and 3 embeddings": (".paug.json", json.dumps({"param_aug": [view] * 2})),
        "no views": (".paug.json", json.dumps({"param_aug": "[]"})),
        "paug.json is no JSON": (".paug.json", "{"),
        "has no paug.json": (".paug.json", None),
        "no syn.json": (".syn.json", None),
        "no list of captions": (".syn.json", '{"syn_text": [1, 2]}'),
        "1 real and 9 synthetic": (".syn.json", json.dumps({"syn_text": ["x"] * 9})),
        "cannot be divided": (".syn.json", '{"syn_text": ["a"], "syn_text_b": ["c"]}'),
        "neither .npz nor": (".npz", None),
        "columns and the teachers make 20": (".npz", npz({name: value[:, :19] for name, value in rows.items()})),
        "not of unit length": (".npz", npz({name: value[:, ::-1] for name, value in rows.items()})),
        "not finite": (".npz", npz({**rows, "text_emb": rows["text_emb"] * np.nan})),
        "rows of floats": (".npz", npz({**rows, "text_emb": np.ones((6, 20), int)})),
        "allow_pickle=False": (".npz", npz({**rows, "image_emb": np.array([{}, []], object)})),
        "no text_emb": (".npz", npz({"image_emb": rows["image_emb"]})),
        "npz is damaged": (".npz", npz(rows)[:-30]),
        "unpacks to more than": (".npz", squeezed({**rows, "x": np.zeros(20 << 20, np.float32)})),
        "EXIF data turn it": {"image": encoded(picture(0, 60, 40), "JPEG", exif=turned), "sha256": None},
        "transparent": {"image": encoded(picture(0, 60, 40, "RGBA")), "sha256": None},
        "does not decode": {"image": photo(0)[:300], "sha256": None},
    }
    members, expected = [], {}
    for number, (reason, change) in enumerate(cases.items()):
        options = change if isinstance(change, dict) else {}
        mine, facts = sample(number, "old", "npz", rng, **{"image": photo(number), "text": "real", **options})
        members += mine if isinstance(change, dict) else changed(mine, *change)
        expected[facts[0]] = reason
    good, bad = read_dr_shard(make_tar(tmp_path / "x.tar", members), None, TEACHERS)
    assert not good
    told = {item.key: item.reason for item in bad}
    assert set(told) == set(expected)
    for key, reason in expected.items():
        assert reason in told[key], (reason, told[key])


class Trap:
    def __reduce__(self):
        return print, ("pickle ran",)


def test_no_pickle_is_run_from_a_pth_gz(tmp_path, capsys):
    import gzip

    stream = io.BytesIO()
    torch.save({"image_emb": Trap()}, stream)
    rows = {"image_emb": np.zeros((3, 20), np.float32)}
    huge = io.BytesIO()
    torch.save({"image_emb": torch.zeros(1).expand(1 << 20, 1 << 12)}, huge)
    bodies = {
        "does not load": gzip.compress(stream.getvalue()),
        "of another format": gzip.compress(pickle.dumps({"image_emb": Trap()})),
        "no gzip": b"plain",
        "cut short": pth_gz(rows)[:-20],
        "numbers": gzip.compress(huge.getvalue()),
        "unpacks to more": gzip.compress(bytes(65 << 20)),
    }
    rng = np.random.default_rng(4)
    for number, (reason, body) in enumerate(bodies.items()):
        members, _ = sample(number, "old", "pth.gz", rng, image=photo(number))
        path = make_tar(tmp_path / f"{number}.tar", changed(members, ".pth.gz", body))
        _, rejected = read_dr_shard(path, None, TEACHERS)
        assert reason in rejected[0].reason, (reason, rejected)
    assert "pickle ran" not in capsys.readouterr().out


def test_images_are_joined_by_uid_from_any_source(tmp_path):
    for number in range(3):
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / "photos" / f"{number:032x}.jpg").write_bytes(photo(number))
    sources = [open_source(str(tmp_path / "photos"), split) for split in ("train", "eval")]
    images = ImagesByUid([*sources, ListSource([RawSample("a/b.c", b"1", ()), RawSample("x/b.d", b"2", ())])])
    assert images.find(f"{1:032x}") == (photo(1), [])
    for key, words in (("b", "two images have"), ("nobody", "no image has")):
        with pytest.raises(DistillError, match=words):
            images.find(key)


def test_teachers_of_the_published_sets():
    names = [(spec.name, scale) for spec, scale in published_teachers((), "/data/DataComp-DR-12M").items()]
    assert names == [("openai-vitl14", 100.0), ("datacomp-vitl14", 100.0)]
    names = [(spec.name, scale) for spec, scale in published_teachers((), "DFNDR-12M-bf16/0.tar").items()]
    assert names == [("dfn-vitl14", 70.0), ("dfn-vitl14-39b", 60.0)]
    assert [spec.width for spec in published_teachers(("dfn-vith14",), "x")] == [1024]
    with pytest.raises(UsageError, match="Whose embeddings"):
        published_teachers((), "shards")
    with pytest.raises(UsageError, match="twice"):
        published_teachers(("dfn-vitl14", "dfn-vitl14"), "x")
    with pytest.raises(UsageError, match="sigmoid"):
        published_teachers(("siglip-b16",), "x")


def test_a_place_that_is_no_published_set(tmp_path):
    make_tar(tmp_path / "x.tar", [("a.jpg", photo(0))])
    with pytest.raises(UsageError, match="no published reinforced set"):
        PublishedSet([tmp_path / "x.tar"], TEACHERS)
    with pytest.raises(BadRecordError):
        parse_views([[[0, 0, 1, 1]]], 5, 5)


@pytest.mark.parametrize(("layout", "kind", "dtype"), [("old", "npz", "int8"), ("new", "pth.gz", "bf16")])
def test_a_published_set_trains_end_to_end(tmp_path, layout, kind, dtype):
    """Two tars of the layout, one bad sample, images from a folder: import, resume to the same bytes, train."""
    from distill.recipe import Recipe
    from distill.verbs.reinforce import reinforce as verb
    from distill.verbs.train import train

    global WIDTHS
    rng, before = np.random.default_rng(5), WIDTHS
    WIDTHS = (768, 768)
    try:
        made = [sample(number, layout, kind, rng)[0] for number in range(12)]
    finally:
        WIDTHS = before
    made[4] = changed(made[4], ".paug.json", "{")
    place = tmp_path / ("DataCompDR-12M" if layout == "old" else "DFNDR-12M")
    make_tar(place / "00000000.tar", [member for members in made[:7] for member in members])
    make_tar(place / "00000001.tar", [member for members in made[7:] for member in members])
    for number in range(12):
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / "photos" / f"{number:032x}.jpg").write_bytes(photo(number))
        (tmp_path / "photos" / f"{number:032x}.txt").write_text(f"real {number}")
    photos = [open_source(str(tmp_path / "photos"), split) for split in ("train", "eval")]
    published = open_published(str(place / "{00000000..00000001}.tar"), photos)
    options = ReinforceSettings(embed_dtype=dtype, shard_size=5)
    manifest = import_published(published, tmp_path / "set", options)
    assert (manifest.samples, len(manifest.shards)) == (11, 3)
    assert [item.reason for item in manifest.rejected] == ["its paug.json is no JSON (JSONDecodeError)"]
    assert manifest.captions == {"real": 11, f"synthetic:{SYN[layout]}": 55}
    assert "images: unknown; what is published of them: CC-BY-NC-ND-4.0" in manifest.licence_summary
    digests = {file.name: sha256_file(file) for file in (tmp_path / "set").iterdir()}
    (tmp_path / "set" / "manifest.json").unlink()
    (tmp_path / "set" / "shard-00001.arrow").unlink()
    with pytest.raises(OutputExistsError):
        import_published(published, tmp_path / "set", options)
    import_published(published, tmp_path / "set", options, existing=Existing.RESUME)
    assert {file.name: sha256_file(file) for file in (tmp_path / "set").iterdir()} == digests
    settings = {"images": str(tmp_path / "photos"), **dict(options)}
    verb(
        Recipe(data=f"datacompdr:{place}/{{00000000..00000001}}.tar", reinforce=settings), out=tmp_path / "run-of-verb"
    )
    stored = tmp_path / "run-of-verb" / "reinforced"
    assert {file.name: sha256_file(file) for file in stored.iterdir()} == digests
    data = ReinforcedData(tmp_path / "set")
    assert [facts.logit_scale for facts in data.teacher_facts.values()] == ([100, 100] if layout == "old" else [70, 60])
    whole = {
        row.key: row
        for path in published.files
        for row in read_dr_shard(path, published.images, published.teacher_scales)[0]
    }
    for index in range(len(data)):
        stored, row = data.sample(index), whole[data.sample(index).key]
        assert list(stored.views) == list(row.views)
        for name, embeds in stored.image_embeds.items():
            cosines = (embeds * row.image_embeds[name]).sum(1) / np.linalg.norm(embeds, axis=1)
            assert cosines.min() > 0.999
    recipe = Recipe(
        data=str(tmp_path / "set"),
        objective="mobileclip",
        student={"name": "nano", "inherit": "none"},
        train={"steps": 3, "batch_size": 8, "warmup_steps": 1},
    )
    told = train(recipe, out=tmp_path / "run")
    losses = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert (tmp_path / "run" / "student" / "model.safetensors").is_file()
    assert told.parameters
    assert losses
