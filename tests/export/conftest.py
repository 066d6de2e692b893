"""One tiny student, lively enough that a wrong channel order shows, and its export, shared by this folder's tests."""

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from distill.core.clip.folder import built_here
from distill.core.clip.model import build_clip
from distill.evaluation.evalset import pixels as prepared
from students.spec import StudentSpec
from students.student import Student, build_student

# Two OpenMP threads that wait for each other by spinning stall for minutes on a busy two-core machine.
torch.set_num_threads(1)

CAPTIONS = [
    "a red circle",
    "two blue squares on grass",
    "",
    "a photo of " + "very " * 60 + "long grass",
    "x",
    "dog, cat",
]


def spec(*, text: dict[str, Any] | None = None, vision: dict[str, Any] | None = None, **top: Any) -> StudentSpec:
    """One layer per tower at 32 px, with CLIP's full vocabulary."""
    cfg = {
        "embed_dim": 32,
        "vision_cfg": {
            "image_size": 32,
            "patch_size": 16,
            "width": 32,
            "layers": 1,
            "head_width": 16,
            **(vision or {}),
        },
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1} | (text or {}),
        **top,
    }
    return StudentSpec(name="tiny", model_cfg=cfg, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


def enliven(student: Student, seed: int = 0) -> Student:
    """Random weights large enough that embeddings of different inputs differ; open_clip's initial ones hardly do."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in student.clip.named_parameters():
            if "logit" in name:
                continue
            if "gamma" in name:  # layer scale: a trained network's residual branches are small
                parameter.fill_(0.1)
            elif parameter.dim() > 1:
                fan_in = parameter[0].numel() if parameter.dim() == 4 else parameter.shape[-1]
                scale = 1.0 if "embedding" in name else 1.5 * fan_in**-0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
            else:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        norms = [m for m in student.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        if norms:
            # Statistics of pictures like those of the tests. Statistics of noise, or half settled ones, leave a network whose
            # fp16 result hangs on the order of its sums (cosine 0.945 on one CPU, 0.9998 on another).
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # the plain mean over all batches
            student.train()
            for batch in range(8):
                student.encode_image(pictures(16, student.image_size, seed=100 + batch))
    return student.eval()


def pictures(count: int, size: int, seed: int) -> torch.Tensor:
    """[count, 3, size, size] in [0, 1]: smooth and coloured, since pixels of noise look all alike to a network."""
    coarse = torch.rand(count, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear")


@pytest.fixture(scope="session")
def make_student() -> Callable[..., Student]:
    def make(**changes: Any) -> Student:
        return enliven(build_student(spec(**changes), seed=0))

    return make


@pytest.fixture(scope="session")
def make_hf_text_folder() -> Callable[..., Path]:
    """A CLIP folder whose text tower and tokenizer are Hugging Face's, tiny, with all that they need inside."""

    def make(folder: Path, *, kind: str, pooler: str) -> Path:
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
        from transformers import AutoConfig, PreTrainedTokenizerFast

        words = [
            "[PAD]",
            "[UNK]",
            "[CLS]",
            "[SEP]",
            "a",
            "two",
            "red",
            "green",
            "cat",
            "dog",
            "##s",
            "on",
            "hill",
            "circle",
        ]
        shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        config = AutoConfig.for_model(kind, vocab_size=len(words), max_position_embeddings=24, pad_token_id=0, **shape)
        config.save_pretrained(folder / "text_tower")
        tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
        ).save_pretrained(folder)
        text = {"hf_model_name": "nobody/text", "hf_tokenizer_name": "nobody/text", "hf_proj_type": "linear",
                "hf_pooler_type": pooler, "context_length": 12}  # fmt: skip
        model_cfg = {
            "embed_dim": 32,
            "vision_cfg": spec().model_cfg["vision_cfg"],
            "text_cfg": text,
            "custom_text": True,
        }
        preprocess = {"mean": [0.4] * 3, "std": [0.2] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
        config_file = {"model_cfg": model_cfg, "preprocess_cfg": preprocess}
        (folder / "card.json").write_text(json.dumps({"name": f"tiny {kind}", "licence": "MIT"}))
        (folder / "open_clip_config.json").write_text(json.dumps(config_file))
        clip = build_clip(built_here(folder, model_cfg), seed=1)
        save_file({k: v.contiguous() for k, v in clip.state_dict().items()}, folder / "model.safetensors")
        return folder

    return make


@pytest.fixture(scope="session")
def student(make_student: Callable[..., Student]) -> Student:
    return make_student()


@pytest.fixture(scope="session")
def fastvit() -> Student:
    """MobileCLIP2-S0's image tower at 64 px beside a 2-layer text tower without causal mask."""
    vision = {"timm_model_name": "fastvit_mci0", "timm_pool": "avg", "timm_proj": None, "image_size": 64}
    return enliven(build_student(spec(vision=vision, text={"no_causal_mask": True, "layers": 2}, custom_text=True), 0))


@pytest.fixture(scope="session")
def ill_conditioned(fastvit: Student) -> Student:
    """The same architecture with large residual branches and normalisation by a little noise: its fp16 hangs on every sum."""
    student = build_student(fastvit.spec, 0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in student.clip.named_parameters():
            if "gamma" in name:
                parameter.fill_(0.3)
            elif parameter.dim() > 1 and "logit" not in name:
                fan_in = parameter[0].numel() if parameter.dim() == 4 else parameter.shape[-1]
                scale = 1.0 if "embedding" in name else 1.5 * fan_in**-0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
            elif "logit" not in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        student.train()
        for _ in range(3):
            student.encode_image(torch.rand(4, 3, 64, 64, generator=generator))
    return student.eval()


@pytest.fixture(scope="session")
def student_dir(student: Student, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student") / "student"
    student.save(folder, {"licence": "Apache-2.0"})
    return folder


@pytest.fixture(scope="session")
def photos() -> list[bytes]:
    """12 encoded photos, wider than high."""
    made = []
    for picture in pictures(12, 48, seed=1)[:, :, :36]:
        file = io.BytesIO()
        Image.fromarray((picture.permute(1, 2, 0).numpy() * 255).astype(np.uint8)).save(file, "PNG")
        made.append(file.getvalue())
    return made


@pytest.fixture(scope="session")
def pixels(photos: list[bytes]) -> np.ndarray:
    return prepared([(str(index), photo) for index, photo in enumerate(photos)], 32)


@pytest.fixture(scope="session")
def captions() -> list[str]:
    return [*CAPTIONS, *(f"{n} green stars" for n in range(6))]


@pytest.fixture(scope="session")
def tokens(student: Student, captions: list[str]) -> np.ndarray:
    return student.tokenize(captions).int().numpy()


@pytest.fixture(scope="session")
def provenance() -> dict[str, Any]:
    return {"student": "tiny", "teachers": ["big", "bigger"], "seed": 3}


@pytest.fixture(scope="session")
def exported(
    student_dir: Path,
    pixels: np.ndarray,
    tokens: np.ndarray,
    photos: list[bytes],
    captions: list[str],
    provenance: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, list[Any]]:
    """Both towers in all three formats, made once for all processes of the test run: (out folder, artifacts). Tests write into
    copies."""
    from filelock import FileLock

    from export.artifacts.folder import read_artifacts
    from export.run import export_student
    from export.settings import ExportSettings

    here = tmp_path_factory.getbasetemp()
    shared = (here if os.environ.get("PYTEST_XDIST_WORKER") is None else here.parent) / "exported"
    shared.mkdir(exist_ok=True)
    out, done = shared / "export", shared / "done"
    with FileLock(shared / "lock"):
        if done.exists():
            return out, [artifact for folder in sorted(out.glob("*-*")) for artifact in read_artifacts(folder)]
        artifacts = export_student(
            student_dir,
            out,
            ExportSettings(targets=("coreml", "executorch", "onnx"), min_cosine=0.99),
            pixels=pixels,
            tokens=tokens,
            licence="Apache-2.0",
            provenance=provenance,
            resume=False,
            captions=captions,
            photos=photos,
        )
        done.touch()
    return out, artifacts


@pytest.fixture
def run_python() -> Callable[[str], str]:
    """Run code in a fresh interpreter and give its output."""
    import subprocess

    root = Path(__file__).resolve().parents[2]

    def run(code: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
        ).stdout.strip()

    return run
