"""A signal while a model trains: the step is finished and kept, training goes on from it bit for bit; a second one ends at once."""

import multiprocessing
import os
import signal
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from distill.core.errors import DistillError
from distill.learning import checkpoint
from distill.learning.loop.stopping import Saved, Stopping, Together, naming_the_dead
from reinforced_data.training.loader import _from_workers
from tests.distill.learning.test_fit import batches, train


def signalled(at, number, fails=False):
    def source(first, last):
        for step, batch in enumerate(batches(first, last), first):
            if step == at:
                os.kill(os.getpid(), number)
                if fails:
                    raise DistillError("A data loading worker died.")
            yield batch

    return source


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_step_at_hand_is_finished_and_kept(tmp_path, number):
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    whole = train(tmp_path / "a", 12)
    with pytest.raises(Saved):
        train(tmp_path / "b", 12, source=signalled(6, number), log_every=5, checkpoint_every=50)
    assert checkpoint.latest(tmp_path / "b" / "checkpoints").step == 7
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    resumed = train(tmp_path / "b", 12)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_worker_that_the_signal_ended_too_costs_no_step(tmp_path):
    with pytest.raises(Saved):
        train(tmp_path / "a", 12, source=signalled(6, signal.SIGTERM, fails=True), checkpoint_every=50)
    assert checkpoint.latest(tmp_path / "a" / "checkpoints").step == 6
    with pytest.raises(DistillError, match="worker died"):
        train(tmp_path / "b", 12, source=signalled(6, 0, fails=True), checkpoint_every=50)


def test_a_signal_in_the_last_step_changes_nothing(tmp_path):
    whole = train(tmp_path / "a", 12)
    other = train(tmp_path / "b", 12, source=signalled(11, signal.SIGTERM))
    assert all(torch.equal(whole[name], other[name]) for name in whole)


def test_a_second_ctrl_c_ends_at_once_and_another_sigterm_does_not():
    with pytest.raises(KeyboardInterrupt) as ended, Stopping() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
        os.kill(os.getpid(), signal.SIGINT)
    assert not isinstance(ended.value, Saved)


def test_outside_the_main_thread_nothing_is_installed():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def inside():
        with Stopping():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [before]


class Steps:
    """What a worker makes batches of; from `stuck` on it never ends one."""

    at = None

    def __init__(self, stuck: int) -> None:
        self.stuck = stuck

    def __getitem__(self, step: int) -> SimpleNamespace:
        if step >= self.stuck:
            time.sleep(600)
        return next(batches(step, step + 1))

    def name(self, index: int) -> str:
        return str(index)


def signalled_at_worker(at, number, everything):
    """Batches of a worker process that is stuck at batch `at` when it gets the signal, alone or with all of its group."""

    def source(first, last):
        os.setsid()
        _MultiProcessingDataLoaderIter._try_get_data.__defaults__ = (0.1,)  # how often a worker is looked after

        def strike():
            target = 0 if everything else multiprocessing.active_children()[0].pid
            (os.killpg if everything else os.kill)(target, number)

        for step, batch in enumerate(_from_workers(Steps(at), range(first, last), 1), first + 1):
            if step == at:  # the next batch never comes
                threading.Timer(0.3, strike).start()
            yield batch

    return source


def one_of_two(rank: int, port: int, out: str, kind: str) -> None:
    """Train as process `rank` of two, the second of which meets with something. Exit status 7 where a signal ended it, 8 where an
    error did, which is kept beside."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    happens = {
        "signal": lambda: signalled(6, signal.SIGTERM),
        "death": lambda: signalled(6, signal.SIGKILL),
        "worker died": lambda: signalled_at_worker(6, signal.SIGKILL, False),
        "all signalled": lambda: signalled_at_worker(6, signal.SIGTERM, True),
    }
    source = batches if kind == "nothing" or rank == 0 else happens[kind]()
    try:
        weights = train(Path(out), 20, source=source, log_every=100, checkpoint_every=50)
    except Saved:
        os._exit(7)
    except DistillError as error:
        (Path(out) / f"error{rank}").write_text(str(error))
        os._exit(8)
    if rank == 0:
        torch.save(weights, Path(out) / "weights.pt")
    torch.distributed.destroy_process_group()


def two(out: Path, kind: str = "nothing") -> list[multiprocessing.Process]:
    """Two processes that train together, started."""
    out.mkdir(exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.forks_preload"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [context.Process(target=one_of_two, args=(rank, port, str(out), kind)) for rank in range(2)]
    for process in processes:
        process.start()
    return processes


def statuses(processes: list[multiprocessing.Process]) -> list[int | None]:
    """How they ended; those that hang are killed."""
    give_up = time.monotonic() + 60
    for process in processes:
        process.join(max(0, give_up - time.monotonic()))
        process.kill()
        process.join()
    return [process.exitcode for process in processes]


@pytest.mark.process
def test_two_processes_end_after_the_same_step_where_one_of_them_is_asked(tmp_path):
    """No row is logged on the way; what is trained on from there is what was never interrupted."""
    uninterrupted = two(tmp_path / "whole")
    assert statuses(two(tmp_path / "cut", "signal")) == [7, 7]
    assert checkpoint.latest(tmp_path / "cut" / "checkpoints").step == 6  # it came with the batch after
    assert statuses([*two(tmp_path / "cut"), *uninterrupted]) == [0] * 4
    cut, whole = (torch.load(tmp_path / name / "weights.pt", weights_only=True) for name in ("cut", "whole"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


@pytest.mark.process
def test_two_processes_end_together_where_one_of_them_cannot_go_on(tmp_path):
    """Whatever ends the second one or its worker: none is left waiting for it, and a signal costs no step."""
    kinds = ("all signalled", "worker died", "death")
    started = {kind: two(tmp_path / kind, kind) for kind in kinds}
    ended = {kind: statuses(processes) for kind, processes in started.items()}
    assert ended == {"all signalled": [7, 7], "worker died": [8, 8], "death": [8, -signal.SIGKILL]}
    saved = {kind: checkpoint.latest(tmp_path / kind / "checkpoints") for kind in kinds}
    assert saved["all signalled"].step == 6
    assert saved["worker died"] is saved["death"] is None
    assert "worker died (signal 9)" in (tmp_path / "worker died" / "error1").read_text()
    assert "cannot go on" in (tmp_path / "worker died" / "error0").read_text()
    assert "has ended" in (tmp_path / "death" / "error0").read_text()


def test_an_error_is_taken_for_another_process_that_ended_where_it_says_so_and_there_is_one():
    def said(words, processes):
        with naming_the_dead(processes):
            raise RuntimeError(words)

    with pytest.raises(DistillError, match=r"Another of the processes .* has ended"):
        said("Connection closed by peer [127.0.0.1]:4", 2)
    for words, processes in (("Connection closed by peer", 1), ("shapes do not match", 2)):
        with pytest.raises(RuntimeError, match=words) as caught:
            said(words, processes)
        assert not isinstance(caught.value, DistillError)


def test_one_process_hears_itself_at_once():
    together = Together(1)
    heard = []
    for said in ((False, False, True), (True, False, False), (False, True, False)):
        together.say(*said)
        heard.append(together.hear())
    assert heard == [(False, False, True), (True, False, False), (False, True, False)]
    together.close()


def test_the_best_checkpoints_stay_besides_the_newest(tmp_path):
    """By the mean of all steps since the checkpoint before, whatever the last of them was."""
    model = torch.nn.Linear(1, 1)
    states = model.state_dict(), torch.optim.AdamW(model.parameters()).state_dict()
    for step, mean in enumerate([5.0, 2.0, 4.0, 3.0, 6.0, 7.0], start=1):
        checkpoint.save(tmp_path, step, *states, 2, None, {"last": -mean, "mean": mean}, keep_best=2)
    assert sorted(int(path.name[5:]) for path in tmp_path.glob("step-*")) == [2, 4, 5, 6]
    checkpoint.save(tmp_path, 7, *states, 1, None, {}, keep_best=0)
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-00000007"]


def test_a_checkpoint_knows_the_mean_loss_of_its_steps(tmp_path):
    import json

    train(tmp_path / "a", 8, checkpoint_every=3, log_every=1)
    rows = [json.loads(line)["loss"] for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    losses = checkpoint.latest(tmp_path / "a" / "checkpoints").losses
    assert losses["mean"] == pytest.approx(sum(rows[6:]) / 2)
    assert losses["last"] == pytest.approx(rows[-1])
    assert losses["first"] == pytest.approx(rows[0])
