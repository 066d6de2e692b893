"""What each tower of five students inherits from each of the published teachers, by which road, and how good a start is where weights are here.

    python -m benchmarks.inheritance_table > table.md                                    # configurations alone
    python -m benchmarks.inheritance_table --step0 rendered nano rendered \\
        --step0 runs/sail/teacher timm:tf_efficientnet_lite0@160+hf:bert-3x384x768 ../photos   # TEACHER STUDENT DATA, nothing but these

Every model of the table is built without weights (torch's device "meta") and planned as a run would plan it (`students.inherit.planning`). What
differs in kind is named; a run measures there, on its own pairs, whether that start is better than a random one. The step-0 loss is
1 - cosine to the source's embeddings behind the best linear map, on 256 pairs of DATA (`students.inherit.calibration`). Prints Markdown.
"""

import argparse
import datetime

import torch

from distill.core.clip.folder import vocabulary_id
from distill.core.clip.weights import ClipWeights
from distill.stages.training.start import PAIRS
from reinforced_data.source import open_source
from reinforced_data.training.loader import batches
from reinforced_data.training.pairs import RawPairs
from students.inherit.calibration import Calibration, measure
from students.inherit.plan import InheritancePlan, plan_of
from students.inherit.planning import make_plan
from students.inherit.resnets.plan import ResNetPlan
from students.inherit.start import Terms, start_from
from students.inherit.strategy import STRATEGIES
from students.inherit.towers.tower import skeleton
from students.spec import STUDENTS
from students.student import build_student
from teachers.load import load_teacher
from teachers.open_clip.names import model_config, pretrained_config, split_source
from teachers.spec import TEACHERS

CHOSEN = ("mci0", "mci2", "mci4", "tinyclip-vit8m16", "vit-b-16")


def source_of(name: str) -> ClipWeights:
    """A published teacher without its weights."""
    model, tag, _ = split_source(TEACHERS.get(name).source)
    cfg = model_config(model)
    if pretrained_config(model, tag).get("quick_gelu"):
        cfg["quick_gelu"] = True
    built = skeleton(cfg)
    vocabulary = str(cfg["text_cfg"].get("hf_tokenizer_name") or vocabulary_id(None))
    return ClipWeights(name, cfg, built.state_dict(), "no weights", vocabulary, model=built)


def road(plan: InheritancePlan, which: str, whole: int) -> str:
    """How one tower is inherited, in a table's cell; `whole` is the width of the teacher's embedding."""
    if which in plan.adopted:
        return "adopted whole"
    if which in plan.skipped:
        return f"- ({plan.skipped[which].split(';')[0]})"
    tower = plan.towers[which]
    if isinstance(tower, ResNetPlan):
        what = f"{' + '.join(str(len(kept)) for kept in tower.blocks)} blocks, {len(tower.cuts['stem'])} channels in the stem"
    else:
        what = f"{len(tower.layers)} layers of {len(tower.hidden)}"
    ends = "projection fitted" if tower.embed is None else f"embedding {len(tower.embed)} of {whole}"
    differs = ", ".join(fact.replace("_", " ") for fact in plan.across.get(which, {}))
    return f"{what}, {ends}" + (f"; differs in {differs}" if differs else "")


def step0(teacher: str, student: str, data: str, strategies: list[str]) -> list[str]:
    """The lines of a table: per strategy and tower the step-0 loss at random, as it is sliced or adopted, and repaired."""
    source = load_teacher(teacher).inheritable()
    spec = STUDENTS.get(student)
    pairs = pairs_of(data, max(spec.image_size, 64))
    towers = ("visual", "text")
    fresh = build_student(spec, 0)
    random = [measure(fresh, source, pairs, tower) for tower in towers]
    rows = [f"| random | {random[0]:.3f} | | {random[1]:.3f} | |"]
    roads: list[str] = []
    for strategy in strategies:
        found = {}
        for repair in ("none", "least-squares"):
            own = build_student(spec, 0)
            took = start_from(own, source, strategy, Terms("all", repair, lambda: pairs))
            found[repair] = [measure(own, source, pairs, tower) for tower in towers]
        roads = [road(plan_of(took["plan"]), tower, source.model_cfg["embed_dim"]) for tower in towers]
        cells = []
        for number, tower in enumerate(towers):
            plain, repaired = (found[repair][number] for repair in ("none", "least-squares"))
            cells += [f"{plain:.3f}", f"{repaired:.3f}" if tower in took["repaired"] else "-"]
        rows.append(f"| `{strategy}` | {' | '.join(cells)} |")
    head = "| start | image: as it is taken | repaired | text: as it is taken | repaired |"
    return [f"Image tower: {roads[0]}. Text tower: {roads[1]}.", "", head, "|---|---:|---:|---:|---:|", *rows]


def pairs_of(data: str, size: int) -> Calibration:
    """The first pairs that a training on a source of data would draw."""
    drawn = next(
        batches(
            RawPairs(open_source(data, "train"), "light", size),
            batch_size=PAIRS, seed=0, first_step=0, last_step=1, rank=0, world=1, workers=0,
        )
    )  # fmt: skip
    return Calibration(
        drawn.images.contiguous().float() / 255, list(drawn.texts)[:PAIRS], lambda student: torch.zeros(())
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", nargs="+", default=list(CHOSEN))
    parser.add_argument("--step0", nargs=3, action="append", metavar=("TEACHER", "STUDENT", "DATA"))
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES), help="of --step0")
    given = parser.parse_args()
    if given.step0:
        print(f"Step-0 loss on {PAIRS} pairs, measured {datetime.date.today()} by `benchmarks/inheritance_table.py`.")
        for teacher, student, data in given.step0:
            print(
                f"\n### `{student}` from {teacher}, pairs of {data}\n\n"
                + "\n".join(step0(teacher, student, data, given.strategies))
            )
        return
    names = [name for name in TEACHERS if TEACHERS.get(name).loader == "open_clip"]
    print(f"{len(names)} teachers, planned {datetime.date.today()} by `benchmarks/inheritance_table.py`.")
    for student in given.students:
        cfg = STUDENTS.get(student).model_cfg
        rows: dict[tuple[str, str], list[str]] = {}
        for name in names:
            source = source_of(name)
            plan = make_plan(source, cfg, "uniform", vocabulary_id(None))
            cells = [road(plan, which, source.model_cfg["embed_dim"]) for which in ("visual", "text")]
            rows.setdefault((cells[0], cells[1]), []).append(f"`{name}`")
        print(f"\n### {student}\n\n| from | image tower | text tower |\n|---|---|---|")
        for (image, text), teachers in rows.items():
            print(f"| {', '.join(teachers)} | {image} | {text} |")


if __name__ == "__main__":
    main()
