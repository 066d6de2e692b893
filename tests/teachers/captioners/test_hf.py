"""`hf:` captioners on tiny, randomly initialised BLIP and VisionEncoderDecoder models saved by the test."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill.core.errors import DistillError, UsageError
from distill.core.torch_compat import ensure_torchvision
from teachers.captioner import CaptionSettings
from teachers.load_captioner import load_captioner, resolve_captioner

ensure_torchvision()
transformers = pytest.importorskip("transformers")

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *["a", "cat", "dog", "on", "mat", "sits", "runs", "the", "red", "blue", "big", "small", "tree", "sky", "sea"],
]


@pytest.fixture(scope="module")
def images() -> list[Any]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((32, 32), (40, 70), (90, 33))]


def save(folder: Path, model: Any) -> str:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6.0 if parameter.ndim > 1 else 1.0)  # so that captions differ from picture to picture
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return f"hf:{folder}"


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    text = {"vocab_size": len(WORDS), "hidden_size": 32, "encoder_hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 40, "bos_token_id": 2,
            "pad_token_id": 0, "sep_token_id": 3, "eos_token_id": 3}  # fmt: skip
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
              "image_size": 32, "patch_size": 16}  # fmt: skip
    config = transformers.BlipConfig(text_config=text, vision_config=vision, projection_dim=32)
    return save(tmp_path_factory.mktemp("blip"), transformers.BlipForConditionalGeneration(config))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    vision = transformers.ViTConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=16
    )
    text = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=40, is_decoder=True, add_cross_attention=True,
    )  # fmt: skip
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(vision, text)
    config.decoder_start_token_id = 2
    config.pad_token_id, config.eos_token_id = 0, 3
    model = transformers.VisionEncoderDecoderModel(config)
    model.generation_config = transformers.GenerationConfig(decoder_start_token_id=2, pad_token_id=0, eos_token_id=3)
    return save(tmp_path_factory.mktemp("pair"), model)


def encoder_of(model: Any) -> Any:
    return model.vision_model if hasattr(model, "vision_model") else model.encoder


@pytest.mark.parametrize("kind", ["blip", "pair"])
@pytest.mark.parametrize(
    "decode",
    [CaptionSettings(captions=3, max_tokens=8), CaptionSettings(captions=2, beams=3, max_tokens=8)],
    ids=["sample", "beam"],
)
def test_captions_are_seeded_and_the_image_is_encoded_once(
    kind: str, decode: CaptionSettings, images: list[Any], request: pytest.FixtureRequest
) -> None:
    captioner: Any = load_captioner(request.getfixturevalue(kind), decode)
    forwards = []
    encoder_of(captioner.model).register_forward_hook(lambda module, given, out: forwards.append(1))
    state = torch.random.get_rng_state()
    made = captioner.caption(images, [1, 2, 3])
    assert torch.equal(state, torch.random.get_rng_state())
    assert len(forwards) == 3
    assert [len(captions) for captions in made] == [decode.captions] * 3
    assert captioner.caption(images[1:], [2, 3]) == made[1:]
    words = {word for captions in made for text in captions for word in text.split()}
    assert words <= set(WORDS[5:])
    if decode.beams == 1:
        assert captioner.caption(images[:1], [9]) != made[:1]
        assert all(len(text.split()) <= 8 for captions in made for text in captions)  # the fewest count markers too


def test_greedy_is_transformers_own(pair: str, images: list[Any]) -> None:
    """The argmax at every step, computed with plain forward passes."""
    captioner: Any = load_captioner(pair, CaptionSettings(captions=1, temperature=0.0, max_tokens=6, min_tokens=0))
    pixels = torch.from_numpy(images[0]).permute(2, 0, 1)[None].float() / 255 * 2 - 1
    made = [2]
    with torch.no_grad():
        while len(made) < 7 and made[-1] != 3:
            logits = captioner.model(pixel_values=pixels, decoder_input_ids=torch.tensor([made])).logits[0, -1]
            made.append(int(logits.argmax()))
    assert captioner.caption(images[:1], [0]) == [[" ".join(WORDS[t] for t in made if t > 4)]]


def test_facts(blip: str) -> None:
    captioner: Any = load_captioner(blip)
    facts = captioner.describe()
    assert json.loads(json.dumps(facts))["preprocess"]["size"] == {"height": 32, "width": 32}
    assert len(facts["weights_sha256"]) == 64
    assert captioner.spec.name == blip
    random = load_captioner(blip, random_weights=True, seed=1)
    assert random.weights_sha256 == "random"
    assert len(random.caption([np.zeros((8, 8, 3), np.uint8)], [0])[0]) == 5


def test_names_and_missing_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blip: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert resolve_captioner("hf:lab/blip").licence == "unknown: read https://huggingface.co/lab/blip"
    for name in ("hf:", "hf:./nowhere", "hf:a/b/c", "hf:plain"):
        with pytest.raises(UsageError):
            resolve_captioner(name)
    with pytest.raises(DistillError, match=r"the files of captioner 'hf:lab/blip'.*config\.json"):
        load_captioner("hf:lab/blip")
    (tmp_path / "weights" / "lab--blip").mkdir(parents=True)
    for file in Path(blip[3:]).iterdir():
        (tmp_path / "weights" / "lab--blip" / file.name).write_bytes(file.read_bytes())
    monkeypatch.setenv("DISTILL_WEIGHTS", str(tmp_path / "weights"))
    assert load_captioner("hf:lab/blip").weights_sha256 == load_captioner(blip).weights_sha256
    (tmp_path / "weights" / "lab--blip" / "model.safetensors").rename(tmp_path / "weights" / "model.bin")
    with pytest.raises(DistillError, match=r"no \.safetensors weights"):
        load_captioner("hf:lab/blip")


def test_a_folder_that_is_no_captioner(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(DistillError, match="cannot be loaded by transformers"):
        load_captioner(f"hf:{tmp_path}")
