"""The user's own captioners: a function and a command, well-behaved and broken in every way we could think of."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.core.errors import DistillError, UsageError
from teachers.captioner import CaptionSettings
from teachers.load_captioner import load_captioner, resolve_captioner

IMAGES: list[Any] = [np.full((4 + n, 6, 3), 40 * n, np.uint8) for n in range(3)]
GOOD = """
import json, sys
from PIL import Image
for line in sys.stdin:
    asked = json.loads(line)
    with Image.open(asked["image"]) as image:
        size, shade = image.size, image.getpixel((0, 0))[0]
    made = [f"{size} {shade} {asked['seed'] % 1000} {n}" for n in range(asked["captions"])]
    print(json.dumps(made[0] if asked["captions"] == 1 else made))
"""


def script(folder: Path, body: str) -> str:
    path = folder / "caption.py"
    path.write_text(f"#!{sys.executable}\n{body}")
    path.chmod(0o755)
    return str(path)


def command(folder: Path, body: str, decode: CaptionSettings | None = None, timeout_s: float = 60.0) -> Any:
    captioner: Any = load_captioner("command:" + script(folder, body), decode or CaptionSettings(captions=2))
    captioner.timeout_s = timeout_s
    return captioner


@pytest.mark.process
def test_a_command_sees_the_pixels_and_its_seed(tmp_path: Path) -> None:
    captioner = command(tmp_path, GOOD)
    made = captioner.caption(IMAGES, [5, 6, 7])
    assert [len(captions) for captions in made] == [2, 2, 2]
    assert [captions[0].rsplit(" ", 2)[0] for captions in made] == ["(6, 4) 0", "(6, 5) 40", "(6, 6) 80"]
    assert len({captions[0].split()[-2] for captions in made}) == 3
    assert captioner.caption(IMAGES[1:2], [6]) == made[1:2]
    assert command(tmp_path, GOOD, CaptionSettings(captions=2, seed=9)).caption(IMAGES, [5, 6, 7]) != made
    assert command(tmp_path, GOOD, CaptionSettings(captions=1)).caption(IMAGES[:1], [5]) == [made[0][:1]]
    assert captioner.caption([], []) == []


def test_a_command_is_hashed_by_its_files(tmp_path: Path) -> None:
    first = command(tmp_path, GOOD).weights_sha256
    assert command(tmp_path, GOOD).weights_sha256 == first
    assert command(tmp_path, GOOD + "# changed\n").weights_sha256 != first
    through = f"command:{sys.executable} {tmp_path / 'caption.py'}"
    before = load_captioner(through).weights_sha256
    script(tmp_path, GOOD)
    assert load_captioner(through).weights_sha256 != before
    assert json.dumps(load_captioner(through).describe())


READ = "import sys\nlines = sys.stdin.readlines()\n"
BROKEN = [
    ("import sys; sys.stdin.read(); sys.exit('no GPU here')", "exit status 1; it said: no GPU here"),
    ("import sys; sys.exit(3)", "exit status 3; it said: nothing"),
    ("import os; os.kill(os.getpid(), 9)", "signal 9"),
    (READ + "print('\"one\"')", "answered 1 lines for 3 images"),
    (READ + "for n in range(5): print('\"one\"')", "answered 5 lines for 3 images"),
    (READ + "for n in lines: print('a cat')", "image 0 what is not JSON: 'a cat'"),
    (READ + "for n in lines: print('7')", "neither a caption nor a list"),
    (READ + "for n in lines: print('[\"a\", null]')", "neither a caption nor a list"),
    (READ + 'for n in lines: print(\'{"text": "a"}\')', "neither a caption nor a list"),
    (READ + "sys.stdout.buffer.write(b'\"\\xff\\xfe\"\\n' * 3)", "not UTF-8"),
    ("pass", "answered 0 lines"),
]


@pytest.mark.process
@pytest.mark.parametrize(("body", "message"), BROKEN, ids=[message for _, message in BROKEN])
def test_a_broken_command_says_what_it_did(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(DistillError) as caught:
        command(tmp_path, body).caption(IMAGES, [1, 2, 3])
    assert message in str(caught.value)
    assert "caption.py" in str(caught.value)


@pytest.mark.process
def test_a_command_that_hangs_is_stopped_with_its_children(tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    child = f"import time\nwhile True: open({str(beat)!r}, 'a').write('.'); time.sleep(0.05)"
    body = f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', {child!r}])\ntime.sleep(60)"
    with pytest.raises(DistillError, match="longer than 2 s"):
        command(tmp_path, body, timeout_s=2.0).caption(IMAGES, [1, 2, 3])
    size = beat.stat().st_size if beat.exists() else 0
    time.sleep(0.3)
    assert (beat.stat().st_size if beat.exists() else 0) == size


@pytest.mark.process
def test_nothing_to_say_and_too_much_to_say(tmp_path: Path) -> None:
    body = READ + 'print(\'[]\'); print(\'{"captions": ["a", "b", "c"]}\'); print(\'"é"\')'
    assert command(tmp_path, body).caption(IMAGES, [1, 2, 3]) == [[], ["a", "b"], ["é"]]


def test_a_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_captions_a.py").write_text(
        "def caption(images, seeds):\n    return [f'{i.shape[0]} high {s % 97}' for i, s in zip(images, seeds)]\n"
        "def bad(images, seeds):\n    raise KeyError('shape')\n"
        "def few(images, seeds):\n    return ['a']\n"
        "def none(images, seeds):\n    return None\n"
        "def mixed(images, seeds):\n    return [['a'], 3, 'b']\n"
        "number = 3\n"
    )
    captioner = load_captioner("python:my_captions_a:caption", CaptionSettings(captions=2))
    made = captioner.caption(IMAGES, [1, 2, 3])
    assert [captions[0].split(" high")[0] for captions in made] == ["4", "5", "6"]
    assert captioner.caption(IMAGES[2:], [3]) == made[2:]
    assert len(captioner.weights_sha256) == 64
    assert json.dumps(captioner.describe())
    assert captioner.to("cuda") is captioner  # its weights, if it has any, are not ours to move
    assert captioner.device == "cpu"
    for function, message in (
        ("bad", "raised KeyError: 'shape'"),
        ("few", "returned 1 items for 3 images"),
        ("none", "returned a NoneType"),
        ("mixed", "image 1 neither"),
    ):
        with pytest.raises(DistillError, match=message):
            load_captioner(f"python:my_captions_a:{function}").caption(IMAGES, [1, 2, 3])
    for name, message in (
        ("python:my_captions_a:captoin", "no function 'captoin'"),
        ("python:my_captions_a:number", "no function 'number'"),
        ("python:my_captions_b:caption", "no module 'my_captions_b'"),
    ):
        with pytest.raises(UsageError, match=message):
            load_captioner(name)
    (tmp_path / "my_captions_c.py").write_text("1 / 0\n")
    with pytest.raises(DistillError, match="ZeroDivisionError"):
        load_captioner("python:my_captions_c:caption")


def test_names_are_checked_without_running_anything(tmp_path: Path) -> None:
    (tmp_path / "plain.sh").write_text("echo")
    for name, message in (
        ("python:module", "MODULE:FUNCTION"),
        ("python::f", "MODULE:FUNCTION"),
        ("python:a b:f", "MODULE:FUNCTION"),
        ("command:", "names no command"),
        ("command:./nowhere.sh -x", "'./nowhere.sh' is not there"),
        ("command:'unclosed", "not a command line"),
        (f"command:{tmp_path}/plain.sh", "not executable"),
    ):
        with pytest.raises(UsageError, match=message):
            resolve_captioner(name)
    assert resolve_captioner("python:any.module:function").commercial is False
