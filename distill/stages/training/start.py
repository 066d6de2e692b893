"""What a student starts from: pairs to score and measure on, and what is said of it before it trains."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from distill.core.errors import DistillError
from distill.learning.settings import OptimSettings

if TYPE_CHECKING:
    from torch import Tensor

    from distill.learning.task import DistillTask
    from students.inherit.calibration import Calibration
    from students.student import Student

PAIRS = 256  # to score and measure on: what Minitron's authors call enough is 512 to 1024 of much longer texts


def calibration(
    data: Any, task: "DistillTask", student: "Student", *, seed: int, teacher: str | None
) -> "Calibration | None":
    """Pairs of the run's own data, the first that training would draw; None where there are none.

    Args:
        data: `StoredPairs` or `RawPairs`, at the student's image size.
        task: its losses are the calibration's loss.
        student: whose tokenizer reads the captions.
        seed: of the draw.
        teacher: whose stored embeddings are the source's, None = nobody's.
    """
    import torch

    from distill.learning.loop.feed import pair_arguments
    from reinforced_data.training.loader import batches
    from students.inherit.calibration import Calibration

    n = min(PAIRS, len(data))
    if n < 2:
        return None
    batch = next(batches(data, batch_size=n, seed=seed, first_step=0, last_step=1, rank=0, world=1, workers=0))
    images, tokens, *rest = pair_arguments(student.tokenize)(batch, student.device)

    def loss(model: "Student") -> "Tensor":
        if model is not student:
            raise DistillError("The calibration loss is of another student. Please report this.")
        return task(images, tokens, *rest)["loss"]  # type: ignore[no-any-return]

    texts, rows = list(batch.texts)[:n], torch.arange(n)
    if batch.unpaired:  # every second one, so that a text tower is scored and repaired on what it is to read
        rows[1::2] += len(batch.texts) - n
        texts = [batch.texts[int(row)] for row in rows]
    stored = {}
    if teacher is not None and teacher in batch.teacher_image:
        stored = {"visual": batch.teacher_image[teacher], "text": batch.teacher_text[teacher][rows]}
    return Calibration(images, texts, loss, stored)


def rates_by_origin(origins: dict[str, str], optim: OptimSettings) -> Callable[[str], float]:
    """From the name of a parameter inside the task to the factor on its learning rate, by where it started from.

    Args:
        origins: of the student's tensors: "inherited", "adopted" or "new"; one that is not there is new.
        optim: the factors.
    """
    factors = {"inherited": optim.lr_inherited, "adopted": optim.lr_adopted, "new": optim.lr_new}
    return lambda name: factors[origins.get(name.removeprefix("model.clip."), "new")]


def not_inherited(inherited: dict[str, Any]) -> str:
    """One line about what a student does not inherit and why; empty when it inherits everything."""
    reasons = "; ".join(f"{tower}: {reason}" for tower, reason in inherited["skipped"].items())
    if not inherited["towers"]:
        return f"nothing is inherited, every weight starts at random ({reasons or 'student.inherit is none'})."
    return f"{', '.join(inherited['towers'])} inherited; at random start {reasons}." if reasons else ""


def start_lines(inherited: dict[str, Any]) -> list[str]:
    """Lines about a start: by which road each tower inherits, what is not inherited and why, and in what kind a tower differs
    that is inherited."""
    lines = _roads(inherited)
    lines += [line] if (line := not_inherited(inherited)) else []
    for tower, facts in inherited.get("across", {}).items():
        how = "; ".join(f"{fact.replace('_', ' ')} {text}" for fact, text in facts.items())
        losses = inherited.get("step0", {}).get(tower)
        measured = f" Step-0 loss {losses['inherited']:.3f}, {losses['random']:.3f} at random." if losses else ""
        lines.append(f"{tower} inherited although it differs ({how}).{measured}")
    for tower, found in inherited.get("repaired", {}).items():
        if found["how"] != "none" and found["sliced"] is not None:
            lines.append(
                f"{tower} is repaired ({found['how']}): step-0 loss {found['repaired']:.3f}, {found['sliced']:.3f} as it is sliced."
            )
    for tower, fit in inherited.get("projected", {}).items():
        lines.append(
            f"the projection of {tower} is fitted in closed form on {fit['samples']} embeddings, of whose variance it explains "
            f"{fit['explained']:.0%} where they were held out."
        )
    for tower in inherited["towers"]:
        if new := _new_parts(inherited.get("origins", {}), tower):
            lines.append(f"of {tower}, these start at random: {', '.join(new)}.")
    return lines


def _roads(inherited: dict[str, Any]) -> list[str]:
    """How each tower that is inherited was selected."""
    plan, source = inherited.get("plan") or {}, inherited.get("source")
    lines = [f"{tower} is adopted whole from {source}." for tower in plan.get("adopted", [])]
    for tower, parts in plan.get("towers", {}).items():
        layers = ", ".join(map(str, parts["layers"]))
        counts = f"{len(parts['hidden'])} channels, {len(parts['heads'][0])} heads and {len(parts['ffn'][0])} neurons a layer"
        lines.append(f"{tower} is sliced from {source} by {inherited['strategy']}: layers {layers}, {counts}.")
    return lines


def _new_parts(origins: dict[str, str], tower: str) -> list[str]:
    """The parts of an inherited tower that are new, by the first words of their names."""
    image = {name for name in origins if name.startswith("visual.")}
    own = image if tower == "visual" else origins.keys() - image - {"logit_scale", "logit_bias"}
    new = {".".join(name.split(".")[:2]) for name in own if origins[name] == "new"}
    return sorted(new)
