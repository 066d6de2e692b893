"""Disks that take no more, by a real limit on the size of files: every writer's failure becomes one error with its path."""

import errno
import os
import resource

import numpy as np
import pytest
import torch

from distill.core import atomic
from distill.core.folders.disk import disk_message
from distill.learning import checkpoint

BIG = torch.zeros(200_000)


@pytest.fixture
def small_disk():
    """No file may grow beyond 64 kB: the system answers EFBIG, as a full disk answers ENOSPC."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def tensors(path):
    from safetensors.torch import save_file

    with atomic.staged_file(path) as temporary:
        save_file({"x": BIG}, str(temporary))


def arrow(path):
    import pyarrow as pa

    table = pa.table({"x": BIG.numpy()})
    with (
        atomic.staged_file(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, table.schema) as file,
    ):
        file.write_table(table)


def arrays(path):
    with atomic.staged_dir(path) as folder:
        np.savez(folder / "x.npz", x=BIG.numpy())


def training(path):
    class Weights(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.x = torch.nn.Parameter(torch.zeros(4))

    task = Weights()
    optimizer = torch.optim.AdamW([task.x])
    optimizer.state[task.x] = {"exp_avg": BIG}
    checkpoint.save(path, 5, task.state_dict(), optimizer.state_dict(), 1)


WRITERS = {
    "bytes": lambda path: atomic.write_bytes(path, bytes(100_000)),
    "safetensors": tensors,
    "arrow": arrow,
    "numpy": arrays,
    "torch": training,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_writer_fails_by_one_error_with_its_path(small_disk, tmp_path, name):
    out = tmp_path / "out"
    with pytest.raises(OSError, match="too large") as failed:
        WRITERS[name](out)
    message = disk_message(failed.value)
    assert message.startswith(f"The disk is full while writing '{out}")
    assert [path for path in tmp_path.rglob("*") if path != out] == []  # nothing half written stays


def test_a_finished_checkpoint_outlives_one_that_does_not_fit(tmp_path):
    module = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(module.parameters())
    checkpoint.save(tmp_path, 1, module.state_dict(), optimizer.state_dict(), 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            checkpoint.save(tmp_path, 2, module.state_dict(), optimizer.state_dict(), 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert checkpoint.latest(tmp_path).step == 1


def test_a_temporary_name_is_not_told(tmp_path):
    with pytest.raises(OSError, match="Read-only") as failed, atomic.staged_file(tmp_path / "report.md") as temporary:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(temporary))
    assert f"'{tmp_path / 'report.md'}'" in disk_message(failed.value)


def test_ctrl_c_while_the_optimizer_is_written_is_ctrl_c(tmp_path, monkeypatch):
    class Interrupted:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def write(self, data):
            if self.file.tell() > 1000:
                raise KeyboardInterrupt
            return self.file.write(data)

    module = torch.nn.Linear(1000, 2)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 1000)).sum().backward()
    optimizer.step()
    opened = lambda path, mode: Interrupted(open(path, mode))  # noqa: E731, SIM115 - closed by its __exit__
    monkeypatch.setattr(checkpoint, "open", opened, raising=False)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, 1, module.state_dict(), optimizer.state_dict(), 1)
    assert list(tmp_path.iterdir()) == []


def test_other_errors_stay_what_they_are(tmp_path):
    for error in (ValueError("(os error 28)x"), OSError(errno.ENOENT, "gone"), OSError("no number")):
        assert disk_message(error) == ""
        assert disk_message(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "a/place").count("'a/place'") == 1
    with pytest.raises(ZeroDivisionError), atomic.staged_file(tmp_path / "x"):
        _ = 1 / 0
