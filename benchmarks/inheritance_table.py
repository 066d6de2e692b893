"""What each tower of five students inherits from each of the published teachers, and by which road: configurations alone, no weights.

    python -m benchmarks.inheritance_table > table.md

Every model is built without weights (torch's device "meta") and planned as a run would plan it (`students.inherit.planning`). What
differs in kind is named; a run measures there, on its own pairs, whether that start is better than a random one. Prints Markdown.
"""

import argparse
import datetime

from distill.core.clip.folder import vocabulary_id
from distill.core.clip.weights import ClipWeights
from students.inherit.plan import InheritancePlan
from students.inherit.planning import make_plan
from students.inherit.resnets.plan import ResNetPlan
from students.inherit.towers.tower import skeleton
from students.spec import STUDENTS
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", nargs="+", default=list(CHOSEN))
    given = parser.parse_args()
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
