"""The benchmark scripts at their smallest: that they run, keep what they measured, and count what they print."""

import json
import signal
import subprocess
import sys
import time
import weakref
from dataclasses import replace

import pytest
import torch

from benchmarks.gpu_arms import training
from benchmarks.gpu_arms.bench import SMOKE, Bench, flops_of
from benchmarks.samples_to_accuracy import main, start_of, table
from distill.core.errors import DeviceMemoryError, UsageError
from students.spec import STUDENTS


@pytest.fixture(autouse=True)
def students_of_its_own(monkeypatch):
    """Benchmarks register students, which other tests must not find."""
    assert "nano" in STUDENTS  # its modules are read
    monkeypatch.setattr(STUDENTS, "_entries", dict(STUDENTS._entries))


def test_arms_are_read_and_wrong_ones_refused():
    assert (start_of("taylor@100-50-25").shares, start_of("random@50").strategy) == ((50, 25), "random")
    assert start_of("front+repair@50").repair
    for wrong in ("taylor", "taylor@", "taylor@25-50", "taylor@50-50", "taylor+glue@50", "taylor@half"):
        with pytest.raises(UsageError, match="no arm"):
            start_of(wrong)


def test_the_samples_to_reach_are_counted_on_the_mean_and_by_the_student_alone():
    def run(values, stage=0):
        marks = [{"stage": 1}] * stage + [{}] * len(values)
        return [
            {"samples": 10 * i, "t2i_r1": v, "top1": v, **mark}
            for i, (v, mark) in enumerate(zip(values, marks, strict=False), 1)
        ]

    curves = {
        "random@25": [run([1, 2, 30]), run([1, 2, 10])],  # ends at 20
        "taylor@25": [run([19, 29, 40]), run([20, 12, 40])],  # 19.5, then 20.5
        "front@25": [run([1, 2, 3]), run([1, 2, 3])],
        "taylor@50-25": [run([90, 2, 25], stage=1), run([90, 2, 25], stage=1)],
    }
    rows = {line.split("|")[1].strip(): line for line in table(curves, "random@25").splitlines()[2:]}
    assert "20 (67%)" in rows["`taylor@25`"]
    assert "20.0 (10.0 to 30.0)" in rows["`random@25`"]
    assert "never" in rows["`front@25`"]
    assert "30 (100%)" in rows["`taylor@50-25`"]


@pytest.mark.whole
def test_a_small_call_goes_through_stages_and_the_next_one_measures_nothing_again(tmp_path, capsys):
    call = ["--out", str(tmp_path), "--seeds", "0", "--points", "1", "--arms", "front@100-50-25"]
    call += ["--set", "data=rendered:train=24,eval=8", "--set", "train.steps=2", "--set", "train.batch_size=8"]
    main(call)
    said = capsys.readouterr().out
    assert "16 samples each, seeds 0" in said
    assert "27% of the source's weights kept" in said
    rows = json.loads((tmp_path / "front@100-50-25-0" / "curve.json").read_text())
    assert [(row["samples"], row.get("stage")) for row in rows] == [(8, 1), (16, None)]
    rows[-1]["top1"] = 77.7  # what is there is taken as it is
    (tmp_path / "front@100-50-25-0" / "curve.json").write_text(json.dumps(rows))
    main(call)
    assert "77.7" in capsys.readouterr().out


# Of our dependencies, what a machine for GPU work lacks although benchmarks.gpu is to run there.
ABSENT = ("datasets", "simplejpeg", "tomli_w", "datatrove", "coremltools", "executorch", "segno")

BARE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent!r}:
            raise ImportError(name + " is not on this machine")
sys.meta_path.insert(0, Absent())
from benchmarks.gpu import main
main(["--smoke", "--out", {out!r}])
"""


@pytest.mark.process
def test_the_gpu_script_takes_every_figure_where_torch_and_timm_are_alone(tmp_path):
    call = [sys.executable, "-c", BARE.format(absent=ABSENT, out=str(tmp_path))]
    done = subprocess.run(call, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert list(found) == [
        "device", "step nano, bf16", "labelling rendered, bf16", "labelling rendered, no",
        "full teacher nano", "from the store nano", "evaluation nano", "step nano, tf32",
    ]  # fmt: skip
    for part, figures in found.items():
        assert not {"failed", "not measured"} & figures.keys(), (part, figures)
    assert found["step nano, bf16"]["samples_per_s"] > 0
    assert found["labelling rendered, bf16"]["labelled_views_per_s_by_threads"] > 0
    assert found["labelling rendered, bf16"]["labelled_views_per_s_by_1_processes"] > 0
    full = found["full teacher nano"]
    assert full["verified"]
    assert full["labelled_views_per_s"] > 0
    assert (full["data"], full["steps"]) == ("synthetic", 4)
    assert "not measured on a GPU" in (tmp_path / "gpu.md").read_text()


@pytest.fixture
def bench(tmp_path):
    return Bench("cpu", SMOKE, tmp_path, time.monotonic() + 60)


def test_a_part_that_fails_takes_too_long_or_comes_too_late_costs_no_other_part_of_the_gpu_script(bench):
    def fails():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def never_ends():
        while True:
            time.sleep(0.001)

    bench.part("first", lambda: {"samples_per_s": 1.5})
    bench.part("wrong", fails)
    bench.part("slow", never_ends, 0.05)
    bench.part("fourth", lambda: {"samples_per_s": 2.5})
    bench.ends = time.monotonic() + 0.05
    bench.part("at the end", never_ends)
    bench.part("too late", never_ends)
    found = json.loads((bench.out / "gpu.json").read_text())
    assert (found["first"]["samples_per_s"], found["fourth"]["samples_per_s"]) == (1.5, 2.5)
    assert "illegal memory access" in found["wrong"]["failed"]
    assert all("stopped after" in found[name]["not measured"] for name in ("slow", "at the end"))
    assert found["too late"] == {"not measured": "no time was left"}
    assert "| fourth | samples per s 2.5 |" in (bench.out / "gpu.md").read_text()
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_batch_that_does_not_fit_is_let_go_of_before_the_next_one_is_tried(bench, monkeypatch):
    """Else the peak of the one that fits would be that of the one that did not."""
    held, seen, free = [], [], Bench.free

    class Model:
        def __init__(self):
            self.itself = self  # as accelerate's

    def steps(bench, name, precision, compiled, size):
        model = Model()
        held.append(weakref.ref(model))
        if size > 4:
            raise DeviceMemoryError("out of memory")
        return {"batch": size}

    monkeypatch.setattr(training, "_steps", steps)
    monkeypatch.setattr(Bench, "free", lambda self: (free(self), seen.append([ref() for ref in held])))
    bench.sizes = replace(SMOKE, batches=(16, 8, 4))
    assert training.step_part(bench, "nano", "bf16", False) == {"batch": 4}
    assert seen == [[None], [None, None]]


def test_operations_of_attention_are_counted_with_and_without_gradients():
    """Against the products of a transformer layer as its authors wrote it: 4 projections, scores, their sum, two layers of 4 d."""
    rows, tokens, width = 2, 10, 16
    layer = torch.nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True).eval()
    inputs = torch.randn(rows, tokens, width)
    products = 2 * rows * tokens * (4 * width**2 + 2 * tokens * width + 8 * width**2)
    with torch.no_grad():
        assert flops_of(lambda: layer(inputs)) == products
    inputs.requires_grad_()
    assert flops_of(lambda: layer(inputs).sum().backward()) == 3 * products


def test_the_cost_of_a_step_is_split_without_a_rest_that_nobody_names(capsys):
    import re

    from benchmarks.step_cost import main

    main(["--smoke"])
    said = capsys.readouterr().out
    shares = dict(re.findall(r"^(.+): ([\d.]+)%$", said, re.MULTILINE))
    assert set(shares) == {"rest", "forward", "backward", "clipping and AdamW", "waiting for data"}
    assert sum(map(float, shares.values())) == pytest.approx(100, abs=3)
    assert all(float(shares[name]) > 0 for name in ("forward", "backward", "clipping and AdamW"))
    assert all(re.search(rf"^{pair}: \d", said, re.MULTILINE) for pair in ("store : plain", "live : store"))


def test_losses_by_blocks_and_at_once_are_the_same_number():
    from benchmarks.loss_memory import measure
    from distill.learning import blocks

    before = blocks.BLOCK
    try:
        found = [measure(256, 32, "clipkd", block)[2] for block in (2**10, 2**62)]
    finally:
        blocks.BLOCK = before
    assert found[0] == pytest.approx(found[1], rel=1e-5)
