"""The caption report against a plain double loop over a small set, and its place in the reports of a run."""

import itertools
import math
import re

import numpy as np
import pytest

from distill.reporting.table import caption_rows
from reinforced_data.sample import Caption, RawSample
from reinforced_data.store.caption_report import caption_report, has_captioner
from reinforced_data.store.reader import ReinforcedData
from tests.reinforced_data.stubs import ListSource, encoded, make_set, picture, two_teachers

BASE = {"views_per_image": 2, "view_preset": "light", "embed_dtype": "fp32", "shard_size": 7, "batch_size": 4, "seed": 1}  # fmt: skip
NAMES = ("alpha", "open_clip:X-1/y")


def raw(number):
    made = [f"a picture number {number}", "a picture", f"it's {number % 3}, a Picture"][: 1 + number % 3]
    return RawSample(
        key=f"k{number}",
        image=encoded(picture(number)),
        captions=(
            Caption(f"Real words {number} here"),
            *(Caption(text, "synthetic:coca") for text in made),
            *([Caption("same same", "synthetic:b")] * (2 if number % 2 else 0)),
        ),
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp("set") / "set"
    make_set(ListSource([raw(n) for n in range(25)]), two_teachers(), out, **BASE)
    return ReinforcedData(out)


def rank(values, share):
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def normal(vector):
    length = math.sqrt(sum(float(x) ** 2 for x in vector))
    return [float(x) / length for x in vector]


def cos(a, b):
    return sum(x * y for x, y in zip(normal(a), normal(b), strict=True))


def means(data, teacher):
    """Per sample the mean of its unit view embeddings."""
    views = [[normal(v) for v in data.image_embeds(i, teacher)] for i in range(len(data))]
    return [[sum(column) / len(rows) for column in zip(*rows, strict=True)] for rows in views]


def test_every_figure_is_the_double_loop_s(data):
    report = caption_report(data, rivals=100)  # all others: then the draw does not matter
    assert (report["samples"], report["samples_read"], report["rivals"]) == (25, 25, 24)
    assert list(report["sources"]) == ["real", "synthetic:b", "synthetic:coca"]
    for source, facts in report["sources"].items():
        own = [[(p, c.text) for p, c in enumerate(data.text(i).captions) if c.source == source] for i in range(25)]
        texts = [text for sample in own for _, text in sample]
        words = [re.findall(r"\w+(?:'\w+)?", text.lower()) for text in texts]
        flat = [word for one in words for word in one]
        pairs = [pair for one in words for pair in itertools.pairwise(one)]
        assert facts["captions"] == len(texts)
        assert facts["samples"] == sum(bool(sample) for sample in own)
        assert facts["words_mean"] == pytest.approx(len(flat) / len(texts))
        assert (facts["words_p5"], facts["words_p95"]) == tuple(rank([len(w) for w in words], p) for p in (0.05, 0.95))
        inside = sum(len(sample) - len({text for _, text in sample}) for sample in own)
        assert facts["repeats_in_sample"] == pytest.approx(inside / len(texts))
        assert facts["repeats_in_set"] == pytest.approx(1 - len(set(texts)) / len(texts))
        assert facts["distinct_1"] == pytest.approx(len(set(flat)) / len(flat))
        assert facts["distinct_2"] == pytest.approx(len(set(pairs)) / len(pairs))
        for name in NAMES:
            images, seen = means(data, name), facts["teachers"][name]
            embeds = [data.text_embeds(i, name) for i in range(25)]
            cosines = [cos(embeds[i][p], images[i]) for i in range(25) for p, _ in own[i]]
            first = [
                all(cos(embeds[i][p], images[i]) > cos(embeds[i][p], images[j]) for j in range(25) if j != i)
                for i in range(25)
                for p, _ in own[i]
            ]
            alike = [
                np.mean([cos(embeds[i][p], embeds[i][q]) for p, _ in own[i] for q, _ in own[i] if p != q])
                for i in range(25)
                if len(own[i]) > 1
            ]
            assert seen["cosine_mean"] == pytest.approx(np.mean(cosines))
            assert seen["cosine_p10"] == pytest.approx(rank(cosines, 0.1))
            assert seen["first_share"] == pytest.approx(np.mean(first))
            assert seen["self_similarity"] == (pytest.approx(np.mean(alike)) if alike else None)
    b = report["sources"]["synthetic:b"]
    assert (b["repeats_in_sample"], b["repeats_in_set"]) == (0.5, 1 - 1 / 24)
    assert b["teachers"]["alpha"]["self_similarity"] == pytest.approx(1.0)
    assert report["sources"]["real"]["teachers"]["alpha"]["self_similarity"] is None


def test_rivals_and_samples_are_seeded(data):
    few = caption_report(data, rivals=3)
    assert few == caption_report(data, rivals=3)
    shares = [
        caption_report(data, rivals=3, seed=seed)["sources"]["synthetic:coca"]["teachers"]["alpha"]["first_share"]
        for seed in range(6)
    ]
    assert len(set(shares)) > 1
    every = caption_report(data, rivals=100)["sources"]["synthetic:coca"]["teachers"]["alpha"]["first_share"]
    assert min(shares) >= every  # with fewer rivals it is easier to be first
    part = caption_report(data, samples=10)
    assert part["samples_read"] == 10
    assert part["sources"]["real"]["captions"] == 10


def test_no_embedding_of_a_sample_counts_against_itself(data, monkeypatch):
    """Were the own image among the rivals, no caption could be strictly nearer to it."""
    for name in NAMES:
        for index in range(25):
            image = data.image_embeds(index, name)[0]
            assert image.shape == (data.teacher_facts[name].width,)
    monkeypatch.setattr(ReinforcedData, "text_embeds", lambda self, i, name: np.stack(
        [self.image_embeds(i, name).mean(0)] * len(self.text(i).captions)))  # fmt: skip
    report = caption_report(data)
    for facts in report["sources"].values():
        assert facts["teachers"]["alpha"]["first_share"] == 1.0


def test_a_set_of_one(tmp_path):
    make_set(ListSource([raw(1)]), two_teachers(), tmp_path / "one", **BASE)
    report = caption_report(ReinforcedData(tmp_path / "one"))
    assert report["rivals"] == 0
    assert report["sources"]["real"]["teachers"]["alpha"]["first_share"] is None
    columns, rows = caption_rows(report)
    assert [len(row) for row in rows] == [len(columns)] * 3


def test_whether_a_captioner_was_at_work(data, tmp_path):
    assert has_captioner(data)
    plain = [RawSample("a", encoded(picture(1)), (Caption("x"), Caption("y", "synthetic:label-template")))]
    make_set(ListSource(plain), two_teachers(), tmp_path / "plain", **BASE)
    assert not has_captioner(ReinforcedData(tmp_path / "plain"))
    assert caption_rows(None) == ((), [])


def test_the_reports_of_a_run_show_a_row_per_source(data):
    """Only the captions' part of each template: the rest needs a whole run."""
    from pathlib import Path

    import jinja2

    import distill

    report = caption_report(data)
    columns, rows = caption_rows(report)
    shown = {"caption_columns": columns, "caption_rows": rows, "captions": report}
    templates = Path(distill.__file__).parent / "templates"
    for name in ("report.md", "report.html"):
        text = (templates / name).read_text(encoding="utf-8")
        start = text.index("{% if caption_rows %}")
        part = text[start : text.index("{% endif %}", text.index("Captions", start)) + len("{% endif %}")]
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(templates),
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        tables = '{% from "tables.html" import table %}' if name.endswith("html") else ""
        made = environment.from_string(tables + part).render(shown)
        for source in ("real", "synthetic:coca", "synthetic:b"):
            assert (
                sum(
                    line.startswith(("| " + source + " ", '<tr><td data-name="source">' + source + "<"))
                    for line in made.splitlines()
                )
                == 1
            )
        assert "25 of 25 images" in made
