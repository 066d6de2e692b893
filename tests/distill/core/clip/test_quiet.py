"""What other packages have to say about this machine's GPU libraries is not what a user asked."""

import importlib.util
import subprocess
import sys

import pytest

BUILD = """
from students.spec import STUDENTS
from students.student import build_student
build_student(STUDENTS.get("timm:mobilenetv3_small_050@32+hf:bert-1x64"), 0)
"""


@pytest.mark.process
@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs transformers")
def test_a_text_tower_of_transformers_comes_without_complaints() -> None:
    done = subprocess.run([sys.executable, "-c", BUILD], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
