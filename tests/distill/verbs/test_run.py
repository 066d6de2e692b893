"""The whole job, small: what a run leaves, resume after kills in each stage, rehearsal, loading elsewhere."""

import json
import re
import shutil
import subprocess
import sys
import textwrap
from html import escape, unescape
from itertools import pairwise
from pathlib import Path

import pytest

from distill.core import atomic
from tests import forks
from tests.command_line import distill as call
from tests.command_line import on_terminal

pytestmark = pytest.mark.whole

DATA = "rendered:train=96,eval=40"
SMALL = [
    "--set", f"data={DATA}", "--set", "train.steps=6", "--set", "train.batch_size=16",
    "--set", "train.checkpoint_every=2", "--set", "reinforce.shard_size=24", "--set", "reinforce.verify=4",
    "--set", "export.parity_samples=8", "--set", "profile.runs=6", "--set", "profile.warmup_runs=1",
    "--set", "export.targets=['coreml', 'onnx']",  # ExecuTorch takes longer than all the rest; tests/export has it
]  # fmt: skip
TRAINED_ONLY = ["--set", "export.targets=[]", "--set", "profile.enabled=false"]  # `finished` has files and latencies


def small(out, teacher, *more):
    """Arguments of a small run into `out`."""
    return ["run", "--teacher", str(teacher), "--out", str(out), *SMALL, *more]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_teacher):
    """One small run, finished by a process of its own: (folder, its --json object)."""
    folder = tmp_path_factory.mktemp("run")
    process = forks.start(*small(folder / "a", tiny_teacher, "--json"), log=folder / "log")
    return folder / "a", json.loads(forks.finish(process, folder / "log"))


@pytest.mark.parametrize("columns", [80, 120])
def test_terminals_and_pipes_get_whole_headers_and_nothing_wider(finished, columns, monkeypatch):
    """What run, report, compare, profile, doctor and devices print, of a finished run; progress is overwritten in place."""
    place, out = finished[0].parent, finished[0].name  # short: a path is never folded
    headers = {
        ("run", "--out", out, "--resume"): [
            "top-1",
            "T2I R@1",
            "I2T R@1",
            "ms image/text",
            "parity",
            "[9/9] report: done in",
        ],
        ("compare", out, out): ["zero-shot top-1", "T2I R@1", "I2T R@1", "MB (fp32)", "front", "not distinguishable"],
        ("export", out, "--target", "onnx"): [
            "onnx-fp32/image.onnx",
            "onnx-fp32/text.onnx",
            "MB",
            "min cosine",
            "artifact.json has",
        ],
        ("list",): ["targets", "students", "distill list keys", "--data"],
        ("profile", out, "--device", "iphone-15", "--device", "galaxy-s24"): ["precision", "image, ms", "text, ms"],
        ("doctor",): ["torch", "target onnx", "disk"],
        ("devices",): ["host"],
    }
    monkeypatch.setenv("COLUMNS", str(columns))
    for words, named in headers.items():
        sent = on_terminal(columns, *words, cwd=place)
        assert sent.returncode == 0, sent.stdout[-2000:]
        shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", sent.stdout)
        lines = [part for line in shown.splitlines() for part in line.split("\r")]
        assert max(map(len, lines)) <= columns, max(lines, key=len)
        assert "…" not in shown
        assert "0/?" not in shown
        told = " ".join(shown.split())
        for header in named:
            assert header in told or all(word in told for word in header.split()), header
        piped = call(*words, cwd=place)
        assert max(map(len, piped.stdout.splitlines())) <= columns


def test_what_an_export_and_an_evaluation_print_fits(finished, monkeypatch, capsys):
    from distill.cli import shown
    from distill.verbs.results import EvalResult, ExportResult

    out, _ = finished
    rows = [row for file in sorted(out.glob("export/*/artifact.json")) for row in atomic.read_json(file)]
    figures = atomic.read_json(out / "eval" / "student.json")
    for columns in (80, 120):
        monkeypatch.setenv("COLUMNS", str(columns))
        shown.show_exported(ExportResult(out / "export", rows, {"onnx-w8": "it failed parity " * 9}))
        shown.show_figures(EvalResult("student", figures["retrieval"], figures["zero_shot"]))
        said = capsys.readouterr().out
        assert max(map(len, said.splitlines())) <= columns
        for header in ("min cosine", "same top-1", "R@1 points", "R@10"):
            assert all(word in said for word in header.split())
        assert f"{figures['retrieval']['t2i_r5']:.1f} (" in said


def test_the_table_and_the_reports_say_what_the_files_say(finished):
    out, facts = finished
    assert [row["role"] for row in facts["table"]] == ["teacher", "student", "plain student"]
    for row, role in zip(facts["table"], ("tiny", "student", "plain"), strict=True):
        name = "rendered-teacher" if role == "tiny" else role
        measured = atomic.read_json(out / "eval" / f"{name}.json")
        assert row["zero_shot_top1"] == measured["zero_shot"]["top1"]
        assert row["t2i_r1"] == measured["retrieval"]["t2i_r1"]
        assert row["image_p50_ms"] > 0
    assert facts["table"][1]["parity"] > 0.999
    text = (out / "report.md").read_text()
    assert f"{facts['table'][1]['t2i_r1']:.1f}" in text
    assert "not measured" in text
    html = (out / "report.html").read_text()
    # size, a phone's latency, training, losses, both predicted towers, this host's latency
    assert html.count("<svg") == 7
    for outside in ("http://", "https://", "src="):
        assert outside not in html.replace('src="data:image/jpeg;base64,', "").replace("http://www.w3.org", "").replace(
            "http://purl.org", ""
        ).replace("http://creativecommons.org", "").replace("https://matplotlib.org", "")


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not here (Debian: apt install chromium)")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_report_fits_a_phone_and_a_desk(finished, tmp_path, width):
    """A real browser lays it out: nothing is wider than the window, every picture is there, and no script complains."""
    ask = (
        "const page = document.querySelector('iframe').contentDocument; const images = [...page.images];"
        "document.title = [page.documentElement.clientWidth, page.documentElement.scrollWidth, images.length,"
        "images.filter((image) => !image.naturalWidth).length].join(' ')"
    )
    report = escape((finished[0] / "report.html").read_text())
    frame = f'<iframe style="border:0;width:{width}px;height:900px" srcdoc="{report}" onload="{ask}"></iframe>'
    (tmp_path / "page.html").write_text(f"<!doctype html><meta charset=utf-8>{frame}")
    words = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path}/chrome",
        "--window-size=1400,1000",
    ]
    words += ["--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom", (tmp_path / "page.html").as_uri()]
    done = subprocess.run(["chromium", *words], capture_output=True, text=True, timeout=60, check=True)
    inner, wide, pictures, broken = map(int, re.search(r"<title>(\d+ \d+ \d+ \d+)</title>", done.stdout)[1].split())
    assert inner in range(width - 20, width + 1)  # less a scroll bar
    assert wide <= inner
    assert (pictures > 0, broken) == (True, 0)
    assert "CONSOLE" not in done.stderr


def test_every_file_is_there_with_its_facts(finished):
    out, _ = finished
    for name in (
        "recipe.toml",
        "resolved.json",
        "metrics.jsonl",
        "log.txt",
        "hashes.json",
        "student/card.json",
        "plain/student/card.json",
    ):
        assert (out / name).is_file(), name
    for target in ("onnx-fp32", "coreml-fp16"):
        towers = atomic.read_json(out / "export" / target / "artifact.json")
        assert [tower["tower"] for tower in towers] == ["image", "text"]
        terms = atomic.read_json(out / "student" / "card.json")["licence"]
        assert all("Apache-2.0" in tower["licence"] == terms for tower in towers)
        assert terms in (out / "export" / target / "LICENSE").read_text()
        assert terms in (out / "report.md").read_text()
        assert "rendered" in towers[0]["provenance"]["samples"]
        assert "Apache-2.0" in towers[0]["provenance"]["samples"]
        golden = atomic.read_json(out / "export" / target / "golden.json")
        assert len(golden["captions"]) == len(golden["photos"]) == 4
    assert "MIL program" in atomic.read_json(out / "export/coreml-fp16/artifact.json")[0]["parity"]["checked_by"]
    resolved = atomic.read_json(out / "resolved.json")
    assert resolved["versions"]["torch"]
    assert atomic.read_json(out / "inheritance.json")["towers"] == ["visual", "text"]
    assert atomic.read_json(out / "plain/inheritance.json")["strategy"] == "none"
    assert not list(out.rglob(".partial-*"))


def test_the_exported_files_give_the_students_retrieval(finished):
    """The .onnx towers, run by onnxruntime on the eval images, rank as the eager student does."""
    import numpy as np
    import onnxruntime

    from distill.evaluation.evalset import load_evalset, pixels, student_embedder
    from distill.evaluation.metrics import retrieval
    from reinforced_data.source import open_source
    from students.student import load_student

    out, facts = finished
    student = load_student(out / "student")
    data = load_evalset(open_source(DATA, "eval"))
    images = pixels([(s.key, s.image) for s in data.samples], 64)
    texts = [c.text for s in data.samples for c in s.captions]
    owner = np.repeat(np.arange(40), 5)

    def session(tower):
        made = onnxruntime.InferenceSession(str(out / "export/onnx-fp32" / f"{tower}.onnx"))
        name = made.get_inputs()[0].name
        return lambda x: np.concatenate([made.run(None, {name: row[None]})[0] for row in x])

    tokens = student.tokenize(texts).numpy().astype(np.int32)
    exported = retrieval(session("image")(images), session("text")(tokens), owner)
    assert exported["t2i_r1"] == pytest.approx(facts["table"][1]["t2i_r1"], abs=0.2)
    eager = student_embedder(student, "s").texts(texts)
    assert np.abs(session("text")(tokens) - eager).max() < 1e-5


def test_open_clip_loads_the_trained_student_with_equal_outputs(finished):
    import open_clip
    import torch

    from students.student import load_student

    out, _ = finished
    student = load_student(out / "student")
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{out / 'student'}")
    x = torch.rand(4, 3, 64, 64)
    with torch.no_grad():
        theirs = model.eval().encode_image(preprocess.transforms[-1](x), normalize=True)
        assert torch.allclose(theirs, student.encode_image(x), atol=1e-6)


def test_the_page_holds_no_less_than_the_text(finished):
    """Every word of report.md is in report.html, and every cell of its tables; titles apart."""
    out, _ = finished
    page = unescape(re.sub(r"<[^>]+>", " ", (out / "report.html").read_text(encoding="utf-8")))
    words, whole = set(re.findall(r"[\w.%-]+", page)), " ".join(page.split())
    lines = (out / "report.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) > 60
    for line, below in pairwise(lines):
        if line.startswith(("#", "|--", "```")) or below.startswith("|--"):
            continue
        if line.startswith("| "):
            told = [
                word for word in re.findall(r"[\w.%-]+", line) if word not in words
            ]  # a number is a word of its own
            missing = [word for word in told if word[0].isdigit() or word not in whole]
        else:
            missing = [word for word in re.findall(r"[\w%-]+", line.lstrip("-*0123456789. ")) if word not in whole]
        assert missing == [], line


def test_the_lines_for_the_app_give_the_golden_embeddings(finished, tmp_path, capsys):
    """As they stand in the report, run in the run folder, on a golden photo and its caption."""
    from safetensors.numpy import load_file

    out, facts = finished
    folder = out / "export" / "onnx-fp32"
    golden, tensors = json.loads((folder / "golden.json").read_text()), load_file(folder / "golden.safetensors")
    photo = next(file for file in sorted(folder.glob("golden-photo-0.*")))
    assert [line["language"] for line in facts["app"]["code"]] == ["python", "swift"]
    lines = (
        facts["app"]["code"][0]["code"].replace('"photo.jpg"', repr(str(photo))).replace('"export/', f'"{out}/export/')
    )
    lines = lines.replace('"a red circle"', repr(golden["captions"][0]))
    found = {}
    exec(lines, found)
    np = found["np"]
    for name, key in (("image", "image_embeddings"), ("text", "text_embeddings")):
        assert np.abs(found[name][0] - tensors[key][0]).max() < 2e-3, name
    assert (
        f"cosine {float(tensors['image_embeddings'][0] @ tensors['text_embeddings'][0]):.2f}"[:9]
        in capsys.readouterr().out
    )


def test_the_open_clip_lines_of_the_docs_work_as_they_are_written(finished, tmp_path):
    page = (Path(__file__).parents[3] / "docs" / "run.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"open_clip loads the student without our code:\n\n((?:    .*\n|\n)+)", page)
    script = textwrap.dedent(lines).replace("runs/nano-from-rendered/student", str(finished[0] / "student"))
    check = "\nassert tokenizer(['a red circle']).shape[0] == 1\nassert model.visual is not None\n"
    subprocess.run([sys.executable, "-c", script + check], cwd=tmp_path, check=True)


def test_resume_of_a_finished_run_changes_no_hash(finished, tiny_teacher):
    out, _ = finished
    before = (out / "hashes.json").read_bytes()
    times = {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}
    result = call(*small(out, tiny_teacher, "--resume"))
    assert result.returncode == 0, result.stderr[-3000:]
    assert (out / "hashes.json").read_bytes() == before
    assert times == {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}


def test_kills_in_each_stage_and_resume_give_the_same_hashes(finished, tiny_teacher, tmp_path):
    """Each run goes on, by its folder alone, from what the one before had left when it was killed; benchmarks/kills.py does ten
    over the default run."""
    out = tmp_path / "b"
    moments = {
        "labelling": lambda: any(out.glob("reinforced/shard-*.arrow")),
        "training": lambda: any(out.glob("checkpoints/step-*/state.json")),
        "export": lambda: any(out.glob("export/logs/*.log")),
    }
    words = small(out, tiny_teacher, "--set", "export.targets=['onnx']", "--set", "profile.enabled=false")
    again = ["run", out, "--resume"]
    for stage, reached in moments.items():
        forks.kill_when(forks.start(*words, log=tmp_path / stage), reached)
        words = again
        assert not (out / "hashes.json").exists()
    forks.finish(forks.start(*again, log=tmp_path / "last"), tmp_path / "last")
    whole = atomic.read_json(finished[0] / "hashes.json")
    expected = {name: value for name, value in whole.items() if not name.startswith("export/coreml")}
    assert atomic.read_json(out / "hashes.json") == expected
    assert len(expected) == len(whole) - 2


def test_compare_eval_profile_and_report_read_a_run(finished, tmp_path):
    import distill

    out, facts = finished
    result = distill.compare([out, out])
    assert len(result.table) == 6
    assert result.warnings == []
    other = tmp_path / "other"
    shutil.copytree(out, other)
    resolved = atomic.read_json(other / "resolved.json")
    resolved["versions"]["torch"] = "2.12.0"
    resolved["recipe"]["profile"]["threads"] = 4
    atomic.write_json(other / "resolved.json", resolved)
    unlike = distill.compare([out, other])
    (warning,) = unlike.warnings
    assert "torch's version: " in warning
    assert f"2.12.0 ({other})" in warning
    assert "profile.threads: 1 (" in warning
    assert "host" not in warning.partition("alike. ")[2]
    assert {row["image_p50_ms"] for row in unlike.table} == {None}
    assert {row["image_p50_ms"] for row in result.table} != {None}
    again = distill.eval(out, data=DATA)
    assert again.retrieval["t2i_r1"] == facts["table"][1]["t2i_r1"]
    assert distill.report(out).table == facts["table"]
    rows = distill.profile(out, settings={"profile.runs": 2, "profile.rounds": 1, "profile.warmup_runs": 1}).profiles
    assert {row["source"] for row in rows} == {"measured", "not measured"}
    assert all(row["p50_ms"] is None for row in rows if row["source"] == "not measured")


def test_the_demo_of_a_run_has_its_student_and_its_teacher(finished, capsys):
    import distill
    from distill.core.errors import UsageError

    opened = []
    distill.demo(finished[0], limit=6, until=opened.append)
    assert opened
    assert opened[0].startswith("http://127.0.0.1:")
    assert re.search(r"6 photos, \S+ \(student\), .*tiny \(teacher\)\. Open, once", capsys.readouterr().err)
    with pytest.raises(UsageError, match="evla"):  # a run's own recipe takes settings too
        distill.demo(finished[0], settings={"evla.limit": 3}, until=opened.append)
    assert len(opened) == 1


def test_a_pushed_student_is_a_model_of_the_hub(finished, tmp_path, monkeypatch):
    """Into a folder that open_clip loads, with a card that the hub's own library reads; and what would be sent to the hub."""
    import open_clip
    import torch
    from huggingface_hub import ModelCard
    from huggingface_hub.errors import LocalTokenNotFoundError

    import distill
    from distill.core.errors import OutputExistsError, UsageError

    out, facts = finished
    pushed = distill.push(out, tmp_path / "hub")
    assert {"README.md", "model.safetensors", "report.html", "export/onnx-fp32/image.onnx"} <= set(pushed.files)
    assert not [name for name in pushed.files if "profile" in name]
    card = ModelCard.load(tmp_path / "hub" / "README.md")
    assert card.data.library_name == "open_clip"
    assert card.data.license == "apache-2.0"
    assert {"coreml", "onnx"} <= set(card.data.tags)
    figures = {(found.task_type, found.metric_name): found.metric_value for found in card.data.eval_results}
    student = facts["table"][1]
    assert figures["zero-shot-image-classification", "zero-shot top-1"] == student["zero_shot_top1"]
    assert figures["image-text-retrieval", "text-to-image R@1"] == student["t2i_r1"]
    assert f"{student['t2i_r1']:.1f}" in card.text
    model = open_clip.create_model(f"local-dir:{tmp_path / 'hub'}")
    own = distill.load_student(out / "student")
    pixels = torch.rand(1, 3, own.image_size, own.image_size, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (own.spec.mean, own.spec.std))
    with torch.inference_mode():
        theirs = model.eval().encode_image((pixels - mean) / std, normalize=True)
        assert torch.allclose(theirs, own.encode_image(pixels), atol=1e-6)
    with pytest.raises(OutputExistsError):
        distill.push(out, tmp_path / "hub")
    assert not [
        name for name in distill.push(out, tmp_path / "hub", exports=False, overwrite=True).files if "export/" in name
    ]

    sent = {}

    class Hub:
        def create_repo(self, repo, **given):
            sent["private"] = given["private"]
            if repo == "nobody/x":
                raise LocalTokenNotFoundError("no token")
            return f"hub/{repo}"

        def upload_folder(self, repo_id, folder_path, **given):
            sent[repo_id] = {path.name for path in Path(folder_path).iterdir()}

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    assert distill.push(out, "hf:me/student").place == "hub/me/student"
    assert sent["private"] is True
    assert {"README.md", "model.safetensors", "export"} <= sent["me/student"]
    with pytest.raises(UsageError, match="hf auth login"):
        distill.push(out, "hf:nobody/x")
    with pytest.raises(UsageError, match="ORG/NAME"):
        distill.push(out, "hf:student")


def test_a_folder_of_ones_own_photos_with_one_corrupt_runs(tmp_path, tiny_teacher):
    from PIL import Image

    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(40):
        Image.new("RGB", (90, 70), (index * 6, 100, 255 - index * 6)).save(photos / f"{index:02}.jpg")
        (photos / f"{index:02}.txt").write_text(f"a picture of shade {index}\n")
    (photos / "05.jpg").write_bytes(b"not an image")
    result = call(
        *small(tmp_path / "o", tiny_teacher), "--data", photos, "--set", f"data='{photos}'", "--set", "train.batch_size=8",
        "--set", "train.steps=2", *TRAINED_ONLY, "--set", "baseline.enabled=false", "--json",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    facts = json.loads(result.stdout)
    assert facts["table"][0]["zero_shot_top1"] is None  # no labels, so no figure
    assert [item["key"] for item in facts["rejected"]] == ["05.jpg"]
    assert facts["samples"] + facts["evals"][0]["retrieval"]["images"] == 39


def test_four_arms_stand_in_the_report_as_they_were_measured(tmp_path, tiny_teacher):
    out = tmp_path / "four"
    result = call(
        *small(out, tiny_teacher), "--set", "baseline.four_arms=true", *TRAINED_ONLY, "--json",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    text = (out / "report.md").read_text()
    for arm, role, inherits, teacher in (
        ("plain", "plain", False, False),
        ("distilled, random start", "random-start", False, True),
        ("inherited, no teacher", "no-teacher", True, False),
        ("inherited and distilled", "student", True, True),
    ):
        figures = atomic.read_json(out / "eval" / f"{role}.json")
        cells = [figures["zero_shot"]["top1"], figures["retrieval"]["t2i_r1"], figures["retrieval"]["i2t_r1"]]
        assert f"| {arm} | " + " | ".join(f"{value:.1f}" for value in cells) + " |" in text
        card = atomic.read_json(out / ("" if role == "student" else role) / "student" / "card.json")
        assert bool(card["inherited"]["towers"]) == inherits
        assert bool(card["teachers"]) == teacher


def test_a_rehearsal_is_marked_everywhere(tmp_path, tiny_teacher):
    out = tmp_path / "r"
    result = call(*small(out, tiny_teacher), "--rehearse", "--set", "export.targets=['onnx']")
    assert result.returncode == 0, result.stderr[-2000:]
    assert "REHEARSAL" in result.stdout
    for name in ("report.md", "report.html", "student/card.json", "log.txt", "profile.json"):
        assert "REHEARSAL" in (out / name).read_text(), name
    assert all("rehearsal" in atomic.read_json(path) for path in (out / "eval").glob("*.json"))
    assert atomic.read_json(out / "export/onnx-fp32/artifact.json")[0]["provenance"]["rehearsal"]


def test_after_a_failed_gate_the_rest_is_done_and_other_thresholds_go_on(finished, tmp_path, tiny_teacher):
    """A bar that no fp16 file reaches: coreml fails, onnx, report and latencies are there; a lower bar continues the run."""
    out = tmp_path / "run"
    shutil.copytree(finished[0], out)
    shutil.rmtree(out / "export" / "coreml-fp16")  # the .onnx files are whole and stay
    (out / "profile.json").unlink()
    targets = ["--target", "coreml", "--target", "onnx"]
    failed = call(*small(out, tiny_teacher, "--resume", *targets, "--set", "export.min_cosine=0.99999999"))
    assert failed.returncode == 1
    assert "coreml" in failed.stderr
    assert "export.min_cosine" in failed.stderr.splitlines()[-1]
    text = (out / "report.md").read_text()
    assert "coreml-fp16.failed-parity** is not counted: failed parity" in text
    measured = [row for row in atomic.read_json(out / "profile.json")["exported"] if row["source"] == "measured"]
    assert {row["runtime"].split()[0].lower() for row in measured} & {"onnx", "onnxruntime"}
    refused = call("profile", out / "export" / "coreml-fp16.failed-parity")
    assert refused.returncode == 2
    assert "failed parity" in refused.stderr
    again = call(
        "run", out, "--resume", "--set", "export.min_cosine=0.999", "--json"
    )  # the rest is as the run keeps it
    assert again.returncode == 0, again.stderr
    facts = json.loads(again.stdout)
    assert {row["runtime"].split()[0] for row in facts["profiles"]} >= {
        "Core"
    }  # timed anew, with the file that came later
    assert {row["target"] for row in facts["exports"]} == {"coreml", "onnx"}
    assert facts["exports_left_out"] == {}
    assert facts["recipe"]["export"]["targets"] == ["coreml", "onnx"]
