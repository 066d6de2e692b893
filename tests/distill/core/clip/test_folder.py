"""A CLIP folder's readers against files written by hand."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from distill.core.clip.folder import (
    is_clip_folder,
    merges_of,
    read_card,
    read_config,
    read_state,
    vocabulary_id,
)
from distill.core.errors import DistillError


def test_a_folder_is_read_by_its_file_names(tmp_path: Path):
    assert not is_clip_folder(tmp_path)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"embed_dim": 3}}))
    save_file({"a": torch.tensor([0.1]).half(), "n": torch.tensor([2])}, tmp_path / "model.safetensors")
    assert is_clip_folder(tmp_path)
    assert read_config(tmp_path) == {"model_cfg": {"embed_dim": 3}}
    assert read_card(tmp_path) == {}
    state = read_state(tmp_path)
    assert (state["a"].dtype, state["n"].dtype) == (torch.float32, torch.int64)
    assert state["a"].item() == pytest.approx(0.1, abs=1e-4)
    (tmp_path / "card.json").write_text('{"name": "x"}')
    assert read_card(tmp_path) == {"name": "x"}


def test_vocabularies_are_equal_where_their_merges_are(tmp_path: Path):
    assert merges_of(tmp_path) is None
    (tmp_path / "bpe_merges.txt.gz").write_bytes(b"merges")
    (tmp_path / "other.gz").write_bytes(b"others")
    merges = merges_of(tmp_path)
    assert vocabulary_id(merges) == hashlib.sha256(b"merges").hexdigest()
    assert len({vocabulary_id(None), vocabulary_id(merges), vocabulary_id(tmp_path / "other.gz")}) == 3


@pytest.mark.parametrize(
    ("content", "words"), [(b"{", "cannot be read"), (b"[]", "one JSON object"), (b"{}", "model_cfg")]
)
def test_a_broken_configuration_is_named(tmp_path: Path, content: bytes, words: str):
    with pytest.raises(DistillError, match="There is no"):
        read_config(tmp_path)
    (tmp_path / "open_clip_config.json").write_bytes(content)
    with pytest.raises(DistillError, match=words):
        read_config(tmp_path)
