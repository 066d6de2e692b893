"""Every setting of a job, table by table. Defaults here are the embedded default job's own."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from distill.core.strict import Strict
from distill.learning.settings import CheckpointSettings, OptimSettings
from export.settings import ChooseSettings, ExportSettings, LintSettings, ProfileSettings
from reinforced_data.labelling.settings import ClusterSettings, ReinforceSettings
from teachers.captioner import CaptionSettings

PLAN = "plan:"  # of student.inherit: a plan of inheritance in a file
Fact = Literal[
    "activation",
    "causal",
    "pooling",
    "class_token",
    "head_width",
    "patch_size",
    "image_size",
    "context_length",
    "vocabulary",
]
AUTO_KEYS = ("steps", "epochs", "batch_size", "warmup_steps", "precision")  # of the train table
LENGTHS = ("steps", "samples", "epochs")  # of the train table: three words for one thing


def _several(value: Any) -> Any:
    """One text for a list of one, as after `--set reinforce.texts=imagenet`."""
    return (value,) if isinstance(value, str) else value


class StageRecipe(Strict):
    """A size between the source and the student, trained on the way to it."""

    keep: float = Field(gt=0, lt=1, description="share of the source's layers, channels, heads and neurons")
    steps: int | None = Field(None, ge=1, description="of train.steps; None = an equal share of what is left")


class StudentRecipe(Strict):
    """Which student, at which size, and what it starts from."""

    name: str = Field("nano", description="the architecture; see distill list students")
    image_size: int | None = Field(None, ge=16, description="pixels; None = the architecture's own")
    context_length: int | None = Field(None, ge=4, description="tokens; None = the architecture's own")
    text_layers: int | None = Field(None, ge=1, description="text depth; None = the architecture's own")
    embed_dim: int | None = Field(None, ge=8, description="width of the embeddings; None = the architecture's own")
    tokenizer: str | None = Field(
        None, description="of an hf: text tower: tokenizer.json, vocab.txt or a folder; None = MiniLM's"
    )
    vocabulary: str | None = Field(
        None, description="auto = the tokens of the captions; auto:8000 = so many; a bpe_merges.txt.gz; None = its own"
    )
    corpus: str | None = Field(
        None, description="text file to cut the vocabulary to, a caption a line; None = the captions"
    )
    inherit: str = Field(
        "magnitude", description="a strategy (distill list strategies); plan:FILE; copy = every weight; none"
    )
    inherit_across: Literal["auto", "all"] | tuple[Fact, ...] = Field(
        "auto",
        description="facts in which a source may differ in kind; auto = where measured better than a random start",
    )
    project: Literal["auto", "none"] = Field(
        "auto",
        description="auto = towers that are inherited without their projection get one in closed form, from stored embeddings",
    )
    repair: Literal["auto", "least-squares", "bias", "none"] = Field(
        "auto", description="of sliced layers, on pairs of the data; auto = least-squares where measured better"
    )
    stages: tuple[StageRecipe, ...] = Field(
        (), description="sizes on the way from the source to the student; see docs/train.md"
    )
    inherit_from: str | None = Field(None, description="teacher name or path; None = the first teacher")


class ReinforceRecipe(ReinforceSettings):
    """Making a set: what is stored, who captions, where teachers run, and what is checked afterwards."""

    device: Literal["auto", "cpu"] = Field("auto", description="where teachers run; auto = a GPU where there is one")
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="processes that decode and render; 0 = threads; auto = threads where teachers run on the CPU",
    )
    caption_columns: dict[str, str] = Field(
        {}, description="more caption columns of the data -> tag, which makes them captions of synthetic:<tag>"
    )
    captioning: CaptionSettings = CaptionSettings()
    texts: Annotated[tuple[str, ...], BeforeValidator(_several)] = Field(
        (),
        description="texts of no image for the teachers to read too: imagenet (its class names), classes:FILE, or a text file",
    )
    images: str | None = Field(
        None, description="where the images of a published set lie (data = datacompdr:TARS): any data, keyed by uid"
    )
    verify: Annotated[int, Field(ge=0)] | Literal["all"] = Field(
        16, description="stored views re-run through the live teachers afterwards; 0 = none, or all"
    )
    calibrate: bool | Literal["all"] = Field(
        False, description="fit logit scales on held-out pairs; true = where none is published, all = of every teacher"
    )


class TrainRecipe(OptimSettings, CheckpointSettings):
    """Training: the optimisation, checkpoints, and how batches are made."""

    steps: int = Field(40, ge=1, description="of training; auto, or left out = as fits the data, see docs/train.md")
    samples: int | None = Field(None, ge=1, description="samples to see, instead of steps")
    epochs: float | None = Field(
        None, gt=0, description="passes over the images, or the selection that is there; instead of steps"
    )
    batch_size: int = Field(
        256, ge=2, description="global batch, over all processes; auto, or left out = 256, fewer for few images"
    )
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto", description="data loading processes; 0 = a thread; auto = from the cores, a thread for small images"
    )
    replay: Literal["exact", "fast"] = Field("exact", description="how stored views are replayed for the student")
    texts_weight: float = Field(1.0, ge=0, description="of the losses on reinforce.texts; 0 = they are not read")
    half_weights: bool = Field(False, description="store the finished weights as fp16")

    @model_validator(mode="before")
    @classmethod
    def _auto_is_left_out(cls, values: Any) -> Any:
        """`steps = "auto"` is the same as no `steps`: `stages.budget` fills in what fits the data."""
        if not isinstance(values, dict):
            return values
        return {key: value for key, value in values.items() if not (key in AUTO_KEYS and value == "auto")}


class CaptionsRecipe(Strict):
    """Which captions the student reads; see docs/train.md."""

    policy: Literal["auto", "any", "sum", "mix"] = Field(
        "auto", description="auto = sum where there are real and synthetic captions, else any"
    )
    weights: dict[str, float] = Field({}, description='source -> weight, as { real = 1.0, "synthetic:coca" = 0.5 }')
    sub_sentences: bool = Field(False, description="draw stored sentences of long captions too")
    consistency_weight: float | None = Field(
        None, gt=0, description="temperature of pair weights by teacher consistency (ALIP: 0.5); None = off"
    )


class BaselineRecipe(Strict):
    """The plain student trained beside: same architecture, samples, views and captions, no teacher anywhere."""

    enabled: bool = Field(True, description="train the plain student too, so that the gain is known")
    objective: str | dict[str, float] = Field("clip", description="what the plain student learns by")
    inherit: str = Field("none", description="what the plain student starts from; as student.inherit")
    four_arms: bool = Field(
        False, description="two more beside: distilled from a random start, and inherited without a teacher"
    )


class EvalRecipe(Strict):
    """What is measured."""

    limit: int | None = Field(None, ge=2, description="evaluation images; None = all that the data has")
    data: str | None = Field(None, description="evaluate on other data than the training data's own eval split")
    split: str | None = Field(
        None,
        description="the part of the evaluation data to use (test, val, ...); None = its evaluation part, else all",
    )
    image_column: str | None = Field(None, description="as image_column, of eval.data; None = image_column, if there")
    caption_column: Annotated[tuple[str, ...], BeforeValidator(_several)] = Field(
        (), description="as caption_column, of eval.data; none = caption_column, if there"
    )
    zero_shot: str | None = Field(
        None, description="a labelled set for zero-shot classification, None = the data's own"
    )
    batch_size: int = Field(128, ge=1, description="images or captions per forward when models are judged")
    device: Literal["auto", "cpu"] = Field(
        "auto", description="where models are judged; auto = a GPU where there is one"
    )


class Recipe(Strict):
    """A whole job."""

    teachers: tuple[str, ...] = Field(
        ("rendered",), description="names, open_clip:MODEL/TAG or paths; see distill list teachers"
    )
    captioners: tuple[str, ...] = Field((), description="see distill list captioners")
    data: str = Field(
        "rendered:train=2048",
        description="a folder, a table, hf:ORG/SET, or a reinforced set; see distill list sources",
    )
    image_column: str | None = Field(
        None,
        description="of data: the column (or ending of tars' members) of images or their paths; None = by name or content",
    )
    caption_column: Annotated[tuple[str, ...], BeforeValidator(_several)] = Field(
        (), description="of data: columns, JSON keys or endings of members that hold real captions; none = by name"
    )
    limit: int | None = Field(None, ge=2, description="training images; None = all")
    objective: str | dict[str, float] = Field(
        "small-batch",
        description="what the student learns by: a name of distill list objectives, or losses and their weights",
    )
    seed: int = Field(0, ge=0, lt=2**62, description="of every draw: the same seed gives the same student")
    filters: tuple[str, ...] = Field(
        (), description="curation of the reinforced set, in order; see distill list filters"
    )
    selection: str | None = Field(
        None,
        description="folder of a selection to train on; None = the reinforced set's own, if any; none = all samples",
    )
    towers: str | None = Field(None, description="train alignment heads over these frozen towers instead of a student")
    student: StudentRecipe = StudentRecipe()
    choose: ChooseSettings = ChooseSettings()
    reinforce: ReinforceRecipe = ReinforceRecipe()
    cluster: ClusterSettings = ClusterSettings()
    train: TrainRecipe = TrainRecipe()
    captions: CaptionsRecipe = CaptionsRecipe()
    baseline: BaselineRecipe = BaselineRecipe()
    eval: EvalRecipe = EvalRecipe()
    export: ExportSettings = ExportSettings()
    lint: LintSettings = LintSettings()
    profile: ProfileSettings = ProfileSettings()
    rehearse: bool = Field(
        False, description="random weights, a handful of samples: proves the machine, not the accuracy"
    )
