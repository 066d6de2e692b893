"""What git holds. Lint, format and types are steps of their own in `.ci/run`, beside pytest."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_no_file_in_git_is_over_ten_megabytes():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    large = [n for n in names.split("\0") if n and (ROOT / n).exists() and (ROOT / n).stat().st_size > 10_000_000]
    assert not large
