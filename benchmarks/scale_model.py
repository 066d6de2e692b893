"""The arithmetic of a very large reinforcement: cost per image, and a discrete-event simulation of a cluster's tasks.

Published figures it rests on (reference/mobileclip.md section 4, from arXiv:2311.17049 Table 4d, 8 x A100-80GB):

- two ViT-L/14 teachers label 159 samples/s per A100, one view and two captions each;
- a CoCa ViT-L/14 writes 26 captions/s per A100 (one caption, the image encoded for it).

One teacher call is split between view and caption by open_clip's docs/model_profile.csv: 162.03 GFLOPs for an image,
13.3 for a text. Left out: prices, network, and everything that was measured on this machine (`scale_simulation`).
"""

import heapq
from dataclasses import dataclass

import numpy as np

LABELLED_PER_SECOND = 159.0  # samples per second and A100: two ViT-L/14, one view, two captions
CAPTIONS_PER_SECOND = 26.0
IMAGE_GFLOPS, TEXT_GFLOPS = 162.03, 13.3
CALL_GFLOPS = IMAGE_GFLOPS + 2 * TEXT_GFLOPS
VIEW_SECONDS = IMAGE_GFLOPS / CALL_GFLOPS / LABELLED_PER_SECOND  # per view, both teachers
TEXT_SECONDS = TEXT_GFLOPS / CALL_GFLOPS / LABELLED_PER_SECOND  # per caption, both teachers
HOUR = 3600.0


@dataclass(frozen=True)
class Job:
    """What is stored of every image: views, real captions, captions to be written first."""

    views: int
    real: int
    synthetic: int

    @property
    def label_seconds(self) -> float:
        """GPU-seconds of the two teachers per image."""
        return self.views * VIEW_SECONDS + (self.real + self.synthetic) * TEXT_SECONDS

    @property
    def caption_seconds(self) -> float:
        """GPU-seconds of the captioner per image."""
        return self.synthetic / CAPTIONS_PER_SECOND

    @property
    def seconds(self) -> float:
        """GPU-seconds per image."""
        return self.label_seconds + self.caption_seconds


@dataclass(frozen=True)
class Fleet:
    """Workers (one GPU each) and what goes wrong with them.

    Attributes:
        spread: sigma of the log-normal speeds. slow_share of the workers run at slow_speed besides.
        kills_per_day: preemptions and crashes per worker. restart_hours: until its place works again.
    """

    workers: int = 256
    spread: float = 0.1
    slow_share: float = 0.02
    slow_speed: float = 0.3
    kills_per_day: float = 0.5
    restart_hours: float = 0.25

    def speeds(self, rng: np.random.Generator) -> np.ndarray:
        """[workers], 1 on average before some of them are slowed."""
        speeds = rng.lognormal(-(self.spread**2) / 2, self.spread, self.workers)
        slow = rng.permutation(self.workers)[: round(self.slow_share * self.workers)]
        speeds[slow] *= self.slow_speed
        return speeds


@dataclass(frozen=True)
class Outcome:
    """Hours until all is done; the same with all workers equally fast and whole; GPU-hours of lost shards; idle share."""

    hours: float
    ideal_hours: float
    lost_gpu_hours: float
    idle_share: float


def simulate(images: float, shard: int, tasks: int, job: Job, fleet: Fleet, seed: int = 0) -> Outcome:
    """Workers take tasks from one queue; a task makes every tasks-th shard; a kill loses the shard at hand.

    `tasks == workers` is the static assignment (every rank has its share and no other): a slow worker keeps its share.
    With more tasks whoever is free takes the next one, as datatrove's executors do.
    """
    rng = np.random.default_rng(seed)
    speeds = fleet.speeds(rng)
    shards = -(-int(images) // shard)
    shard_hours = shard * job.seconds / HOUR
    free = [(0.0, worker) for worker in range(fleet.workers)]
    heapq.heapify(free)
    busy = lost = finish = 0.0
    for task in range(tasks):
        start, worker = heapq.heappop(free)
        own = shards // tasks + (task < shards % tasks)
        work = own * shard_hours / speeds[worker]
        end = start + work
        if fleet.kills_per_day and own:
            for _ in range(
                rng.poisson(work / 24 * fleet.kills_per_day)
            ):  # kills while repeating lost work are left out
                again = rng.uniform() * shard_hours / speeds[worker]
                end += again + fleet.restart_hours
                lost += again
                busy += again
        busy += work
        finish = max(finish, end)
        heapq.heappush(free, (end, worker))
    ideal = images * job.seconds / HOUR / fleet.workers
    return Outcome(finish, ideal, lost, 1 - busy / (finish * fleet.workers))


def int8_bytes(job: Job, width: int = 768, teachers: int = 2) -> float:
    """Embedding bytes per image: a byte per number and a float32 scale per row."""
    return teachers * (width + 4) * (job.views + job.real + job.synthetic)
