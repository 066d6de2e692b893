"""The four packages beside `distill` are looked for by common words; another one in their place is named."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

from distill.core.packages import siblings


@pytest.fixture
def hidden(monkeypatch, tmp_path):
    """A package called teachers that is not ours."""
    real = importlib.util.find_spec
    foreign = SimpleNamespace(submodule_search_locations=[str(tmp_path / "teachers")], origin=None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: foreign if name == "teachers" else real(name))
    return tmp_path / "teachers"


def test_our_own_are_no_intruders():
    assert siblings.intruders() == ""
    siblings.refuse_intruders()


def test_a_library_gets_an_error_and_a_command_one_line(hidden, monkeypatch, capsys):
    assert siblings.intruders() == f"'teachers' is found at {str(hidden)!r}"
    monkeypatch.setattr("sys.orig_argv", ["python", "script.py"])
    monkeypatch.setattr("sys.argv", ["script.py"])
    with pytest.raises(ImportError, match="'teachers' is found at"):
        siblings.refuse_intruders()
    monkeypatch.setattr("sys.orig_argv", ["python", "-m", "distill", "list", "teachers"])
    with pytest.raises(SystemExit) as ended:
        siblings.refuse_intruders()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(hidden) in line


def test_a_missing_package_and_the_doctor_s_row(monkeypatch, hidden):
    from distill.verbs.machine import doctor

    row = next(row for row in doctor() if row["name"] == "import names")
    assert not row["ok"]
    assert str(hidden) in row["detail"]
    assert row["fix"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "'export' is found nowhere" in siblings.intruders()
    assert Path(siblings.__file__).parents[2].name == "distill"
