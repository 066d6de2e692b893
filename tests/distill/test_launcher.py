"""Several processes: by `accelerate launch`, as the pages say it; one of them killed, resumed with another number."""

import json
import os
import socket
import subprocess
import sys

import pytest
from safetensors.torch import load_file

import distill
from distill.core import atomic
from tests import forks

pytestmark = pytest.mark.whole
TRAIN = {
    "train.steps": 6,
    "train.batch_size": 36,
    "train.warmup_steps": 2,
    "train.checkpoint_every": 2,
    "train.log_every": 2,
}
RUN = TRAIN | {"export.targets": [], "profile.enabled": False, "reinforce.shard_size": 24, "reinforce.verify": 4}
DATA = "rendered:train=72,eval=12"


def launch(processes, *words, log):
    """Start the launcher; `-m accelerate.commands.launch` is what its console script calls."""
    command = [
        sys.executable, "-W", "ignore", "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes),
        "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
        "-m", "distill", *map(str, words),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with open(log, "ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)


def settings(values):
    return [word for key, value in values.items() for word in ("--set", f"{key}={json.dumps(value)}")]


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def close(one, two):
    a, b = (load_file(path / "student" / "model.safetensors") for path in (one, two))
    assert a.keys() == b.keys()
    return max(float((a[name].float() - b[name].float()).abs().max()) for name in a)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, tiny_teacher):
    """The whole job in this process: the run folder, with the set that the others train on."""
    out = tmp_path_factory.mktemp("alone") / "run"
    distill.run(teacher=tiny_teacher, data=DATA, out=out, settings=RUN)
    return out


def test_a_whole_run_by_two_processes_is_that_of_one(alone, tmp_path, tiny_teacher):
    log, out = tmp_path / "log", tmp_path / "two"
    process = launch(
        2, "run", "--teacher", tiny_teacher, "--data", DATA, "--out", out, *settings(RUN), "--json", log=log
    )
    assert process.wait(300) == 0, log.read_text()[-4000:]
    one, two = (distill.report(path) for path in (alone, out))
    for mine, theirs in zip(one.table, two.table, strict=True):
        for key in ("role", "model", "parameters", "zero_shot_top1", "t2i_r1", "i2t_r1"):
            assert mine[key] == theirs[key]
    assert {p.name: atomic.sha256_file(p) for p in (out / "reinforced").glob("*.arrow")} == {
        p.name: atomic.sha256_file(p) for p in (alone / "reinforced").glob("*.arrow")
    }
    assert close(alone, out) < 1e-4
    said = log.read_text()
    assert sum(line.startswith("{") for line in said.splitlines()) == 1  # one result, of the first process
    assert "Traceback" not in said
    losses = [[row["loss"] for row in metrics(path)] for path in (alone, out)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)  # the mean over ranks, not the first one's


def side_by_side(count, *words, log):
    """Start `count` processes with what a launcher tells each of them; their outputs go to `log`.0, `log`.1, ..."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    return [
        forks.start(
            *words,
            log=log.with_name(f"{log.name}.{rank}"),
            environment={**told, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(count)
    ]


def test_a_process_is_killed_and_three_go_on_that_hold_a_third_each(alone, tmp_path):
    longer = TRAIN | {"train.steps": 12}
    log, out = tmp_path / "log", tmp_path / "three"
    words = ["train", "--data", alone / "reinforced", "--out", out, *settings(longer), "--set", "student.inherit=none"]
    first, second = side_by_side(2, *words, log=log)
    forks.kill_when(second, (out / "checkpoints" / "step-00000002" / "state.json").exists)
    first.join(60)
    assert first.exitcode == 1  # by itself: nobody tells it that the other is gone
    assert "Traceback" not in log.with_name("log.0.err").read_text()
    assert not (out / "student").exists()
    logs = [log.with_name(f"log.{rank}") for rank in range(3)]
    words += ["--set", "train.sharding=full", "--resume"]
    for process, file in zip(side_by_side(3, *words, log=log), logs, strict=True):
        forks.finish(process, file)
    distill.train(data=alone / "reinforced", out=tmp_path / "one", settings=longer | {"student.inherit": "none"})
    assert close(tmp_path / "one", out) < 1e-4
    assert [row["step"] for row in metrics(out)] == [2, 4, 6, 8, 10, 12]
