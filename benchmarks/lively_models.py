"""Models of published shapes with random weights whose embeddings differ between inputs, as CLIP folders, for the export tables.

open_clip's initial weights map all inputs to one point: a cosine between such embeddings proves nothing. Here weights are drawn at
the scale of trained ones, layer scales are a tenth, and BatchNorms have the statistics of smooth pictures. The numbers that
come of them test the pipeline and rank precisions; they do not predict what a trained model loses.
"""

import copy
import json
from pathlib import Path
from typing import Any

import torch

from distill.core.clip.folder import TEXT_CONFIG, built_here
from distill.core.clip.model import build_clip, import_open_clip

SEED = 0
MEAN, STD = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]


def enliven(clip: Any, image_size: int) -> None:
    """Fill the weights of an open_clip model in place."""
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, parameter in clip.named_parameters():
            if "logit" in name:
                continue
            if "gamma" in name:
                parameter.fill_(0.1)  # layer scale: a trained network's residual branches are small
            elif parameter.dim() > 1:
                fan_in = parameter[0].numel() if parameter.dim() == 4 else parameter.shape[-1]
                scale = 1.0 if "embed" in name else 1.3 * fan_in**-0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
            else:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        norms = [module for module in clip.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over all batches
        clip.train()
        for _ in range(8 if norms else 0):
            coarse = torch.rand(16, 3, 5, 5, generator=generator)
            smooth = torch.nn.functional.interpolate(coarse, (image_size, image_size), mode="bilinear")
            clip.visual((smooth - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1))
    clip.eval()


def configuration(name: str) -> dict[str, Any]:
    """open_clip's configuration of a student, of one of its own models, or of "bert" (a BERT of six layers beside a small ViT)."""
    from students.spec import STUDENTS

    if name in STUDENTS:
        return copy.deepcopy(STUDENTS.get(name).model_cfg)
    if name == "bert":
        vision = {"image_size": 224, "patch_size": 16, "width": 192, "layers": 6, "head_width": 64}
        text = {"hf_model_name": "bert", "hf_tokenizer_name": "bert", "hf_proj_type": "linear", "hf_pooler_type": "mean_pooler",
                "context_length": 64}  # fmt: skip
        return {"embed_dim": 256, "vision_cfg": vision, "text_cfg": text, "custom_text": True}
    return dict(import_open_clip().get_model_config(name))


def write(name: str, folder: Path) -> Path:
    """The CLIP folder of a model, with a tokenizer of its own where it borrows one from Hugging Face."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    cfg = configuration(name)
    text = cfg["text_cfg"]
    if text.get("hf_tokenizer_name"):
        _write_tokenizer(folder, int(text.get("vocab_size", 8192)))
    if text.get("hf_model_name"):
        from transformers import BertConfig

        BertConfig(
            vocab_size=8192, hidden_size=384, num_hidden_layers=6, num_attention_heads=6, intermediate_size=1536
        ).save_pretrained(folder / TEXT_CONFIG)
    size = cfg["vision_cfg"].get("image_size", 224)
    clip = build_clip(built_here(folder, cfg), seed=SEED)
    enliven(clip, size)
    save_file({key: value.contiguous() for key, value in clip.state_dict().items()}, folder / "model.safetensors")
    preprocess = {"size": [size, size], "mean": MEAN, "std": STD}
    preprocess |= {"interpolation": "bicubic", "resize_mode": "shortest"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg, "preprocess_cfg": preprocess}))
    card = {"name": name, "licence": "random weights", "kind": "sigmoid" if "init_logit_bias" in cfg else "softmax"}
    (folder / "card.json").write_text(json.dumps(card))
    return folder


def _write_tokenizer(folder: Path, vocabulary: int) -> None:
    """A WordPiece tokenizer over the embedded captions; ids beyond its words are never used."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    from reinforced_data.source import open_source

    source = open_source("rendered", "eval", 64)
    words = sorted(
        {word for index in range(len(source)) for c in source[index].captions for word in c.text.lower().split()}
    )
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    pieces = {word: index for index, word in enumerate([*special, *words][:vocabulary])}
    tokenizer = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
