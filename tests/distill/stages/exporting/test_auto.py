"""The choice of a precision by measured loss: order, budgets, and what is kept of it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distill.console import Console
from distill.core.errors import DistillError
from distill.recipe import Recipe, load_recipe
from distill.run_folder import RunFolder
from distill.stages.exporting import auto
from distill.stages.exporting.auto import Tried, _mixtures, candidates, choose, within
from distill.stages.exporting.sensitivity import LayerLoss, steps
from export.artifacts.folder import FAILED_PARITY, read_artifacts, write_artifacts
from export.artifacts.record import ExportArtifact, ParityReport
from export.target import chosen_targets, get_target

# precision -> megabytes of a tower, points that it loses; None fails parity.
FILES: dict[str, tuple[float, dict[str, float]] | None] = {
    "w8a8": None,
    "w8a8-dynamic": (1.0, {"t2i_r1": 0.9, "i2t_r1": -0.3}),
    "w8": (1.1, {"t2i_r1": 0.4, "i2t_r1": 0.5}),
    "fp16": (2.0, {"t2i_r1": 0.0, "i2t_r1": 0.1}),
    "fp32": (4.0, {"t2i_r1": 0.0, "i2t_r1": 0.0}),
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`choose` for ONNX over FILES, in the place of real conversions: (settings) -> run folder, names made in order."""
    made: list[str] = []

    kept_in: list[dict[str, list[str]]] = []

    def make(name: str, out: Path, kept: dict[str, list[str]] | None = None) -> None:
        made.append(name if kept is None else f"{name}+{sum(map(len, kept.values()))}")
        kept_in[:] = [kept or {}]
        precision = name.removeprefix("onnx-")
        facts, folder = FILES[precision], out / name
        if kept and facts is not None:
            facts = (facts[0] + sum(map(len, kept.values())) / 10, facts[1])
            shutil.rmtree(folder, ignore_errors=True)
        if facts is None:
            folder.with_name(name + FAILED_PARITY).mkdir(parents=True)
            raise DistillError("The exported files do not say it: cosine 0.1. They are kept.")
        folder.mkdir(parents=True)
        parity, artifacts = ParityReport("x", 1.0, 1.0, 1.0, 1), []
        for tower in ("image", "text"):
            (folder / f"{tower}.onnx").write_text(precision)
            artifacts.append(
                ExportArtifact("onnx", precision, tower, f"{tower}.onnx", int(facts[0] * 1e6), "0", {}, {}, 1.0, {}, parity=parity, runs_on="")
            )  # fmt: skip
        write_artifacts(folder, artifacts)

    class Judged:
        def __init__(self, folder: Path, threads: int) -> None:
            self.lost = dict((FILES[folder.name.removeprefix("onnx-")] or (0, {}))[1])
            if "image.b" in kept_in[0].get("image", []):  # the layer that all the loss comes from
                self.lost = dict.fromkeys(self.lost, 0.05)

        def __enter__(self) -> "Judged":
            return self

        def __exit__(self, *_: object) -> None:
            pass

    def figures(model: Judged, *_: object) -> dict[str, Any]:
        return {"retrieval": {name: 50.0 - points for name, points in model.lost.items()}, "zero_shot": None}

    monkeypatch.setattr(auto, "_limited", lambda recipe, samples: None)
    monkeypatch.setattr(auto, "_figures", lambda *_: {"t2i_r1": 50.0, "i2t_r1": 50.0})
    monkeypatch.setattr(auto, "exported_embedder", Judged)
    monkeypatch.setattr("distill.evaluation.evalset.evaluate_model", figures)

    def go(measure: Any = None, **settings: Any) -> tuple[RunFolder, list[str]]:
        made.clear()
        folder = RunFolder(tmp_path / "run")
        shutil.rmtree(folder.path, ignore_errors=True)
        recipe: Recipe = load_recipe(None, {f"export.{key}": value for key, value in settings.items()})
        choose(recipe, folder, get_target("onnx-auto"), make, Console(), measure)
        return folder, made

    return go


def test_the_smallest_that_loses_no_more_than_it_may(run: Any) -> None:
    folder, made = run(max_drop=0.5)
    assert made == ["onnx-w8a8", "onnx-w8a8-dynamic", "onnx-w8"]  # it stops at the first that holds
    assert [path.name for path in folder.export.iterdir()] == ["onnx-w8"]
    told = read_artifacts(folder.export / "onnx-w8")[0].provenance["precision"]["tried"]
    assert [item["verdict"] for item in told] == [
        "failed parity (The exported files do not say it: cosine 0.1)", "loses 0.90 points, more than 0.5", "chosen",
    ]  # fmt: skip
    assert told[2]["lost"] == {"t2i_r1": 0.4, "i2t_r1": 0.5}
    assert json.dumps(told)
    folder, made = run(max_drop=0.2)
    assert made[-1] == "onnx-fp16"


def test_the_most_exact_that_fits(run: Any) -> None:
    assert run(max_mb=5.0)[1] == ["onnx-fp32", "onnx-fp16"]
    assert run(max_mb=2.5, max_drop=0.5)[1][-1] == "onnx-w8"
    with pytest.raises(
        DistillError, match=r"onnx holds the budget of 0.1 points and 2.5 MB: .*w8: loses 0.50 points.*--max-mb"
    ):
        run(max_mb=2.5, max_drop=0.1)


def test_one_that_cannot_be_made_does_not_stop_the_others(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A converter that fails is told with its first sentence, and its log stays when the scratch folder goes."""
    real = auto._try

    def broken(precision: str, name: str, scratch: Path, *rest: Any) -> Tried:
        def fail(name: str, out: Path) -> None:
            (out / "logs").mkdir(parents=True, exist_ok=True)
            (out / "logs" / f"{name}.log").write_text("why")
            raise DistillError("Exporting to onnx failed (status 1). Its last lines: x")

        return real(precision, name, scratch, *rest[:-1], fail if precision == "w8" else rest[-1])

    monkeypatch.setattr(auto, "_try", broken)
    folder, made = run(max_drop=0.5)
    assert made[-1] == "onnx-fp16"
    told = read_artifacts(folder.export / "onnx-fp16")[0].provenance["precision"]["tried"]
    assert told[2]["verdict"] == "not made (Exporting to onnx failed (status 1))"
    assert (folder.export / "logs" / "onnx-w8.log").read_text() == "why"


LOSSES = [
    LayerLoss("image", "image.a", 4000, 0.001),
    LayerLoss("image", "image.b", 3000, 0.08),
    LayerLoss("text", "text.a", 90_000, 0.002),
    LayerLoss("text", "text.b", 4000, 0.0),
]


def test_the_sensitive_layer_stays_in_floats(run: Any) -> None:
    """Before a larger precision is tried: the layer that loses most alone, and what was kept and why is told."""
    asked: list[str] = []

    def measure(precision: str) -> list[LayerLoss]:
        asked.append(precision)
        return LOSSES

    folder, made = run(measure, max_drop=0.2)
    # int8 that fails parity is mixed too; then the dynamic one, which holds with one layer in floats.
    assert made == ["onnx-w8a8", "onnx-w8a8+1", "onnx-w8a8+2", "onnx-w8a8-dynamic", "onnx-w8a8-dynamic+1"]
    assert asked == ["w8a8", "w8a8-dynamic"]
    told = read_artifacts(folder.export / "onnx-w8a8-dynamic")[0].provenance["precision"]
    assert told["kept"] == {"image": {"image.b": 0.08}}
    assert told["tried"][-1]["verdict"] == "chosen"
    assert Tried("w8", 1.0, {}, "chosen", told["kept"]).line() == "w8 with 1 of image in floats: chosen; 1.0 MB"


def test_a_mixture_that_would_not_fit_is_not_made(run: Any) -> None:
    with pytest.raises(DistillError, match="No precision of onnx holds the budget"):
        run(
            lambda _: [LayerLoss("text", "text.a", 90_000, 0.5), LayerLoss("image", "image.b", 30_000, 0.4)],
            max_mb=1.05,
            max_drop=0.01,
        )


def test_steps_keep_more_each_time_and_only_while_that_saves() -> None:
    found = list(steps(LOSSES, "w8", 32))
    assert [[layer.name for layer in kept] for kept, _ in found] == [["image.b"], ["image.b", "image.a"]]
    assert found[0][1] == pytest.approx(8 + 24 * 3000 / 101_000)
    assert not list(steps([LayerLoss("image", "x", 5000, 0.1)], "w8", 32))  # all of it would be floats


def test_a_mixture_is_never_larger_than_the_next_precision() -> None:
    target, tried = get_target("coreml-auto"), [Tried("p4", 1.0, {}, "loses 3.00 points, more than 0.5")]
    losses = [
        LayerLoss("image", "a", 10_000, 0.5),
        LayerLoss("image", "b", 60_000, 0.4),
        LayerLoss("image", "c", 30_000, 0.02),
    ]
    kept = [len(layers) for layers in _mixtures(target, "p4", tried, None, lambda _: losses)]
    assert kept == [0, 1]  # with the second, 12.4 bits a number: p6 alone has 6
    kept = [len(layers) for layers in _mixtures(target, "p4", tried, 3.2, lambda _: losses)]
    assert kept == [0, 1, 2]  # 3.1 MB fits


def test_files_that_cannot_be_run_here_cannot_be_measured(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FILES, "w8a8", (0.5, {}))
    unchecked = ParityReport("not checked: no Vulkan inside", None, None, None, 0)
    monkeypatch.setattr(
        auto, "read_artifacts", lambda folder: [replace(a, parity=unchecked) for a in read_artifacts(folder)]
    )
    with pytest.raises(
        DistillError, match=r"cannot run those of onnx-w8a8 \(not checked: no Vulkan inside\). Name a precision"
    ):
        run(max_drop=0.5)


def test_a_gain_is_no_loss_and_nan_is_one() -> None:
    assert within(Tried("w8", 1.0, {"top1": -0.7}, ""), 0.0, None) == ""
    assert within(Tried("w8", 1.0, {"top1": float("nan")}, ""), 0.5, None)
    assert Tried("w8", 1.0, {"top1": -0.7}, "chosen").line() == "w8: chosen; 1.0 MB; top1 +0.70"


def test_candidates_are_all_precisions_of_a_target() -> None:
    for name in ("coreml", "litert", "onnx", "executorch-xnnpack", "coreai"):
        target = get_target(name)
        assert sorted(candidates(target, None)) == sorted(target.precisions)
        assert candidates(target, 1.0) == candidates(target, None)[::-1]
    (found,) = chosen_targets(("onnx",), ("auto",))
    assert (found.folder, found.auto, found.learns) == ("onnx-auto", True, True)
    assert not get_target("onnx").auto
    assert not found.at("w8").auto
