"""`python -m export.children.bench JOB.json`: one runtime, kept loaded, that runs or times itself whenever it is asked to.

Eager torch, ONNX Runtime and ExecuTorch bring thread pools that crash or slow each other inside one process, so each
has its own and only one of them works at a time. Requests come as JSON lines on standard input, answers go as JSON
lines to the original standard output; everything that a runtime prints goes to the log. Left out: rounds and order
(export.latency.measure).

The job: {"runtime": "eager" or a target's name, "source": student folder or exported folder, "files": {tower: name} and "options"
of the target (of the eager one "towers", "batch" and the number of "labels" of a classifier), "threads", "inputs": .npz with
pixels and tokens, for timing}. A request: {"tower", "runs", "warmup_runs"}, whose answer is {"ms": [...]}; or {"tower",
"embed": .npy with inputs, "to": .npy}, whose answer {"rows": n} comes when that is written. Inputs are floats in [0, 1] and tokens.
"""

import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from distill.core.arrays import Array
from export.app.form import Form, batches
from export.target import INPUT_NAMES, Runner, get_target
from export.towers.parity import ONE_OF_FLOATS, run_all


def form_of(job: dict[str, Any]) -> Form:
    """How the job's runtime takes its inputs."""
    if job["runtime"] == "eager":
        return Form(batch=int(job.get("batch", 1)))
    return get_target(job["runtime"]).with_options(job.get("options", {})).form


def load_runners(job: dict[str, Any]) -> dict[str, Runner]:
    """tower -> callable of the job's runtime, for inputs in its form."""
    source, threads = Path(job["source"]), int(job["threads"])
    if job["runtime"] != "eager":
        target = get_target(job["runtime"]).with_options(job.get("options", {}))
        return {tower: target.of(tower).load(source / file, threads) for tower, file in job["files"].items()}
    import torch

    torch.set_num_threads(threads)
    from distill.core.torch_compat import ensure_torchvision

    ensure_torchvision()
    modules = _eager(source, int(job.get("labels", 0)))

    def runner(module: Any) -> Runner:
        def run(value: Array) -> Array:
            with torch.inference_mode():
                result: Array = module(torch.from_numpy(value)).numpy()
            return result

        return run

    return {tower: runner(modules[tower]) for tower in job["towers"]}


def _eager(student_dir: Path, labels: int) -> dict[str, Any]:
    """The deployable towers; a classifier's labels are random ones, since it takes the same time whatever they are."""
    import torch

    from export.towers.classifier import Classifier
    from export.towers.image_model import deployable_image_model, is_image_model, load_image_model
    from export.towers.tower import deployable_towers
    from students.student import load_student

    if is_image_model(student_dir):
        model = load_image_model(student_dir)
        return {model.towers[0]: deployable_image_model(model)}
    student = load_student(student_dir)
    image, text = deployable_towers(student)
    width = int(image(torch.zeros(1, 3, student.image_size, student.image_size)).shape[1])
    rows = torch.nn.functional.normalize(torch.randn(max(labels, 1), width), dim=1)
    return {"image": image, "text": text, "classifier": Classifier(image, rows, 100.0, 0.0, "softmax")}


def time_runs(run: Runner, inputs: Array, runs: int, warmup_runs: int, form: Form = ONE_OF_FLOATS) -> list[float]:
    """Milliseconds of `runs` calls, each on the next inputs, after `warmup_runs` calls that are not counted."""
    items = [np.ascontiguousarray(form.given(rows)) for rows in batches(inputs, form.batch)]
    for index in range(warmup_runs):
        run(items[index % len(items)])
    times = []
    for index in range(runs):
        item = items[index % len(items)]
        start = time.perf_counter_ns()
        run(item)
        times.append((time.perf_counter_ns() - start) / 1e6)
    return times


def main() -> None:
    """Entry point: the only argument is the path of the job file."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # runtimes print on standard output; the pipe is for answers alone
    warnings.simplefilter("ignore")
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    runners, form = load_runners(job), form_of(job)
    inputs = {}
    if "inputs" in job:
        with np.load(job["inputs"], allow_pickle=False) as arrays:
            inputs = dict(arrays)

    def answer(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    answer({"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        tower = request["tower"]
        if "embed" in request:
            rows = run_all(runners[tower], np.load(request["embed"], allow_pickle=False), form=form)
            np.save(request["to"], rows)
            answer({"rows": len(rows)})
            continue
        answer(
            {"ms": time_runs(runners[tower], inputs[INPUT_NAMES[tower]], request["runs"], request["warmup_runs"], form)}
        )
    sys.stderr.flush()
    os._exit(0)  # some runtimes crash in their own teardown


if __name__ == "__main__":
    main()
