"""`make_plan`: from a call's settings to the `Plan` that decides every stored byte; wrong settings end here."""

from collections.abc import Sequence
from typing import Any

from distill.core.errors import UsageError
from reinforced_data.labelling.settings import ReinforceSettings
from reinforced_data.pixels.views import view_preset
from reinforced_data.source import Source
from reinforced_data.store.manifest import (
    SCHEMA_VERSION,
    Plan,
    SourceFacts,
    captioner_record,
    software_versions,
    teacher_record,
)
from teachers.captioner import Captioner
from teachers.teacher import Teacher


def make_plan(
    source: Source,
    teachers: Sequence[Teacher],
    captioners: Sequence[Captioner],
    settings: ReinforceSettings,
    seed: int,
    columns: dict[str, Any] | None = None,
) -> Plan:
    """The plan of the set that `settings` and `seed` ask for. `columns`: which of the source the user named, for its other parts.

    Raises UsageError when no teacher or one model twice is named, or when the settings make no sense together.
    """
    _check(settings, seed)
    names = [teacher.spec.name for teacher in teachers]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"Name at least one teacher, each once (got {', '.join(names) or 'none'}).")
    speakers = [captioner.spec.name for captioner in captioners]
    if len(set(speakers)) < len(speakers):
        raise UsageError(f"A captioner is named twice: {', '.join(speakers)}.")
    return Plan(
        schema_version=SCHEMA_VERSION,
        source=SourceFacts(
            name=source.name,
            location=str(getattr(source, "location", source.name)),
            licence=source.licence,
            fingerprint=source.fingerprint,
            samples=len(source),
            columns=columns or {},
        ),
        teachers=[teacher_record(teacher) for teacher in teachers],
        captioners=[captioner_record(captioner) for captioner in captioners],
        sentences=settings.sentences,
        view_preset=settings.view_preset,
        rendering=settings.rendering,
        views_per_image=settings.views_per_image,
        seed=seed,
        embed_dtype=settings.embed_dtype,
        shard_size=settings.shard_size,
        batch_size=settings.batch_size,
        teacher_precision=settings.teacher_precision,
        versions=software_versions(settings.rendering),
        parents=[],
    )


def _check(settings: ReinforceSettings, seed: int) -> None:
    if seed < 0:
        raise UsageError(f"seed must be at least 0 (got {seed}).")
    preset, views = settings.view_preset, settings.views_per_image
    if view_preset(preset).scale is None and views > 1:
        raise UsageError(
            f"The view preset {preset!r} always gives the same view; storing it {views} times is waste. Set "
            "views_per_image to 1, or choose the preset 'light' or 'mobileclip'."
        )
