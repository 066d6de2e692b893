"""CoCa captioners on tiny models built by open_clip's own classes, against open_clip's forward and its generate."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill.core.errors import DistillError, UsageError
from teachers.captioner import CAPTIONER_SPECS, CaptionSettings
from teachers.captioners.coca import CocaStep
from teachers.load_captioner import load_captioner, resolve_captioner

TINY_COCA: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16, "attentional_pool": True,
                   "attn_pooler_heads": 2, "attn_pooler_queries": 8, "output_tokens": True},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1, "embed_cls": True,
                 "output_tokens": True},
    "multimodal_cfg": {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    "custom_text": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def name(open_clip: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """coca:MODEL@CHECKPOINT of a tiny random CoCa."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("coca")
    (folder / "distill-tiny-coca.json").write_text(json.dumps(TINY_COCA))
    open_clip.add_model_config(folder / "distill-tiny-coca.json")
    torch.manual_seed(5)
    model = open_clip.create_model("distill-tiny-coca")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.25)
        for block in model.text_decoder.cross_attn:  # so that captions differ from picture to picture
            block.attn.out_proj.weight.normal_(std=4.0)
    save_file(model.state_dict(), str(folder / "tiny.safetensors"))
    return f"coca:distill-tiny-coca@{folder / 'tiny.safetensors'}"


@pytest.fixture(scope="module")
def images() -> list[Any]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((32, 32), (40, 70), (90, 33), (20, 20))]


def in_float64(captioner: Any) -> Any:
    captioner.model.double()
    return captioner


def test_the_step_is_open_clip_s_forward(name: str, images: list[Any]) -> None:
    captioner: Any = in_float64(load_captioner(name))
    pixels = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    tokens = torch.randint(1, 49000, (5, 7))
    owner = torch.tensor([0, 1, 1, 0, 1])
    with torch.no_grad():
        _latent, image_tokens = captioner.model._encode_image(pixels)
        whole = captioner.model(pixels[owner], tokens, output_labels=False)["logits"][:, -1]
        step = CocaStep(captioner.model, image_tokens)
        torch.testing.assert_close(step(tokens, owner), whole)
        torch.testing.assert_close(step(tokens, owner), whole)  # the rows kept from the first call
        other = owner.flip(0)
        torch.testing.assert_close(
            step(tokens, other), captioner.model(pixels[other], tokens, output_labels=False)["logits"][:, -1]
        )


def test_greedy_agrees_with_open_clip_s_generate(name: str, images: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its generate refuses to run beside transformers 5 for one class that greedy decoding does not use: lent to it here."""
    transformers = pytest.importorskip("transformers")
    from open_clip import coca_model

    monkeypatch.setattr(coca_model, "_has_transformers", True)
    for lent in ("LogitsProcessorList", "RepetitionPenaltyLogitsProcessor", "MinLengthLogitsProcessor",
                 "MaxLengthCriteria", "StoppingCriteriaList"):  # fmt: skip
        monkeypatch.setattr(coca_model, lent, getattr(transformers, lent), raising=False)
    monkeypatch.setitem(coca_model.GENERATION_TYPES, "top_k", transformers.TopKLogitsWarper)
    captioner: Any = in_float64(
        load_captioner(name, CaptionSettings(captions=1, temperature=0.0, max_tokens=19, min_tokens=3))
    )
    pixels = torch.stack([captioner.transform(to_pil(image)) for image in images]).double()
    theirs = captioner.model.generate(
        pixels, generation_type="top_k", top_k=1, seq_len=20, max_seq_len=20, min_seq_len=4, repetition_penalty=1.0
    )
    ours = tokens_of(captioner, images, [0] * len(images))
    for row, [made] in zip(theirs.tolist(), ours, strict=True):
        expected = row[1 : row.index(49407)] if 49407 in row else row[1:]
        assert made[:18] == expected[:18]  # it forces an end marker into the last place
        assert len(made) >= 3
    assert len({str(made) for made in ours}) > 1


def to_pil(image: Any) -> Any:
    from PIL import Image

    return Image.fromarray(image)


@pytest.mark.parametrize(
    "decode",
    [CaptionSettings(captions=4, max_tokens=9), CaptionSettings(captions=3, beams=3, max_tokens=9, min_tokens=0)],
    ids=str,
)
def test_neighbours_do_not_matter_and_the_image_is_encoded_once(
    name: str, images: list[Any], decode: CaptionSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner: Any = in_float64(load_captioner(name, decode))
    forwards = []
    captioner.model.visual.register_forward_pre_hook(lambda module, given: forwards.append(len(given[0])))
    together = captioner.caption(images, [11, 12, 13, 14])
    assert forwards == [4]
    assert all(len(captions) == decode.captions for captions in together)
    for image, seed, captions in zip(images, (11, 12, 13, 14), together, strict=True):
        assert captioner.caption([image], [seed]) == [captions]
    assert captioner.caption(images[::-1], [14, 13, 12, 11]) == together[::-1]
    if decode.beams == 1:
        assert len(set(together[0])) > 1
        assert captioner.caption(images[:1], [99]) != together[:1]


def test_the_caption_may_fill_the_model_s_whole_context(
    name: str, images: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """open_clip's generate stops at 30 tokens whatever the model; here the model's own length is the limit."""
    step = CocaStep.__call__

    def endless(self: CocaStep, tokens: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
        logits = step(self, tokens, owner)
        logits[:, 49407] = -1e9
        return logits

    monkeypatch.setattr(CocaStep, "__call__", endless)
    captioner: Any = load_captioner(name, CaptionSettings(captions=2))
    assert [[len(made) for made in captions] for captions in tokens_of(captioner, images, [1, 2, 3, 4])] == [
        [19, 19]
    ] * 4


def tokens_of(captioner: Any, images: list[Any], seeds: list[int]) -> list[list[list[int]]]:
    captioner.text = lambda tokens: tokens
    made: list[list[list[int]]] = captioner.caption(images, seeds)
    return made


def test_preprocessing_is_open_clip_s_own(name: str, images: list[Any], open_clip: Any) -> None:
    _, _, transform = open_clip.create_model_and_transforms("distill-tiny-coca")
    captioner: Any = load_captioner(name)
    for image in images:
        assert torch.equal(captioner.transform(to_pil(image)), transform(to_pil(image)))


def test_facts_and_description(name: str) -> None:
    captioner: Any = load_captioner(name, CaptionSettings(beams=5))
    facts = captioner.describe()
    assert len(facts["weights_sha256"]) == 64
    assert facts["decode"]["top_p"] is None
    assert facts["preprocess"]["size"] == 32
    assert facts["context_length"] == 20
    assert json.loads(json.dumps(facts))["spec"]["name"] == name
    assert captioner.caption([], []) == []
    with pytest.raises(DistillError, match="uint8"):
        captioner.caption([np.zeros((4, 4), np.uint8)], [0])


def test_names() -> None:
    assert {"coca-vitl14", "coca-vitl14-mscoco"} <= set(CAPTIONER_SPECS)
    assert resolve_captioner("coca:coca_ViT-L-14/laion2b_s13b_b90k").licence == "MIT"
    assert resolve_captioner("coca:coca_ViT-B-32/laion2b_s13b_b90k").licence.startswith("unknown")
    for wrong, word in (
        ("coca-vitl41", "coca-vitl14"),
        ("coca:ViT-B-32/laion2b_s34b_b79k", "no caption decoder"),
        ("coca:coca_ViT-L-14/laion2b", "laion2b_s13b_b90k"),
        ("coca:coca_ViT-L-14@/nowhere.pt", "no checkpoint"),
        ("./nowhere", "no folder"),
        ("", "Unknown captioner"),
    ):
        with pytest.raises(UsageError, match=word):
            resolve_captioner(wrong)


def test_every_named_source_is_in_open_clip_s_table(open_clip: Any) -> None:
    for _, spec in CAPTIONER_SPECS.items():
        if spec.loader == "coca":
            model, _, tag = spec.source.rpartition("/")
            assert open_clip.pretrained.get_pretrained_cfg(model, tag)["hf_hub"]


def test_missing_weights_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DistillError, match=r"the weights of captioner 'coca-vitl14'.*laion/CoCa-ViT-L-14"):
        load_captioner("coca-vitl14")
    with pytest.raises(UsageError, match="captions"):  # found before any weights
        load_captioner("coca-vitl14", CaptionSettings(captions=3, beams=2))


def test_weights_come_from_the_named_folder(
    name: str, open_clip: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: list[Any]
) -> None:
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "distill-tiny-coca", {"lab": {"hf_hub": "lab/coca/"}})
    entry = {"hf_hub": "lab/coca/", "mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic"}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "distill-tiny-coca", {"lab": entry})
    (tmp_path / "lab--coca").mkdir()
    os.link(name.partition("@")[2], tmp_path / "lab--coca" / "open_clip_model.safetensors")
    monkeypatch.setenv("DISTILL_WEIGHTS", str(tmp_path))
    captioner = load_captioner("coca:distill-tiny-coca/lab", CaptionSettings(captions=2, max_tokens=6))
    assert captioner.weights_sha256 == load_captioner(name).weights_sha256
    assert captioner.describe()["preprocess"]["mean"] == (0.5, 0.5, 0.5)  # type: ignore[index]


def test_a_rehearsal_is_offline_and_depends_on_its_seed(
    name: str, images: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: Any) -> None:
        raise AssertionError("a rehearsal reached for the network")

    monkeypatch.setattr(socket.socket, "connect", forbidden)
    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
    captioner = load_captioner(name, CaptionSettings(captions=2, max_tokens=6), random_weights=True, seed=1)
    assert captioner.weights_sha256 == "random"
    assert captioner.describe()["rehearsal"] is True
    first = captioner.caption(images, [1, 2, 3, 4])
    again = load_captioner(name, CaptionSettings(captions=2, max_tokens=6), random_weights=True, seed=1).caption(
        images, [1, 2, 3, 4]
    )
    assert first == again
    assert all(isinstance(text, str) for captions in first for text in captions)


def test_a_full_size_rehearsal(images: list[Any]) -> None:
    captioner: Any = load_captioner(
        "coca:coca_ViT-B-32/laion2b_s13b_b90k",
        CaptionSettings(captions=1, max_tokens=3, min_tokens=1),
        random_weights=True,
    )
    assert len(captioner.caption(images[:1], [0])[0]) == 1
    assert sum(parameter.numel() for parameter in captioner.model.parameters()) > 250_000_000
