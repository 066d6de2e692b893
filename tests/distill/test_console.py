"""What a person was told is in the log, also what was said before there was one."""

from distill.console import Console


def test_lines_said_before_the_log_are_in_it_and_stand_first(tmp_path, capsys):
    console = Console()
    console.say("train.lr = 0.001: as published")
    console.log_to(tmp_path / "log.txt")
    console.say("later")
    console.log_to(tmp_path / "log.txt")
    console.say("last")
    lines = [line[20:] for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert lines == ["train.lr = 0.001: as published", "later", "last"]
    assert capsys.readouterr().err.splitlines() == lines
