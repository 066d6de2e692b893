"""CLIPs and SigLIPs saved by the transformers package say here what they say there."""

from pathlib import Path
from typing import Any

import pytest
import torch

from distill.core.errors import DistillError
from distill.core.torch_compat import ensure_torchvision
from teachers.load import load_teacher, resolve_teacher
from teachers.open_clip import transformers_form

ensure_torchvision()  # before transformers' models import it

SHAPE = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}


def save(folder: Path, model: Any, words: int) -> None:
    """The model's folder with a tokenizer and a preprocessor's configuration."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.15, generator=torch.Generator().manual_seed(index))
    model.save_pretrained(folder)
    pieces = {
        word: index
        for index, word in enumerate(["<pad>", "<unk>", "a", "cat", "dog", *map(str, range(words - 6)), "<end>"])
    }
    tokenizer = Tokenizer(models.WordLevel(pieces, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", words - 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="<end>"
    ).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\ntags: [x]\n---\n# A model\n")


@pytest.mark.parametrize("end", [2, 63, 5])
@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
def test_clip(end: int, act: str, tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPModel

    vision = {**SHAPE, "hidden_size": 32, "image_size": 32, "patch_size": 8, "hidden_act": act}
    text = {**SHAPE, "hidden_size": 24, "vocab_size": 64, "max_position_embeddings": 10, "hidden_act": act,
            "eos_token_id": end, "bos_token_id": 1, "pad_token_id": 0}  # fmt: skip
    theirs = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).eval()
    save(tmp_path, theirs, 64)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "resample": 2}'
    )
    teacher = load_teacher(str(tmp_path))
    assert (teacher.spec.kind, teacher.spec.licence, teacher.spec.width) == ("softmax", "apache-2.0", 16)
    assert (teacher.resize_mode, teacher.interpolation) == ("shortest", "bilinear")
    pixels = torch.rand(3, 3, 32, 32)
    normal = (pixels - torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)) / torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1)
    tokens = torch.tensor([[2, 3, 63, 0, 0, 0, 0, 0, 0, 0], [2, 5, 4, 63, 0, 5, 0, 0, 0, 0]])
    with torch.no_grad():
        found = torch.nn.functional.normalize(theirs.get_image_features(normal).pooler_output, dim=-1)
        assert torch.allclose(teacher.encode_image(pixels), found, atol=1e-5)
        found = theirs.get_text_features(tokens).pooler_output
        assert torch.allclose(teacher.model.encode_text(tokens), found, atol=1e-5)
    assert teacher.logit_scale == pytest.approx(float(theirs.logit_scale.detach().exp()))
    assert teacher.tokenizer(["a cat"]).tolist() == [[2, 3, 63, 0, 0, 0, 0, 0, 0, 0]]


def test_siglip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """timm knows the published sizes alone; a tiny one is put beside them."""
    from timm.models import register_model
    from timm.models.vision_transformer import VisionTransformer
    from transformers import SiglipConfig, SiglipModel

    def vit_tiny_patch8_siglip_32(pretrained: bool = False, **given: Any) -> VisionTransformer:
        keys = {key: value for key, value in given.items() if key in ("num_classes", "drop_rate", "global_pool")}
        return VisionTransformer(
            img_size=32,
            patch_size=8,
            embed_dim=32,
            depth=2,
            num_heads=4,
            mlp_ratio=3,
            class_token=False,
            act_layer="gelu_tanh",
            **keys,
        )

    vit_tiny_patch8_siglip_32.__module__ = "timm.models.vision_transformer"
    register_model(vit_tiny_patch8_siglip_32)
    monkeypatch.setitem(transformers_form.SIGLIP_SIZES, (32, 2), "tiny")
    vision = {**SHAPE, "hidden_size": 32, "image_size": 32, "patch_size": 8}
    text = {**SHAPE, "hidden_size": 32, "vocab_size": 64, "max_position_embeddings": 10, "projection_size": 32}
    theirs = SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).eval()
    with torch.no_grad():
        theirs.logit_bias.fill_(-3)
    save(tmp_path, theirs, 64)
    teacher = load_teacher(str(tmp_path))
    assert (teacher.spec.kind, teacher.resize_mode, teacher.interpolation) == ("sigmoid", "squash", "bicubic")
    assert teacher.logit_bias == pytest.approx(-3)
    pixels, tokens = torch.rand(3, 3, 32, 32), torch.randint(2, 64, (2, 10))
    with torch.no_grad():
        found = torch.nn.functional.normalize(theirs.get_image_features(pixels * 2 - 1).pooler_output, dim=-1)
        assert torch.allclose(teacher.encode_image(pixels), found, atol=1e-5)
        assert torch.allclose(
            teacher.model.encode_text(tokens), theirs.get_text_features(tokens).pooler_output, atol=1e-5
        )


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    from transformers import SiglipConfig

    SiglipConfig(vision_config={"hidden_size": 32, "num_hidden_layers": 2}).save_pretrained(tmp_path)
    with pytest.raises(DistillError, match="width 32 and 2 layers has no size of a published one"):
        resolve_teacher(str(tmp_path))
