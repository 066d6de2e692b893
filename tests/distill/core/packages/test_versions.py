"""What made a result stands in its record: packages as they are installed, and the commit of the tree that it ran from."""

import importlib.metadata
import subprocess
from pathlib import Path

import pytest

from distill.core.packages.versions import PACKAGES, git_commit, versions

ROOT = Path(__file__).parents[4]


def test_the_commit_is_that_of_the_tree():
    if not (ROOT / ".git").exists():
        pytest.skip("no source tree under git")
    said = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert git_commit() in (said, f"{said}+changes")


def test_versions_are_those_that_are_installed():
    found = versions()
    assert found["torch"] == importlib.metadata.version("torch")
    assert {"python", "platform", *PACKAGES} == set(found)
