"""Teachers of different kind, input size, normalisation, interpolation, tokenizer and width, reinforced together.

Each one's stored rows must be what open_clip itself gives for that teacher alone: its transform, its tokenizer.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from reinforced_data.pixels.views import render_view
from reinforced_data.store.reader import ReinforcedData
from teachers.load import load_teacher
from tests.reinforced_data.stubs import ListSource, make_set, samples

SOFTMAX = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
SIGMOID = {
    "embed_dim": 40,
    "init_logit_bias": -8.0,
    "custom_text": True,
    "vision_cfg": {"image_size": 48, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {
        "context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1,
        "hf_tokenizer_name": "lab/words", "tokenizer_kwargs": {"clean": "canonicalize"},
    },
}  # fmt: skip
PIXELS = {
    "distill-mixed-softmax": {"mean": (0.48, 0.46, 0.41), "std": (0.27, 0.26, 0.28), "interpolation": "bicubic"},
    "distill-mixed-sigmoid": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "interpolation": "bilinear"},
}


@pytest.fixture
def words(tmp_path: Path) -> None:
    """A Hugging Face tokenizer in the folder that DISTILL_WEIGHTS names."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path / "lab--words"
    folder.mkdir()
    known = ["<pad>", "<unk>", "group", "sample", "text", *map(str, range(10))]
    words = Tokenizer(models.WordLevel({word: place for place, word in enumerate(known)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "unk_token": "<unk>"}'
    )


@pytest.fixture
def teachers(tmp_path: Path, words: None, open_clip: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    from safetensors.torch import save_file

    from teachers.open_clip.model import build_unfilled, fill_random

    monkeypatch.setenv("DISTILL_WEIGHTS", str(tmp_path))
    loaded = []
    for seed, (name, config) in enumerate(zip(PIXELS, (SOFTMAX, SIGMOID), strict=True)):
        (tmp_path / f"{name}.json").write_text(json.dumps(config))
        open_clip.add_model_config(tmp_path / f"{name}.json")
        entry = {"hf_hub": f"lab/{name}/", **PIXELS[name]}
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, name, {"lab": entry})
        (tmp_path / f"lab--{name}").mkdir()
        save_file(
            fill_random(build_unfilled(config, seed=seed), seed).state_dict(),
            str(tmp_path / f"lab--{name}" / "open_clip_model.safetensors"),
        )
        loaded.append(load_teacher(f"open_clip:{name}/lab"))
    return loaded


def test_mixed_teachers_are_stored_side_by_side(teachers: list[Any], tmp_path: Path, open_clip: Any) -> None:
    from PIL import Image

    views = {"views_per_image": 3, "view_preset": "mobileclip", "embed_dtype": "fp32"}
    make_set(ListSource(samples(5)), teachers, tmp_path / "set", batch_size=4, shard_size=3, **views)
    data = ReinforcedData(tmp_path / "set")
    assert [facts.kind for facts in data.teacher_facts.values()] == ["softmax", "sigmoid"]
    assert [facts.logit_bias for facts in data.teacher_facts.values()] == [0.0, -8.0]
    assert [facts["image_size"] for facts in data.manifest.teachers] == [32, 48]
    tokenizers = {
        "distill-mixed-softmax": open_clip.SimpleTokenizer(context_length=16),
        "distill-mixed-sigmoid": open_clip.tokenizer.HFTokenizer(
            str(tmp_path / "lab--words"), context_length=8, clean="canonicalize"
        ),
    }
    for teacher, (name, width) in zip(teachers, zip(PIXELS, (24, 40), strict=True), strict=True):
        pixels, key = PIXELS[name], f"open_clip:{name}/lab"
        transform = open_clip.transform.image_transform_v2(
            open_clip.transform.PreprocessCfg(size=teacher.spec.image_size, **pixels), is_train=False
        )
        tokenize = tokenizers[name]
        for i in range(len(data)):
            stored = data.text(i)
            replayed = [Image.fromarray(render_view(data.decoded(i), v, teacher.spec.image_size)) for v in stored.views]
            with torch.no_grad():
                image = teacher.model.encode_image(torch.stack([transform(v) for v in replayed]), normalize=True)
                text = teacher.model.encode_text(tokenize([c.text for c in stored.captions]), normalize=True)
            assert data.image_embeds(i, key).shape == (3, width)
            torch.testing.assert_close(torch.from_numpy(data.image_embeds(i, key)), image, atol=2e-5, rtol=0)
            torch.testing.assert_close(torch.from_numpy(data.text_embeds(i, key)), text, atol=2e-5, rtol=0)
