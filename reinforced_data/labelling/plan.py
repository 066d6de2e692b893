"""`make_plan`: from a call's settings to the `Plan` that decides every stored byte; wrong settings end here."""

from collections.abc import Sequence

from distill.core.errors import UsageError, nearest
from reinforced_data.pixels.views import view_preset
from reinforced_data.source import Source
from reinforced_data.store.codec import EMBED_DTYPES
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
    *,
    views_per_image: int,
    view_preset: str,
    embed_dtype: str,
    shard_size: int,
    batch_size: int,
    seed: int,
    sentences: bool = False,
) -> Plan:
    """The plan of a set; see `write.reinforce` for the settings. Raises UsageError when one is wrong."""
    _check_settings(views_per_image, view_preset, embed_dtype, shard_size, batch_size, seed)
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
        ),
        teachers=[teacher_record(teacher) for teacher in teachers],
        captioners=[captioner_record(captioner) for captioner in captioners],
        sentences=sentences,
        view_preset=view_preset,
        views_per_image=views_per_image,
        seed=seed,
        embed_dtype=embed_dtype,
        shard_size=shard_size,
        batch_size=batch_size,
        versions=software_versions(),
        parents=[],
    )


def _check_settings(views: int, preset: str, dtype: str, shard_size: int, batch_size: int, seed: int) -> None:
    least = (("views_per_image", views, 1), ("shard_size", shard_size, 1), ("batch_size", batch_size, 1))
    for name, value, bound in (*least, ("seed", seed, 0)):
        if value < bound:
            raise UsageError(f"{name} must be at least {bound} (got {value}).")
    if dtype not in EMBED_DTYPES:
        raise UsageError(f"Unknown embed_dtype {dtype!r}. {nearest(dtype, EMBED_DTYPES)}")
    if view_preset(preset).scale is None and views > 1:
        raise UsageError(
            f"The view preset {preset!r} always gives the same view; storing it {views} times is waste. Set "
            "views_per_image to 1, or choose the preset 'light' or 'mobileclip'."
        )
