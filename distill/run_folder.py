"""The run folder: the names of every file and folder in it, and the recipe that it was made by."""

import hashlib
import os
import shlex
from pathlib import Path
from typing import Any

from distill.core import atomic
from distill.core.atomic import PARTIAL
from distill.core.errors import DamagedError
from distill.core.folders.lock import LOCK_FILE
from distill.recipe import Recipe
from distill.recipe.kept import as_recipe
from export.artifacts.folder import ARTIFACT_FILE, FAILED_PARITY, Examined, examine
from reinforced_data.store.names import MANIFEST_FILE, PLAN_FILE, SELECTION_FILE, SET_FOLDER, SHARD_GLOB

BULKY = ("plan", "origins", "transition")  # of inheritance.json: what no card or report repeats
_ARMS = ("the student", "the plain student", "the student from a random start", "the student without a teacher")
VERBS = ("reinforce", "train", "run")  # that work in a run folder; each does at least what the one before it does


class RunFolder:
    """Names every file and folder of a run; makes none of them.

    Args:
        path: the run folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser()  # a shell leaves the ~ of --out=~/run
        # What made the run, and what it said.
        self.recipe = self.path / "recipe.toml"
        self.resolved = self.path / "resolved.json"
        self.log = self.path / "log.txt"
        self.read_as = self.path / "read-as.json"  # how the data was read, and what was left aside
        self.choice = self.path / "choice.json"  # by which budget the student was chosen, among which
        self.candidates = self.path / "candidates"  # where several are trained before one is kept
        self.seconds = self.path / "seconds.json"  # of each stage; differs from run to run, so it is in no hash
        # The reinforced set and what is known of it.
        self.reinforced = self.path / SET_FOLDER
        self.verify = self.path / "reinforced-verify.json"
        self.captions = self.path / "captions.json"
        self.texts = self.path / "texts.arrow"  # of no image, read by the teachers: see reinforce.texts
        self.selection = self.path / "selection"
        self.cluster_logs = self.path / "cluster"
        # Training: of a student, or of heads over frozen towers (a teacher).
        self.checkpoints = self.path / "checkpoints"
        self.metrics = self.path / "metrics.jsonl"
        self.stopped = self.path / "stopped.json"  # where the loss was not finite, see stages.stops
        self.inheritance = self.path / "inheritance.json"
        self.start = self.path / "start"  # the student before its first step, where its projections were fitted
        self.vocabulary = self.path / "vocabulary"  # what the student's was cut to, where it was
        self.trained_on = self.path / "trained-on.json"
        self.student = self.path / "student"
        self.averaged = self.path / "averaged"  # the student with the average of its weights (train.ema)
        self.teacher = self.path / "teacher"
        self.features = self.path / "features.safetensors"
        # What was found and made of the student.
        self.eval = self.path / "eval"
        self.classes = self.path / "classes"  # that it was judged by: labels, templates, embeddings
        self.export = self.path / "export"
        # What `distill export` and `distill profile` were asked last: each goes on by it, see `distill.verbs.asked`.
        self.asked_export = self.path / "asked-export.json"
        self.asked_profile = self.path / "asked-profile.json"
        self.profile = self.path / "profile.json"
        self.hashes = self.path / "hashes.json"
        self.report_md = self.path / "report.md"
        self.report_html = self.path / "report.html"

    def __str__(self) -> str:
        return str(self.path)

    @property
    def plain(self) -> "RunFolder":
        """The plain student's own folder: training and student alone."""
        return RunFolder(self.path / "plain")

    @property
    def random_start(self) -> "RunFolder":
        """The folder of the student that is distilled from a random start (baseline.four_arms)."""
        return RunFolder(self.path / "random-start")

    @property
    def no_teacher(self) -> "RunFolder":
        """The folder of the student that inherits and has no teacher (baseline.four_arms)."""
        return RunFolder(self.path / "no-teacher")

    def stage(self, number: int) -> "RunFolder":
        """The folder of a progressive stage, counted from 1: its checkpoints, start and student."""
        return RunFolder(self.path / "stages" / str(number))

    def arms(self) -> "list[RunFolder]":
        """The folders of everything that a run may train, its own first."""
        return [self, self.plain, self.random_start, self.no_teacher]

    def eval_of(self, name: str) -> Path:
        """The figures of "student", of "plain" or of the teacher called `name`."""
        return self.eval / f"{name.replace('/', '_').replace(':', '_')}.json"

    def picture(self, key: str) -> Path:
        """The small picture of an evaluation sample that the report shows."""
        return self.eval / "pictures" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.jpg"

    def exported(self) -> list[Path]:
        """Folders of finished exports, sorted."""
        return [found.folder for found in self.exports() if not found.wrong]

    def exports(self) -> list[Examined]:
        """Every exported folder with what is wrong with it, checked file by file against its record and the student."""
        return examine(self.export, self.student)

    def kept(self) -> list[str]:
        """What is finished in the folder, a few words each, whatever the run is in the middle of."""
        found = []
        if (self.reinforced / MANIFEST_FILE).exists():
            found.append("the reinforced set")
        elif shards := len(list(self.reinforced.glob(SHARD_GLOB))):
            plan = atomic.read_json(self.reinforced / PLAN_FILE)
            found.append(
                f"{shards} of {-(-plan['source']['samples'] // plan['shard_size'])} shards of the reinforced set"
            )
        if self.texts.exists():
            found.append("the teachers' readings of texts")
        if (self.selection / SELECTION_FILE).exists():
            found.append("the selection")
        if self.features.exists():
            found.append("the features of the frozen towers")
        for name, arm in zip(_ARMS, self.arms(), strict=True):
            steps = [int(file.parent.name.rpartition("-")[2]) for file in arm.checkpoints.glob("step-*/state.json")]
            if arm.student.exists() or arm.teacher.exists():
                found.append(name if arm.student.exists() else "the heads")
            elif steps:
                found.append(f"a checkpoint of {name} at step {max(steps)} of {self.read_recipe().train.steps}")
        if figures := len(list(self.eval.glob("*.json"))):
            found.append(f"the figures of {figures} model{'s' if figures > 1 else ''}")
        return [*found, *self.exports_kept()]

    def exports_kept(self) -> list[str]:
        """The folders of finished exports, by name; whether the files are still good is not looked at."""
        folders = [file.parent.name for file in sorted(self.export.glob(f"*/{ARTIFACT_FILE}"))]
        return [
            f"export/{name}" for name in folders if not name.startswith(PARTIAL) and not name.endswith(FAILED_PARITY)
        ]

    def begun_in_vain(self) -> bool:
        """Whether this is a run of ours in which nothing was finished, and nothing lies that is not ours or other processes'."""
        if not self.resolved.exists() or self.kept() or self.candidates.exists() or self.cluster_logs.exists():
            return False
        ours = {value.name for value in vars(self).values() if isinstance(value, Path)}
        ours |= {arm.path.name for arm in self.arms()[1:]} | {
            "stages",
            "tensorboard",
            "wandb",
            "trackers.json",
            LOCK_FILE,
        }
        return all(child.name in ours or child.name.startswith(PARTIAL) for child in self.path.iterdir())

    def read_recipe(self) -> Recipe:
        """The recipe that the run was made by; the default where none is kept."""
        if not self.resolved.exists():
            return Recipe()
        return as_recipe(self.read_resolved()["recipe"], self.resolved)

    def said_recipe(self) -> Recipe:
        """`read_recipe` without the values that nobody set: those that were filled in when the run began."""
        resolved = self.read_resolved()
        for key in resolved.get("filled", {}):
            section, _, name = key.rpartition(".")
            (resolved["recipe"][section] if section else resolved["recipe"]).pop(name, None)
        return as_recipe(resolved["recipe"], self.resolved)

    def read_resolved(self) -> dict[str, Any]:
        """What resolved.json holds: recipe, versions, commit, and by which verb. Raises DamagedError where it holds no recipe."""
        found = atomic.read_json(self.resolved)
        if not isinstance(found, dict) or not isinstance(found.get("recipe"), dict):
            raise DamagedError(f"{str(self.resolved)!r} holds no recipe. Copy the run again, or begin another one.")
        return found

    def verb(self) -> str:
        """The verb of the command line that goes on with this run, "" where it holds none or an older version made it."""
        return str(self.read_resolved().get("verb", "")) if self.resolved.exists() else ""

    def widened(self) -> str:
        """What to do with the student of `distill train`, so that it is judged, exported and reported as one of `distill run`."""
        command = shlex.join(["distill", "run", str(self), "--resume", "--target", "onnx"])
        return f"To have its student judged, exported and reported too: {command}"

    def command(self, *settings: str) -> str:
        """The command that goes on with this run, with these settings ("key=value") changed."""
        words = ["distill", self.verb() or "run", str(self), "--resume"]
        return shlex.join([*words, *(word for setting in settings for word in ("--set", setting))])
