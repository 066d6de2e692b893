"""Tasks under datatrove's executors: the same bytes as one process, reruns of what is missing, failures in one paragraph.

Slurm itself is not here: `sbatch` and `srun` are stand-ins on PATH that run the array's tasks one after the other, so
that the job script, the pickled task and the ranks are datatrove's own.
"""

import hashlib
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from distill.core.errors import DistillError, UsageError
from reinforced_data.labelling.cluster.executors import run_tasks
from reinforced_data.labelling.plan import make_plan
from reinforced_data.labelling.reinforce import finish, reinforce, shards_made, work
from reinforced_data.labelling.settings import ClusterSettings, ReinforceSettings
from reinforced_data.store.folder import open_output
from reinforced_data.store.names import MANIFEST_FILE
from tests.reinforced_data.stubs import ListSource, samples, two_teachers

pytest.importorskip("datatrove", reason="the extra `cluster` (datatrove) is not installed")
# Made by datatrove and its loguru sink when a pool of processes or a log file is left to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

SETTINGS = ReinforceSettings(
    views_per_image=2, view_preset="mobileclip", embed_dtype="int8", shard_size=3, batch_size=4
)
SEED = 2


def share(out: str, rank: int, world: int) -> None:
    """What a task does: its share, and a line that says so."""
    with open(f"{out}.ranks", "a") as file:
        file.write(f"{rank} of {world}\n")
    work(ListSource(samples(14)), two_teachers(), Path(out), rank=rank, world=world)


def prepared_share(out: str, rank: int, world: int) -> None:
    """The same, its samples decoded and rendered by processes of the task's own."""
    work(ListSource(samples(14)), two_teachers(), Path(out), rank=rank, world=world, workers=2)


def endless(out: str, rank: int, world: int) -> None:
    """A task that says its process and never ends."""
    Path(f"{out}.{rank}").write_text(str(os.getpid()))
    time.sleep(600)


def failing(out: str, rank: int, world: int) -> None:
    """A task whose rank 1 fails."""
    if rank == 1:
        raise DistillError("The disk of this node is full.")
    share(out, rank, world)


def dying(out: str, deaths: int, rank: int, world: int) -> None:
    """A task whose rank 1 is killed, as by a system without memory, the first `deaths` times."""
    file = Path(f"{out}.deaths")
    died = len(file.read_text()) if file.exists() else 0
    if rank == 1 and died < deaths:
        file.write_text("x" * (died + 1))
        os.kill(os.getpid(), signal.SIGKILL)
    share(out, rank, world)


def killed_twice(out: str, rank: int, world: int) -> None:
    """Two kills, and then the share."""
    dying(out, 2, rank, world)


def always_killed(out: str, rank: int, world: int) -> None:
    """Rank 1 never gets anywhere."""
    dying(out, 99, rank, world)


def planned(folder: Path) -> Path:
    """A folder with a plan and no shard."""
    out = folder / "set"
    open_output(out, make_plan(ListSource(samples(14)), two_teachers(), (), SETTINGS, SEED))
    return out


def run(out: Path, cluster: ClusterSettings, task=share) -> bool:
    return run_tasks(
        partial(task, str(out)),
        cluster,
        out.parent / "cluster",
        finished=lambda: finish(out) is not None,
        look=lambda: print(*shards_made(out)),
    )


def digests(out: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(out.iterdir())}


def ranks(out: Path) -> list[str]:
    return sorted(Path(f"{out}.ranks").read_text().splitlines())


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> dict[str, str]:
    """What one process makes."""
    out = tmp_path_factory.mktemp("single") / "set"
    reinforce(ListSource(samples(14)), two_teachers(), out, SETTINGS, seed=SEED)
    return digests(out)


@pytest.mark.process
@pytest.mark.parametrize(("tasks", "workers"), [(2, 2), (3, 1)])
def test_local_tasks_make_the_bytes_of_one_process(tasks, workers, single, tmp_path, capfd):
    out = planned(tmp_path)
    assert run(out, ClusterSettings(executor="local", tasks=tasks, workers=workers))
    assert digests(out) == single
    assert ranks(out) == [f"{rank} of {tasks}" for rank in range(tasks)]
    said = capfd.readouterr()
    assert said.err == ""  # what datatrove says of a task is in its log
    assert "label a share of the shards" in (tmp_path / "cluster" / f"local-{tasks}/logs/task_00000.log").read_text()
    assert len(said.out.splitlines()) >= 2  # how far they are is told while they run
    assert run(out, ClusterSettings(executor="local", tasks=tasks, workers=workers))  # nothing is asked twice
    assert len(ranks(out)) == tasks


@pytest.mark.process
def test_lost_shards_are_made_again_although_every_task_is_marked(single, tmp_path):
    out = planned(tmp_path)
    run(out, ClusterSettings(executor="local", tasks=2, workers=1))
    (out / MANIFEST_FILE).unlink()
    (out / "shard-00001.arrow").unlink()
    assert run(out, ClusterSettings(executor="local", tasks=2, workers=1))
    assert digests(out) == single


@pytest.mark.process
def test_a_failed_task_is_said_and_another_world_finishes_the_rest(single, tmp_path):
    out = planned(tmp_path)
    with pytest.raises(DistillError, match=r"The disk of this node is full.*--resume"):
        run(out, ClusterSettings(executor="local", tasks=2, workers=1), failing)
    kept = {name: digest for name, digest in digests(out).items() if name.endswith(".arrow")}
    assert 0 < len(kept) < 5
    stamps = {name: (out / name).stat().st_mtime_ns for name in kept}
    assert run(out, ClusterSettings(executor="local", tasks=3, workers=1))
    assert digests(out) == single
    assert {name: (out / name).stat().st_mtime_ns for name in kept} == stamps


@pytest.mark.process
def test_the_task_of_a_killed_local_worker_is_done_again(single, tmp_path):
    out = planned(tmp_path)
    assert run(out, ClusterSettings(executor="local", tasks=3, workers=2), killed_twice)
    assert digests(out) == single
    assert ranks(out) == [f"{rank} of 3" for rank in range(3)]
    assert len(Path(f"{out}.deaths").read_text()) == 2


@pytest.mark.process
def test_a_local_worker_that_always_dies_ends_the_call(tmp_path):
    with pytest.raises(DistillError, match=r"task 1 died 3 times \(SIGKILL\).*memory.*--resume"):
        run(planned(tmp_path), ClusterSettings(executor="local", tasks=2, workers=2), always_killed)


@pytest.mark.process
def test_local_tasks_with_processes_that_prepare_make_the_same_bytes(single, tmp_path):
    out = planned(tmp_path)
    assert run(out, ClusterSettings(executor="local", tasks=3, workers=2), prepared_share)
    assert digests(out) == single


@pytest.mark.process
def test_tasks_end_with_the_process_that_began_them(tmp_path):
    """However it went: one that goes on would label what a resumed call labels too."""
    code = (
        "import sys; from functools import partial; from pathlib import Path; from tests.reinforced_data.labelling.cluster "
        "import test_executors as t; t.run_tasks(partial(t.endless, sys.argv[1]), t.ClusterSettings(executor='local', "
        "tasks=2, workers=2), Path(sys.argv[1]) / 'logs', finished=lambda: False)"
    )
    out = tmp_path / "o"
    out.mkdir()
    began = subprocess.Popen(
        [sys.executable, "-c", code, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    said = [Path(f"{out}.{rank}") for rank in range(2)]
    deadline = time.monotonic() + 60
    while not all(file.is_file() and file.read_text() for file in said) and time.monotonic() < deadline:
        time.sleep(0.05)
    tasks = [int(file.read_text()) for file in said]
    began.kill()
    began.wait()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{task}").exists() for task in tasks) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [task for task in tasks if Path(f"/proc/{task}").exists()]


@pytest.mark.process
def test_a_failed_local_task_among_several_is_said(tmp_path):
    with pytest.raises(DistillError, match=r"task 1.*The disk of this node is full.*--resume"):
        run(planned(tmp_path), ClusterSettings(executor="local", tasks=3, workers=2), failing)


@pytest.fixture(scope="module")
def local_ray(tmp_path_factory):
    """A real Ray on this machine, whose only node has 2 CPUs and 3 GB: less than a task asks for by itself."""
    ray = pytest.importorskip("ray", reason="the extra `cluster` (ray) is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # for the workers
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        ray.init(
            address="local", num_cpus=2, _memory=3 * 2**30, object_store_memory=100 * 2**20, include_dashboard=False
        )
        yield ray
        ray.shutdown()


@pytest.mark.process
@pytest.mark.parametrize("deaths", [0, 2])
def test_ray_makes_the_bytes_of_one_process_on_small_nodes_with_and_without_kills(deaths, local_ray, single, tmp_path):
    out = planned(tmp_path)
    assert run(out, ClusterSettings(executor="ray", tasks=3, workers=2), killed_twice if deaths else share)
    assert digests(out) == single
    assert ranks(out) == [f"{rank} of 3" for rank in range(3)]
    assert not deaths or len(Path(f"{out}.deaths").read_text()) == deaths
    assert run(out, ClusterSettings(executor="ray", tasks=3, workers=2))
    assert len(ranks(out)) == 3


@pytest.mark.process
def test_ray_says_what_no_node_has_and_what_went_wrong(local_ray, tmp_path):
    out = planned(tmp_path)
    fits = r"2 CPUs, 3.0 GB.*--set cluster.cpus_per_task=2 --set cluster.mem_per_cpu_gb=1.5"
    with pytest.raises(UsageError, match=rf"cluster.cpus_per_task=4.*{fits}"):
        run(out, ClusterSettings(executor="ray", tasks=2, cpus_per_task=4))
    with pytest.raises(DistillError, match=r"task 1.*The disk of this node is full.*--resume"):
        run(out, ClusterSettings(executor="ray", tasks=2), failing)
    with pytest.raises(DistillError, match=r"task 1 died 3 times.*--resume"):
        run(out, ClusterSettings(executor="ray", tasks=2), always_killed)


@pytest.mark.process
def test_slurm_array_tasks_make_the_bytes_of_one_process(single, tmp_path, monkeypatch):
    tools = tmp_path / "bin"
    tools.mkdir()
    launch = f"{sys.executable} -m datatrove.tools.launch_pickled_pipeline"
    stand_ins = {
        "sbatch": 'for last; do :; done\nif grep -q "array=" "$last"; then n=$(sed -n "s/.*array=0-\\([0-9]*\\).*/\\1/p" "$last")\n'
        'for i in $(seq 0 $n); do SLURM_ARRAY_TASK_ID=$i SLURM_JOB_ID=1 bash "$last" >>"$0.log" 2>&1 || exit 1; done; fi\n'
        'echo "Submitted batch job 1"',
        "srun": 'while [ "$1" != launch_pickled_pipeline ]; do shift; done; exec "$@"',
        "launch_pickled_pipeline": f'exec {launch} "$@"',
        "merge_stats": "true",
        "scontrol": "echo localhost",
    }
    for name, text in stand_ins.items():
        (tools / name).write_text(f"#!/bin/bash\n{text}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_NODELIST", "localhost")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    out = planned(tmp_path)
    with pytest.raises(UsageError, match="--slurm-partition"):
        run(out, ClusterSettings(executor="slurm", tasks=3))
    assert not run(
        out, ClusterSettings(executor="slurm", tasks=3, slurm_partition="gpu")
    )  # taken, and here done on the spot
    script = next((tmp_path / "cluster").rglob("launch_script.slurm")).read_text()
    assert "--partition=gpu" in script
    assert "--requeue" in script
    assert ranks(out) == [f"{rank} of 3" for rank in range(3)], (tools / "sbatch.log").read_text()[-3000:]
    assert run(
        out, ClusterSettings(executor="slurm", tasks=3, slurm_partition="gpu")
    )  # the second call finds it finished
    assert digests(out) == single


def test_without_the_extra_the_way_out_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datatrove.executor", None)
    with pytest.raises(UsageError, match=r"distill-edge\[cluster\].*accelerate launch"):
        run(planned(tmp_path), ClusterSettings(executor="local"))
