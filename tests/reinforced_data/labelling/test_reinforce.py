import errno
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from distill.core.atomic import sha256_file
from distill.core.errors import DistillError, OutputExistsError, UsageError
from distill.core.existing import Existing
from reinforced_data.labelling.verify import verify
from reinforced_data.pixels.views import render_view
from reinforced_data.sample import RawSample
from reinforced_data.source import open_source
from reinforced_data.store.manifest import read_manifest
from reinforced_data.store.names import MANIFEST_FILE, PLAN_FILE
from reinforced_data.store.reader import ReinforcedData
from tests.reinforced_data.stubs import ListSource, StubTeacher, encoded, make_set, picture, samples, two_teachers

BASE = {
    "views_per_image": 3,
    "view_preset": "mobileclip",
    "embed_dtype": "fp16",
    "shard_size": 5,
    "batch_size": 4,
    "seed": 1,
}
FLICKR = Path(__file__).parents[3].parent / "shared" / "data" / "flickr8k"
# Unit vectors: half precision keeps 11 bits of each component, so 1 - cos stays under 2^-22 times a small factor.
BOUND = {"fp16": 1e-6, "fp32": 1e-7}


def hashes(folder):
    return {file.name: sha256_file(file) for file in sorted(Path(folder).iterdir())}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "set"
    make_set(ListSource(samples(23)), two_teachers(), out, **BASE)
    return out


def test_every_sample_of_every_batch_has_its_embeddings(finished):
    """Apple's released generator left every record after the first batch of a shard empty, and stored no views."""
    data, source = ReinforcedData(finished), samples(23)
    assert len(data) == 23
    for index, raw in enumerate(source):
        sample = data.sample(index)
        assert (sample.key, sample.image, sample.captions) == (raw.key, raw.image, raw.captions)
        assert len(sample.views) == 3
        for name, facts in data.teacher_facts.items():
            assert sample.image_embeds[name].shape == (3, facts.width)
            assert sample.text_embeds[name].shape == (2, facts.width)
            assert sample.image_embeds[name].dtype == np.float32


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_stored_embeddings_equal_live_ones(tmp_path, dtype):
    """Recomputed one image at a time, at each teacher's own size, from the stored bytes and views."""
    teachers = two_teachers()
    make_set(ListSource(samples(9)), teachers, tmp_path / "o", **{**BASE, "embed_dtype": dtype})
    data = ReinforcedData(tmp_path / "o")
    for index in range(9):
        sample = data.sample(index)
        image = Image.open(io.BytesIO(sample.image)).convert("RGB")
        for teacher in teachers:
            for view, stored in zip(sample.views, sample.image_embeds[teacher.spec.name], strict=True):
                pixels = render_view(image, view, teacher.spec.image_size).astype(np.float32) / 255
                live = teacher.encode_image(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0].double().numpy()
                assert 1 - live @ stored / np.linalg.norm(live) / np.linalg.norm(stored) < BOUND[dtype]
            live = teacher.encode_text([caption.text for caption in sample.captions]).numpy()
            assert np.abs(live - sample.text_embeds[teacher.spec.name]).max() < (5e-4 if dtype == "fp16" else 1e-6)


def test_verify_sees_the_truth_and_the_wrong_teacher(finished):
    report = verify(finished, two_teachers(), 30, 0)
    assert report["samples"] == 10
    assert set(report["teachers"]) == {"alpha", "open_clip:X-1/y"}
    for figures in report["teachers"].values():
        assert 1 - 1e-6 < figures["image_min"] <= figures["image_mean"] < 1 + 1e-9
        assert 1 - 1e-6 < figures["text_min"] <= figures["text_mean"] < 1 + 1e-9
    impostor = StubTeacher("alpha", width=8, image_size=16, seed=99)
    assert verify(finished, [impostor], 100, 0)["teachers"]["alpha"]["image_min"] < 0.9
    with pytest.raises(UsageError, match="alpha"):
        verify(finished, [StubTeacher("alhpa")], 3, 0)


def test_teachers_see_their_own_size_in_full_batches_and_each_caption_once(tmp_path):
    teachers = two_teachers()
    make_set(ListSource(samples(5)), teachers, tmp_path / "o", **BASE)
    assert [teacher.image_batches[0] for teacher in teachers] == [(4, 3, 16, 16), (4, 3, 12, 12)]
    assert [shape[0] for shape in teachers[0].image_batches] == [4, 4, 4, 3]  # 5 samples x 3 views
    assert len(teachers[0].texts) == len(set(teachers[0].texts)) == 8  # 3 shared + 5 own


def test_shards_are_plain_arrow(finished):
    table = pa.ipc.open_file(pa.memory_map(str(finished / "shard-00001.arrow"))).read_all()
    assert table["key"].to_pylist() == [f"s{i:03d}" for i in range(5, 10)]
    assert table["views"][0].as_py()[0].keys() == {"left", "top", "width", "height", "ops"}
    column = table.schema.field("image_embeds.open_clip:X-1/y")
    assert column.metadata[b"dtype"] == b"fp16"
    embeds = np.array(table[column.name][2].as_py(), np.float32)
    assert embeds.shape == (3, int(column.metadata[b"width"]))
    assert (embeds == ReinforcedData(finished).sample(7).image_embeds["open_clip:X-1/y"]).all()
    names = json.loads(table.schema.field("views").metadata[b"ops"])
    view = ReinforcedData(finished).view(7, 1)
    assert [(names[op["op"]], op["magnitude"]) for op in table["views"][2].as_py()[1]["ops"]] == list(view.ops)


@pytest.mark.parametrize("dtype", ["fp16", "int8", "bf16"])
def test_shards_open_in_datasets(tmp_path, dtype):
    import datasets

    make_set(ListSource(samples(23)), two_teachers(), tmp_path / "o", **{**BASE, "embed_dtype": dtype})
    datasets.disable_progress_bars()
    files = str(tmp_path / "o" / "*.arrow")
    data = datasets.load_dataset("arrow", data_files=files, cache_dir=str(tmp_path))["train"]
    assert data[7]["captions"] == ["group 1", "sample 7 text 1"]
    stored = np.array(data[7]["text_embeds.alpha"])
    if dtype == "int8":
        stored = stored * np.array(data[7]["text_scales.alpha"], np.float32)[:, None]
    if dtype == "bf16":
        stored = (stored.astype(np.uint32) << 16).view(np.float32)
    assert (stored.astype(np.float32) == ReinforcedData(tmp_path / "o").text_embeds(7, "alpha")).all()


def test_manifest_says_everything(finished):
    manifest = read_manifest(finished)
    assert [shard.samples for shard in manifest.shards] == [5, 5, 5, 5, 3]
    assert {shard.file: shard.sha256 for shard in manifest.shards} == {
        name: digest for name, digest in hashes(finished).items() if name.startswith("shard-")
    }
    assert manifest.teachers[1]["logit_bias"] == -10.0
    assert manifest.teachers[1]["kind"] == "sigmoid"
    assert manifest.teachers[0]["weights_sha256"] == two_teachers()[0].weights_sha256
    assert "CC0-1.0" in manifest.licence_summary
    assert set(manifest.versions) == {"python", "pillow", "numpy", "pyarrow", "torch", "simplejpeg"}
    facts = ReinforcedData(finished).teacher_facts["open_clip:X-1/y"]
    assert (facts.width, facts.logit_scale, facts.logit_bias, facts.kind) == (12, 10.0, -10.0, "sigmoid")


def test_bad_samples_cost_themselves_only(tmp_path):
    class NanTeacher(StubTeacher):
        def encode_text(self, captions):
            out = super().encode_text(captions)
            for row, text in enumerate(captions):
                if text == "sample 7 text 1":
                    out[row, 3] = float("nan")
            return out

    good = samples(12)
    mixed = list(good)
    mixed[1] = RawSample("empty", b"", good[1].captions)
    mixed[4] = RawSample("mute", good[4].image, ())
    mixed[6] = RawSample("cut", encoded(picture(6, 80, 80), "JPEG")[:400], good[6].captions)
    mixed[11] = RawSample("text", b"hello", good[11].captions)
    seen = []
    manifest = make_set(
        ListSource(mixed), [NanTeacher("n")], tmp_path / "o", **BASE, progress=lambda *told: seen.append(told)
    )
    reasons = {item.key: item.reason for item in manifest.rejected}
    assert list(reasons) == ["empty", "mute", "cut", "s007", "text"]
    assert reasons["mute"] == "no caption"
    assert "not finite" in reasons["s007"]
    assert manifest.samples == 7
    assert [shard.rejected for shard in manifest.shards] == [2, 2, 1]
    assert seen == [(done, 12, "images") for done in range(1, 13)]
    data, teacher = ReinforcedData(tmp_path / "o"), StubTeacher("n")
    kept = [sample for sample in mixed if sample.key not in reasons]
    for index, raw in enumerate(kept):  # nothing slipped into a neighbour's place
        live = teacher.encode_text([caption.text for caption in raw.captions]).numpy()
        assert data.text(index).key == raw.key
        assert np.abs(data.text_embeds(index, "n") - live).max() < 1e-3


def test_nothing_usable_is_an_error(tmp_path):
    source = ListSource([RawSample("a", b"", ()), RawSample("b", b"x", samples(1)[0].captions)])
    with pytest.raises(DistillError, match=r"None of the 2 samples.*a: no caption; b: it is not an image"):
        make_set(source, two_teachers(), tmp_path / "o", **BASE)


def test_wrong_width_names_the_teacher(tmp_path):
    teacher = StubTeacher("liar", width=8)
    teacher.spec = StubTeacher("liar", width=9).spec
    with pytest.raises(DistillError, match=r"liar.*width 9"):
        make_set(ListSource(samples(3)), [teacher], tmp_path / "o", **BASE)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 2}, "seed"),
        ({"view_preset": "light"}, "view_preset"),
        ({"views_per_image": 2}, "views_per_image"),
        ({"embed_dtype": "fp32"}, "embed_dtype"),
        ({"shard_size": 6}, "shard_size"),
        ({"batch_size": 8}, "batch_size"),
    ],
)
def test_resume_with_other_settings_names_them(finished, change, words):
    before = hashes(finished)
    with pytest.raises(UsageError, match=f"{words} .*before.*now"):
        make_set(ListSource(samples(23)), two_teachers(), finished, **{**BASE, "existing": Existing.RESUME, **change})
    assert hashes(finished) == before


def test_resume_with_other_data_or_teachers_names_them(finished):
    again = {**BASE, "existing": Existing.RESUME}
    with pytest.raises(UsageError, match=r"source\.fingerprint"):
        make_set(ListSource(samples(23, first=1)), two_teachers(), finished, **again)
    with pytest.raises(UsageError, match=r"teachers\.alpha\.weights_sha256"):
        make_set(ListSource(samples(23)), [StubTeacher("alpha", seed=5), two_teachers()[1]], finished, **again)
    assert make_set(ListSource(samples(23)), two_teachers(), finished, **again) == read_manifest(finished)


def test_existing_output(tmp_path):
    out, source = tmp_path / "o", ListSource(samples(6))
    first = make_set(source, two_teachers(), out, **BASE)
    with pytest.raises(OutputExistsError, match="--resume"):
        make_set(source, two_teachers(), out, **BASE)
    changed = make_set(
        source, two_teachers(), out, **{**BASE, "seed": 9, "existing": Existing.OVERWRITE, "shard_size": 6}
    )
    assert changed.seed == 9
    assert sorted(hashes(out)) == [MANIFEST_FILE, PLAN_FILE, "shard-00000.arrow"]
    assert first.shards != changed.shards


def test_overwrite_never_removes_a_folder_of_other_things(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    for words in ({"existing": Existing.OVERWRITE}, {"existing": Existing.RESUME}):
        with pytest.raises(UsageError, match=r"letter\.txt"):
            make_set(ListSource(samples(3)), two_teachers(), tmp_path, **{**BASE, **words})
    assert (tmp_path / "letter.txt").read_text() == "dear"
    with pytest.raises(UsageError, match="is a file"):
        make_set(ListSource(samples(3)), two_teachers(), tmp_path / "letter.txt", **BASE)


def test_bad_calls(tmp_path):
    source = ListSource(samples(3))
    for change, words in (
        ({"views_per_image": 0}, "views_per_image"),
        ({"view_preset": "mobileclp"}, "mobileclip"),
        ({"view_preset": "none"}, "always gives the same view"),
        ({"embed_dtype": "int3"}, "embed_dtype"),
    ):
        with pytest.raises(UsageError, match=words):
            make_set(source, two_teachers(), tmp_path / "o", **{**BASE, **change})
    with pytest.raises(UsageError, match="each once"):
        make_set(source, [StubTeacher("a"), StubTeacher("a")], tmp_path / "o", **BASE)
    assert not (tmp_path / "o").exists()


def test_full_disk_is_explained_and_resumable(tmp_path, monkeypatch):
    from reinforced_data.labelling import reinforce as write

    source, real, calls = ListSource(samples(23)), write.write_shard, []

    def full(*arguments):
        calls.append(arguments[0].name)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*arguments)

    monkeypatch.setattr(write, "write_shard", full)
    with pytest.raises(DistillError, match=r"No space left.*--resume"):
        make_set(source, two_teachers(), tmp_path / "o", **BASE)
    with pytest.raises(DistillError, match=r"unfinished.*--resume"):
        ReinforcedData(tmp_path / "o")
    make_set(source, two_teachers(), tmp_path / "o", **{**BASE, "existing": Existing.RESUME})
    assert calls == [f"shard-0000{i}.arrow" for i in (0, 1, 2, 2, 3, 4)]  # finished shards were not made again


def test_a_damaged_shard_is_made_again_on_resume(finished, tmp_path):
    import shutil

    out = tmp_path / "o"
    shutil.copytree(finished, out)
    (out / MANIFEST_FILE).unlink()
    shard = out / "shard-00002.arrow"
    shard.write_bytes(shard.read_bytes()[:-40])
    make_set(ListSource(samples(23)), two_teachers(), out, **{**BASE, "existing": Existing.RESUME})
    assert hashes(out) == hashes(finished)


def test_reading_refuses_what_is_not_whole(finished, tmp_path):
    import shutil

    with pytest.raises(UsageError, match="no folder"):
        ReinforcedData(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no reinforced set"):
        ReinforcedData(tmp_path)
    out = tmp_path / "o"
    shutil.copytree(finished, out)
    (out / "shard-00003.arrow").unlink()
    with pytest.raises(DistillError, match=r"shard-00003\.arrow.*missing"):
        ReinforcedData(out)
    manifest = json.loads((out / MANIFEST_FILE).read_text())
    (out / MANIFEST_FILE).write_text(json.dumps({**manifest, "schema_version": 99}))
    with pytest.raises(DistillError, match="version 99"):
        ReinforcedData(out)


def test_an_exchanged_image_is_named_at_first_touch(finished, tmp_path):
    import shutil

    out = tmp_path / "o"
    shutil.copytree(finished, out)
    shard = out / "shard-00001.arrow"
    content = bytearray(shard.read_bytes())
    place = content.find(samples(23)[8].image)
    content[place + 60] ^= 1  # one bit of one image; size and structure stay
    shard.write_bytes(bytes(content))
    data = ReinforcedData(out)
    assert data.sample(7).key == "s007"
    with pytest.raises(DistillError, match="'s008'"):
        data.sample(8)


@pytest.mark.skipif(not FLICKR.is_dir(), reason="shared data (flickr8k) is not here")
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16", "int8"])
def test_verify_on_real_photos(tmp_path, dtype):
    teachers = [StubTeacher("a", width=32, image_size=64), StubTeacher("b", width=16, image_size=48, seed=1)]
    settings = {**BASE, "embed_dtype": dtype, "shard_size": 16, "batch_size": 16}
    make_set(open_source(str(FLICKR), "train", limit=24), teachers, tmp_path / "o", **settings)
    report = verify(tmp_path / "o", teachers, "all", 3)
    assert report["views"] == 24 * 3
    for figures in report["teachers"].values():
        least = {"fp32": 0.99999, "fp16": 0.9999, "bf16": 0.9999, "int8": 0.999}[dtype]
        assert min(figures["image_min"], figures["text_min"]) >= least


@pytest.mark.parametrize(
    ("raised", "kind", "says"),
    [
        (
            RuntimeError("CUDA error: device-side assert\nCUDA kernel errors might"),
            "failed",
            "RuntimeError: CUDA error: device-side assert",
        ),
        (torch.OutOfMemoryError("CUDA out of memory."), "memory", "reinforce.batch_size"),
    ],
)
@pytest.mark.parametrize(("asked", "call"), [("encode_image", 6), ("encode_text", 3)])
def test_a_teacher_that_fails_is_named_and_finished_shards_are_kept(tmp_path, raised, kind, says, asked, call):
    source = ListSource(samples(12))
    make_set(source, two_teachers(), tmp_path / "whole", **BASE)
    first, second = two_teachers()
    real, calls = getattr(second, asked), []

    def fails(inputs):
        calls.append(len(inputs))
        if len(calls) == call:  # of the second shard
            raise raised
        return real(inputs)

    setattr(second, asked, fails)
    with pytest.raises(DistillError, match=f"Teacher {second.spec.name!r} .*--resume") as caught:
        make_set(source, [first, second], tmp_path / "killed", **BASE)
    assert (caught.value.kind, says in str(caught.value)) == (kind, True)
    assert (tmp_path / "killed" / "shard-00000.arrow").exists()
    make_set(source, two_teachers(), tmp_path / "killed", **BASE, existing=Existing.RESUME)
    assert hashes(tmp_path / "killed") == hashes(tmp_path / "whole")
