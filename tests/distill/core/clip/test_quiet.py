"""What other packages have to say about this machine's GPU libraries is not what a user asked."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from students.spec import STUDENTS
from students.student import build_student

LOAD = "import sys, pathlib; from students.student import load_student; load_student(pathlib.Path(sys.argv[1]))"


@pytest.mark.process
@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs transformers")
def test_a_text_tower_of_transformers_is_read_without_complaints(tmp_path: Path) -> None:
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n", encoding="utf-8")
    spec = STUDENTS.get("timm:mobilenetv3_small_050@32+hf:bert-1x64").with_tokenizer(str(vocabulary))
    build_student(spec, 0).save(tmp_path / "student", {"licence": "MIT"})
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path / "student")], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")
