"""What tasks ask of a cluster's nodes: always something that a node has, and what the user said where it was said."""

import itertools

import pytest

from distill.core.errors import UsageError
from reinforced_data.labelling.cluster.resources import Resources, request, slurm_nodes
from reinforced_data.labelling.settings import ClusterSettings


def test_nothing_said_asks_for_four_cpus_of_four_gb_or_less():
    assert request(ClusterSettings(), []) == Resources(4, 16)
    assert request(ClusterSettings(), [Resources(64, 256)]) == Resources(4, 16)
    assert request(ClusterSettings(), [Resources(2, 3)]) == Resources(2, 3)
    assert request(ClusterSettings(), [Resources(8, 3), Resources(0, 100)]) == Resources(4, 3)
    assert request(ClusterSettings(), [Resources(2, 3), Resources(8, 64)]) == Resources(4, 16)
    assert request(ClusterSettings(mem_per_cpu_gb=8), [Resources(4, 16)]) == Resources(2, 16)
    assert request(ClusterSettings(gpus_per_task=1), [Resources(64, 256), Resources(2, 9, 1)]) == Resources(2, 8, 1)


SIZES = [(1, 0.5, 0), (2, 3, 0), (4, 64, 1), (16, 8, 0)]


@pytest.mark.parametrize("cpus", [None, 1, 3, 8])
@pytest.mark.parametrize("memory", [None, 0.25, 2, 20])
@pytest.mark.parametrize("gpus", [0, 1, 2])
def test_a_request_is_held_by_a_node_or_refused_with_one_that_is(cpus, memory, gpus):
    settings = ClusterSettings(cpus_per_task=cpus, mem_per_cpu_gb=memory, gpus_per_task=gpus)
    for count in (1, 2):
        for sizes in itertools.combinations(SIZES, count):
            nodes = [Resources(*size) for size in sizes]
            try:
                asked = request(settings, nodes)
            except UsageError as error:
                words = dict(
                    word.rstrip(".").split("=") for word in str(error).split("This fits: ")[1].split() if "=" in word
                )
                fits = ClusterSettings(**{key.removeprefix("cluster."): float(value) for key, value in words.items()})
                asked = request(fits, nodes)
                # refused for a reason: by brute force, no node has what was said
                least = (cpus or 1, (cpus or 1) * (memory or 0), gpus)
                assert not any(n.cpus >= least[0] and n.memory_gb >= least[1] and n.gpus >= least[2] for n in nodes)
            else:
                assert asked.gpus == gpus
                assert cpus is None or asked.cpus == cpus
                assert memory is None or asked.memory_gb == asked.cpus * memory
            assert any(n.cpus >= asked.cpus and n.memory_gb >= asked.memory_gb and n.gpus >= asked.gpus for n in nodes)


def test_a_cluster_without_a_cpu_says_so():
    with pytest.raises(UsageError, match="No node of the cluster has a CPU"):
        request(ClusterSettings(), [Resources(0, 8)])


def test_a_partition_is_read_from_sinfo(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slurm_nodes("gpu") == []
    tool = tmp_path / "sinfo"
    tool.write_text(
        "#!/bin/sh\ncase \"$*\" in *--partition=gpu*) echo '2 3072'; echo '16+ 65536+'; echo 'n/a 7';; *) exit 1;; esac\n"
    )
    tool.chmod(0o755)
    assert [(node.cpus, node.memory_gb) for node in slurm_nodes("gpu")] == [(2, 3), (16, 64)]
    assert slurm_nodes("none") == []
