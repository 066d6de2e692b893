"""The settings of labelling, with their only defaults: a recipe's tables `reinforce` and `cluster` are made of these."""

from typing import Literal

from pydantic import Field

from distill.core.machine import usable_cores
from distill.core.strict import Strict
from reinforced_data.pixels.rendering import Rendering
from reinforced_data.store.dtypes import EmbedDtype, TeacherPrecision


class ReinforceSettings(Strict):
    """What of the teachers' knowledge is stored, and how; decides, with data, models and seed, every byte of a set."""

    views_per_image: int = Field(
        2, ge=1, description="augmented views of each image that the teachers see and the student learns from"
    )
    view_preset: str = Field(
        "light", description="how strongly views are augmented: light, mobileclip...; see docs/reinforce.md"
    )
    rendering: Rendering = Field(
        "turbo", description="how views become pixels; turbo = decoded no finer than needed, see docs/reinforce.md"
    )
    embed_dtype: EmbedDtype = Field("int8", description="how a number of an embedding is stored")
    shard_size: int = Field(512, ge=1, description="images per shard, the unit of work and of resume")
    batch_size: int = Field(128, ge=1, description="images per teacher forward")
    teacher_precision: TeacherPrecision = Field(
        "no", description="bf16 or fp16: teachers run under autocast, where that keeps the gate of verify; no = float32"
    )
    sentences: bool = Field(False, description="store the sentences of long captions too, for captions.sub_sentences")


class ClusterSettings(Strict):
    """Which executor of datatrove labels the data, and with what; see docs/scale.md."""

    executor: Literal["none", "local", "slurm", "ray"] = Field("none", description="none = this process does it")
    tasks: int = Field(8, ge=1, description="shares of the work; each makes every tasks-th shard")
    workers: int = Field(2, ge=1, description="tasks at a time")
    cpus_per_task: int | None = Field(
        None, ge=1, description="slurm and ray; None = 4, or what a node has where that is less"
    )
    mem_per_cpu_gb: float | None = Field(
        None, gt=0, description="slurm and ray; None = 4, or what a node has where that is less"
    )
    gpus_per_task: int = Field(0, ge=0, description="slurm and ray")
    slurm_partition: str = Field("", description="where Slurm runs the tasks; empty = its default")
    slurm_time: str = Field("24:00:00", description="limit of one task")
    slurm_env: str = Field("", description="command that makes Python and this package available on a node")

    @property
    def threads_per_task(self) -> int | None:
        """Arithmetic threads of a local task, so that tasks do not fight for cores; None = whatever a node gives."""
        return max(1, usable_cores() // self.workers) if self.executor == "local" else None
