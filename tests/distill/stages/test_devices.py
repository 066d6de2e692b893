"""Every stage on a device that is not the host's: where models are when, and that outputs come back.

No GPU is here, so that a stand-in is used: a teacher whose tensors, once it was moved, refuse numpy as those of a GPU do.
"""

import pytest
import torch

import distill
from distill.core import atomic
from distill.learning import fit as fit_module

SMALL = {
    "data": "rendered:train=48,eval=24", "train.steps": 2, "train.batch_size": 16, "train.warmup_steps": 1,
    "export.targets": [], "profile.runs": 3, "profile.warmup_runs": 1, "reinforce.calibrate": "all", "reinforce.verify": 4,
}  # fmt: skip


class Elsewhere(torch.Tensor):
    """A tensor that is on another device: it must be brought back before numpy may see it."""

    def numpy(self, **_):
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first."
        )

    def __array__(self, *_, **__):
        return self.numpy()

    def cpu(self, *_, **__):
        return self.as_subclass(torch.Tensor)


class Moved:
    """A teacher that notes where it is; its outputs are `Elsewhere` when it is not on the CPU."""

    def __init__(self, teacher, events):
        self._teacher, self._events, self.place = teacher, events, "cpu"

    def __getattr__(self, name):
        return getattr(self._teacher, name)

    def to(self, device):
        if str(device) != self.place:
            self._events.append(str(device))
        self.place = str(device)
        return self

    def _out(self, embeds):
        return embeds if self.place == "cpu" else embeds.as_subclass(Elsewhere)

    def encode_image(self, pixels):
        return self._out(self._teacher.encode_image(pixels.cpu()))

    def encode_text(self, captions):
        return self._out(self._teacher.encode_text(captions))


@pytest.mark.whole
def test_every_stage_runs_with_teachers_on_another_device_and_lets_them_go(tmp_path, monkeypatch, capsys):
    from distill import models
    from distill.stages import evaluate, label

    events = []
    real_load, real_fit = models.load_teacher, fit_module.fit
    monkeypatch.setattr(models, "load_teacher", lambda *given, **more: Moved(real_load(*given, **more), events))
    monkeypatch.setattr(label, "stage_device", lambda asked, place: "cuda:0")
    monkeypatch.setattr(fit_module, "fit", lambda *given, **more: (events.append("fit"), real_fit(*given, **more))[1])
    real_embedder = evaluate.judged_models

    def judged(*given):
        events.append("judge")
        return real_embedder(*given)

    monkeypatch.setattr(evaluate, "judged_models", judged)
    monkeypatch.setattr(evaluate, "stage_device", lambda asked, place: "cuda:0")
    # A student really cannot go there; it is judged where it is.
    monkeypatch.setattr("students.student.Student.to", lambda self, *_: self, raising=False)
    away = distill.run(teacher="rendered", out=tmp_path / "away", settings=SMALL)
    assert events == ["cuda:0", "cpu", "fit", "fit", "judge", "cuda:0", "cpu"]
    assert "Labelling runs on cuda:0" in capsys.readouterr().err
    monkeypatch.undo()
    here = distill.run(teacher="rendered", out=tmp_path / "here", settings=SMALL)
    assert away.table[0]["t2i_r1"] == here.table[0]["t2i_r1"]
    hashes = [atomic.read_json(run.out / "hashes.json") for run in (away, here)]
    assert hashes[0] == hashes[1]
    verified = atomic.read_json(away.out / "reinforced-verify.json")
    assert verified["passed"]


def test_the_device_is_the_gpu_of_this_process(monkeypatch):
    from distill.processes import Place, stage_device

    assert stage_device("auto", Place()) == ("cuda:0" if torch.cuda.is_available() else "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [stage_device("auto", Place(rank, 8, rank % 4)) for rank in range(8)] == [f"cuda:{n % 4}" for n in range(8)]
    assert stage_device("cpu", Place(3, 8, 3)) == "cpu"
