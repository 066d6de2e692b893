"""The demo: what is found equals brute force, and a real browser shows it."""

import http.client
import json
import re
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest

import distill
from distill.core.errors import UsageError
from distill.evaluation.evalset import Embedder, pixels
from distill.evaluation.photo_search import PhotoSearch
from reinforced_data.source import open_source


def colour_model(name: str) -> Embedder:
    """A model whose embedding of a photo is its mean colour, and of a sentence the colour that it names."""
    colours = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1)}

    def unit(rows: np.ndarray) -> np.ndarray:
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return Embedder(
        name,
        32,
        lambda batch: unit(batch.mean((2, 3)) + 1e-3),
        lambda texts: unit(np.array([colours[text] for text in texts], np.float32)),
    )


def test_the_nearest_photos_are_found() -> None:
    source = open_source("rendered:train=8,eval=24", "eval")
    model = colour_model("colours")
    search = PhotoSearch([model, model], source)
    assert len(search.keys) == len(search.thumbnails) == len(source)
    photos = model.images(pixels([(s.key, s.image) for s in (source[i] for i in range(len(source)))], 32))
    for sentence in ("red", "green", "blue"):
        (hits, ms), second = search.search(sentence, 5)
        cosines = photos @ model.texts([sentence])[0]
        assert [hit.photo for hit in hits] == np.argsort(-cosines, kind="stable")[:5].tolist()
        assert [hit.cosine for hit in hits] == pytest.approx(np.sort(cosines)[::-1][:5])
        assert second[0] == hits
        assert ms > 0


def test_photos_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    source = open_source("rendered:train=8,eval=6", "eval")
    for index in range(3):
        (tmp_path / f"{index}.png").write_bytes(source[index].image)
    (tmp_path / "broken.png").write_bytes(source[3].image[:200])
    search = PhotoSearch([colour_model("colours")], open_source(tmp_path, "given"))
    assert len(search.keys) == 3
    assert len(search.rejected) == 1


@pytest.mark.process
def test_a_page_searches_the_photos_of_a_folder(tiny_teacher: Path, tmp_path: Path) -> None:
    source = open_source("rendered:train=8,eval=6", "eval")
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(6):
        (photos / f"{index}.png").write_bytes(source[index].image)
        (photos / f"{index}.txt").write_text(source[index].captions[0].text)
    seen = {}

    def visit(address: str) -> None:
        host, token = re.fullmatch(r"http://(127\.0\.0\.1:\d+)/\?token=(.*)", address).groups()
        connection = http.client.HTTPConnection(host, timeout=10)

        def ask(path: str, body: object = None, **headers: str) -> http.client.HTTPResponse:
            connection.request(
                "POST" if body is not None else "GET", path, None if body is None else json.dumps(body), headers
            )
            return connection.getresponse()

        first = ask(f"/?token={token}")
        cookie = first.getheader("Set-Cookie").split(";")[0]
        first.read()
        seen["about"] = json.loads(ask("/about.json", Cookie=cookie).read())
        seen["found"] = json.loads(ask("/search", {"sentence": "a red circle"}, Cookie=cookie).read())
        photo = ask("/photo/0.jpg", Cookie=cookie)
        seen["photo"] = photo.read()[:3]
        empty = ask("/search", {"sentence": "  "}, Cookie=cookie)
        seen["empty"] = empty.status
        empty.read()
        connection.close()

    distill.demo(tiny_teacher, data=photos, until=visit)
    assert seen["about"]["photos"] == 6
    assert seen["photo"] == b"\xff\xd8\xff"
    assert seen["empty"] == 400
    (answer,) = seen["found"]
    assert sorted(hit["photo"] for hit in answer["hits"]) == list(range(6))
    cosines = [hit["cosine"] for hit in answer["hits"]]
    assert cosines == sorted(cosines, reverse=True)
    assert threading.active_count() < 20


@pytest.mark.process
def test_a_browser_shows_what_is_found(tiny_teacher: Path, tmp_path: Path) -> None:
    if shutil.which("chromium") is None:
        pytest.skip("chromium is not here (Debian: apt install chromium)")

    def visit(address: str) -> None:
        words = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path}/chrome",
            "--virtual-time-budget=8000",
        ]
        done = subprocess.run(
            ["chromium", *words, "--window-size=390,844", "--dump-dom", f"{address}#q=a red circle"],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        page.append(done.stdout)

    page: list[str] = []
    distill.demo(tiny_teacher, data="rendered:train=8,eval=6", until=visit)
    assert page[0].count("<figure>") == 6
    assert "<title>found</title>" in page[0]


def test_nothing_to_search(tmp_path: Path, tiny_teacher: Path) -> None:
    with pytest.raises(UsageError):
        distill.demo(tiny_teacher, data=tmp_path / "nowhere", until=lambda address: None)
