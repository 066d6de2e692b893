"""A tiny open_clip architecture, its checkpoint, and a picture, for tests that need no published weights."""

import json
from pathlib import Path
from typing import Any

import pytest

TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="session")
def tiny_config() -> dict[str, Any]:
    return TINY


@pytest.fixture(scope="session")
def open_clip() -> Any:
    from distill.core.clip.model import import_open_clip

    return import_open_clip()


@pytest.fixture(scope="session")
def tiny(open_clip: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """(model name known to open_clip, checkpoint): softmax."""
    return _register(open_clip, tmp_path_factory.mktemp("tiny"), "distill-tiny", TINY)


@pytest.fixture(scope="session")
def tiny_sigmoid(open_clip: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """(model name known to open_clip, checkpoint): sigmoid, with a bias."""
    config = {**TINY, "init_logit_bias": -7.5, "custom_text": True}
    return _register(open_clip, tmp_path_factory.mktemp("tiny-sigmoid"), "distill-tiny-sigmoid", config)


def _register(open_clip: Any, folder: Path, name: str, config: dict[str, Any]) -> tuple[str, Path]:
    import torch
    from safetensors.torch import save_file

    (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / f"{name}.json")
    torch.manual_seed(3)
    model = open_clip.create_model(name)
    save_file(model.state_dict(), str(folder / "model.safetensors"))
    return name, folder / "model.safetensors"


@pytest.fixture(scope="session")
def picture() -> Any:
    """A PIL image of 32 x 32 with structure at several scales."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    fine = rng.integers(0, 60, (32, 32, 3), dtype=np.uint8)
    return Image.fromarray(np.maximum(coarse, fine))


@pytest.fixture(scope="session")
def pixels(picture: Any) -> Any:
    """The same as [1, 3, 32, 32] in [0, 1]."""
    import numpy as np
    import torch

    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).unsqueeze(0).float() / 255
