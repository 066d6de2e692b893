"""The settings of the training loop: one set of defaults, which the recipe's train table shares. Importable without torch."""

from typing import Literal

from pydantic import Field

from distill.core.strict import Strict


class OptimSettings(Strict):
    """The optimisation: AdamW, linear warm-up, cosine to lr_floor."""

    steps: int = Field(40, ge=1)
    lr: float = Field(1e-3, gt=0, description="learning rate at the end of the warm-up, the highest")
    lr_floor: float = Field(0.0, ge=0, description="learning rate of the last step, at the end of the cosine")
    warmup_steps: int = Field(10, ge=0, description="steps in which the learning rate rises from zero")
    weight_decay: float = Field(0.1, ge=0, description="AdamW's, on matrices; none on biases, norms and scales")
    beta1: float = Field(0.9, description="AdamW's decay of the mean of gradients")
    beta2: float = Field(0.98, description="AdamW's decay of the mean of their squares")
    clip_norm: float = Field(1.0, gt=0, description="largest norm of a step's gradient; a larger one is scaled down")
    precision: Literal["no", "bf16", "fp16"] = Field(
        "no", description="autocast of the training; no = float32; auto, or left out = bf16 where a GPU has it"
    )
    device: Literal["auto", "cpu"] = Field("auto", description="where training runs; auto = a GPU where there is one")
    log_every: int = Field(5, ge=1, description="steps between lines of metrics.jsonl")
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = Field(
        (), description="where the rows of metrics.jsonl go too; their packages must be installed"
    )
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="decay of an average of the weights, judged beside them (0.9995); None = no average",
    )
    lr_inherited: float = Field(1.0, ge=0, description="factor on lr of weights inherited from a larger model")
    lr_adopted: float = Field(1.0, ge=0, description="factor on lr of weights adopted from another model")
    batch_norm: Literal["batch", "synced", "fixed"] = Field(
        "batch",
        description="whose statistics normalise: the batch's part in a process, all processes' (GPUs), or an inherited tower's own",
    )
    accumulate: int = Field(
        1, ge=1, description="parts of a batch, each a batch of its own to the losses, whose gradients make a step"
    )
    recompute: bool = Field(False, description="keep no activations inside towers, compute them again for the gradient")
    sharding: Literal["none", "full"] = Field(
        "none", description="of several processes, each holds all that trains (none), or a share of it (full: FSDP2)"
    )
    compile: bool | Literal["auto"] = Field(
        "auto", description="torch.compile the towers; auto = on a GPU, where a long training wins back its start"
    )
    tf32: bool = Field(True, description="on CUDA, matrix products of the towers in TF32; the losses' never are")
    chunk: int | None = Field(
        None,
        ge=1,
        description="rows that a tower takes at a time, for the memory of few and the gradient of all; None = all",
    )
    lr_new: float = Field(1.0, ge=0, description="factor on lr of weights that start at random")
    freeze_text_steps: int = Field(0, ge=0, description="steps at the start in which the text tower stays as it is")
    frozen_text: Literal["own", "stored"] = Field(
        "own",
        description="what the image tower learns against meanwhile: its own text tower, or stored text embeddings (LiT)",
    )


class CheckpointSettings(Strict):
    """When the state of training is written, and how much of it is kept."""

    checkpoint_every: int = Field(10, ge=1, description="steps between checkpoints")
    checkpoint_minutes: float | None = Field(
        None, gt=0, description="minutes between checkpoints, instead of checkpoint_every"
    )
    keep_checkpoints: int = Field(1, ge=1, description="the newest")
    keep_best: int = Field(
        0, ge=0, description="checkpoints kept besides, those with the lowest mean loss since the checkpoint before"
    )
