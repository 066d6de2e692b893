"""`distill list`: what can be named in a call."""

import json
from typing import Any

from distill.core.errors import UsageError, nearest
from distill.core.strict import Strict
from distill.verbs.results import Rows

KINDS = {
    "teachers": "models that label, by name",
    "captioners": "models that write captions",
    "students": "small architectures to train",
    "losses": "parts of an objective",
    "objectives": "what a student learns by",
    "targets": "formats of exported files, and their precisions",
    "devices": "where latencies are measured, and phones that are predicted",
    "sources": "kinds of data",
    "filters": "choices among stored samples",
    "strategies": "ways to inherit a teacher's weights",
    "rules": "what is known against a student on a target",
    "recipes": "files of settings that ship",
    "keys": "every key of a recipe, with its default: --set key=value",
}


# What a terminal shows of a kind that has more; --json has all of it.
SHOWN = {
    "teachers": ("name", "input", "width", "imagenet_top1", "commercial", "licence"),
    "captioners": ("name", "source", "commercial"),
    "targets": ("name", "precisions", "missing"),
    "rules": ("name", "severity", "for", "what", "mend"),
}


def list_names(kind: str | None = None) -> Rows:
    """One row per thing of that kind ("teachers", "students", "recipes", ...), with its main facts.

    None = what can be listed, the default recipe and every source of data, each a row with its "kind".
    Raises UsageError for an unknown kind, which names the known ones.
    """
    if kind is None:
        return Rows([*_kinds(), *_default(), *({"kind": "source", **row} for row in _sources())])
    if kind not in KINDS:
        raise UsageError(f"Unknown kind {kind!r}. {nearest(kind, KINDS)}")
    rows: list[dict[str, Any]] = globals()[f"_{kind}"]()
    return Rows(rows)


def _kinds() -> list[dict[str, Any]]:
    return [{"kind": "list", "name": name, "what": what, "see": f"distill list {name}"} for name, what in KINDS.items()]


def _default() -> list[dict[str, Any]]:
    """What `distill run` does without a word: the keys that everyone asks for, with their values."""
    from distill.recipe import Recipe

    asked = ("teachers", "data", "student.name", "objective", "student.inherit", "train.batch_size", "train.steps",
             "export.targets", "export.precisions")  # fmt: skip
    known = {key: (default, what) for key, default, what in recipe_keys(Recipe())}
    return [{"kind": "default", "name": key, "default": known[key][0], "what": known[key][1]} for key in asked]


def _teachers() -> list[dict[str, Any]]:
    from teachers.spec import TEACHERS

    return [
        {
            "name": name,
            "source": spec.source,
            "input": spec.image_size,
            "width": spec.width,
            "kind": spec.kind,
            "logit_scale": spec.logit_scale,
            "imagenet_top1": spec.imagenet_top1,
            "licence": spec.licence,
            "commercial": spec.commercial,
        }
        for name, spec in TEACHERS.items()
    ]


def _captioners() -> list[dict[str, Any]]:
    from teachers.captioner import CAPTIONER_SPECS

    named = [
        {"name": name, "source": spec.source, "licence": spec.licence, "commercial": spec.commercial}
        for name, spec in CAPTIONER_SPECS.items()
    ]
    own = "the checkpoint's own"
    forms = [
        ("coca:MODEL/TAG, coca:MODEL@CHECKPOINT", "any CoCa of open_clip", own),
        ("hf:NAME_OR_PATH", "an image-to-text model of transformers", own),
        ("python:MODULE:FUNCTION", "your function", "yours"),
        ("command:COMMAND LINE", "your program", "yours"),
        ("PATH", "a folder made by distill train with objective=coca", "its card's"),
    ]
    return named + [{"name": n, "source": what, "licence": terms, "commercial": None} for n, what, terms in forms]


def _students() -> list[dict[str, Any]]:
    from students.spec import STUDENTS

    def row(name: str, pixels: int | None, counts: tuple[float, ...] | None, note: str) -> dict[str, Any]:
        parts = dict(zip(("image_M", "text_M", "tokens_M"), counts or (None,) * 3, strict=True))
        return {"name": name, "input": pixels, **parts, "note": note}

    rows = [row(name, spec.image_size, spec.published_params, spec.note) for name, spec in STUDENTS.items()]
    return rows + [row(form, None, None, "put together by name") for form in STUDENTS.forms]


def _losses() -> list[dict[str, Any]]:
    from distill.learning.loss import LOSSES

    return [{"name": name, "what": _first_line(loss)} for name, loss in LOSSES.items()]


def _objectives() -> list[dict[str, Any]]:
    from distill.learning.objective import PRESETS

    return [{"name": name, "weights": weights} for name, weights in sorted(PRESETS.items())]


def _targets() -> list[dict[str, Any]]:
    from export.target import TARGETS

    return [
        {"name": name, "precisions": list(target.precisions), "suffix": target.suffix, "missing": target.missing()}
        for name, target in TARGETS.items()
    ]


def _devices() -> list[dict[str, Any]]:
    from export.device import DEVICES
    from export.latency.devices import CHIPS
    from export.latency.rows import calibration

    found = [{"name": name, "what": _first_line(device), "latency": "measured"} for name, device in DEVICES.items()]
    for chip in CHIPS.values():
        what = ", ".join([f"{chip.unit} of the {chip.name}", *chip.phones])
        found.append({"name": (chip.phones or (chip.name,))[0], "what": what, "latency": calibration(chip)})
    return found


def _sources() -> list[dict[str, Any]]:
    from reinforced_data.source import SOURCES

    return [{"name": name, "what": _first_line(opener)} for name, opener in SOURCES.items()]


def _filters() -> list[dict[str, Any]]:
    from reinforced_data.curation.filter import FILTERS

    return [
        {"name": name, "keys": ", ".join(filter_.model_fields), "what": _first_line(filter_)}
        for name, filter_ in FILTERS.items()
    ]


def _strategies() -> list[dict[str, Any]]:
    from students.inherit.strategy import STRATEGIES

    rows = [{"name": name, "what": _first_line(strategy)} for name, strategy in STRATEGIES.items()]
    copy = "Every weight as it is, from a model of the same architecture: for fine-tuning."
    return sorted([*rows, {"name": "copy", "what": copy}], key=lambda row: row["name"])


def _rules() -> list[dict[str, Any]]:
    from export.towers.lints.rule import RULES, SEVERITIES

    return [
        {
            "name": name,
            "severity": SEVERITIES[rule.severity],
            "for": rule.unit,
            "what": rule.says,
            "mend": rule.mend,
            "source": rule.source,
        }
        for name, rule in RULES.items()
    ]


def _recipes() -> list[dict[str, Any]]:
    from distill.recipe import RECIPES

    return [
        {"name": file.stem, "what": file.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")}
        for file in sorted(RECIPES.glob("*.toml"))
    ]


def _keys() -> list[dict[str, Any]]:
    from distill.recipe import Recipe

    return [{"name": key, "default": default, "what": what} for key, default, what in recipe_keys(Recipe())]


def recipe_keys(part: Strict, prefix: str = "") -> list[tuple[str, str, str]]:
    """(dotted key, default, meaning) of every key of a part of a recipe, in the order of its tables."""
    found = []
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        if isinstance(value, Strict):
            found += recipe_keys(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", _as_said(value), field.description or ""))
    return found


def _as_said(value: Any) -> str:
    """A value as it is written after --set: TOML, and none for what nobody set."""
    if value is None:
        return "none"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_as_said(item)}" for key, item in value.items()) + "}"
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


def _first_line(thing: Any) -> str:
    """Of a docstring; without what it raises, which is for programs."""
    line = (thing.__doc__ or "").strip().splitlines()[0] if thing.__doc__ else ""
    return line.partition(" Raises ")[0].replace("`", "'")
