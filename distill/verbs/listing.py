"""`distill list`: what can be named in a call."""

from typing import Any

from distill.core.errors import UsageError, nearest

KINDS = ("teachers", "students", "losses", "objectives", "targets", "devices", "sources", "strategies", "recipes")


def list_names(kind: str) -> list[dict[str, Any]]:
    """One row per thing of that kind, with its main facts. Raises UsageError for an unknown kind."""
    if kind not in KINDS:
        raise UsageError(f"Unknown kind {kind!r}. {nearest(kind, KINDS)}")
    rows: list[dict[str, Any]] = globals()[f"_{kind}"]()
    return rows


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


def _students() -> list[dict[str, Any]]:
    from students.spec import STUDENTS

    return [
        {"name": name, "input": spec.image_size, "context": spec.context_length, "note": spec.note}
        for name, spec in STUDENTS.items()
    ]


def _losses() -> list[dict[str, Any]]:
    from distill.loss import LOSSES

    return [{"name": name, "what": _first_line(loss)} for name, loss in LOSSES.items()]


def _objectives() -> list[dict[str, Any]]:
    from distill.objective import PRESETS

    return [{"name": name, "weights": weights} for name, weights in sorted(PRESETS.items())]


def _targets() -> list[dict[str, Any]]:
    from export.target import TARGETS

    return [
        {"name": name, "precision": target.precision, "suffix": target.suffix, "missing": target.missing()}
        for name, target in TARGETS.items()
    ]


def _devices() -> list[dict[str, Any]]:
    from export.device import DEVICES

    return [{"name": name, "what": _first_line(device)} for name, device in DEVICES.items()]


def _sources() -> list[dict[str, Any]]:
    from reinforced_data.source import SOURCES

    return [{"name": name, "what": _first_line(opener)} for name, opener in SOURCES.items()]


def _strategies() -> list[dict[str, Any]]:
    from students.inherit import STRATEGIES

    return [{"name": name, "what": _first_line(pick)} for name, pick in STRATEGIES.items()]


def _recipes() -> list[dict[str, Any]]:
    from distill.recipe import RECIPES

    return [
        {"name": file.stem, "what": file.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")}
        for file in sorted(RECIPES.glob("*.toml"))
    ]


def _first_line(thing: Any) -> str:
    return (thing.__doc__ or "").strip().splitlines()[0] if thing.__doc__ else ""
