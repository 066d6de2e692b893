"""The run directory: refused when it exists, resumed when it is the same job, with recipe, versions and commit inside."""

import contextlib
import importlib.metadata
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill.core import atomic
from distill.core.errors import DistillError, OutputExistsError, UsageError
from distill.recipe import Recipe

RESOLVED = "resolved.json"
PACKAGES = (
    "distill-edge", "torch", "torchvision", "timm", "open_clip_torch", "accelerate", "datasets", "coremltools",
    "executorch", "onnx", "onnxruntime", "onnxscript", "numpy", "pillow", "pyarrow",
)  # fmt: skip
MINIMUM_FREE_BYTES = 200_000_000
# What may differ between a run and its continuation without making it another job.
FREE_TO_CHANGE = ("profile", "cluster", "reinforce.verify", "export.jobs", "train.workers", "train.log_every")


def versions() -> dict[str, str]:
    """Python, platform and package versions; "absent" for a package that is not installed."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


def git_commit() -> str:
    """The commit of the source tree this package runs from, with "+changes" when it is not clean; "" outside git."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return ""
    try:
        call = ["git", "-C", str(root)]
        head = subprocess.run([*call, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        status = subprocess.run(
            [*call, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return head.stdout.strip() + ("+changes" if status.stdout.strip() else "")


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    result: dict[str, Any] = {}
    for key, item in value.items():
        result |= _flat(item, f"{prefix}.{key}" if prefix else key)
    return result


def differing_keys(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Dotted keys whose values differ, apart from those free to change."""
    a, b = _flat(old), _flat(new)
    keys = [key for key in sorted({*a, *b}) if a.get(key) != b.get(key)]
    return [key for key in keys if not key.startswith(FREE_TO_CHANGE)]


def refuse_existing(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Raise unless `out` may be written to: it is new or empty, or the call said what to do with what is there.

    Raises:
        OutputExistsError: it holds something and neither --resume nor --overwrite was said.
        UsageError: both were said, `out` is a file, or --overwrite would delete what is not a run.
    """
    if overwrite and resume:
        raise UsageError("Say either --resume or --overwrite, not both.")
    if out.is_file():
        raise UsageError(f"{str(out)!r} is a file; --out names a folder.")
    if not (out.is_dir() and any(out.iterdir())):
        return
    if overwrite and not (out / RESOLVED).exists():
        raise UsageError(
            f"{str(out)!r} is not a run of distill (no {RESOLVED} inside), so --overwrite will not delete it."
        )
    if not overwrite and not resume:
        raise OutputExistsError(
            f"The output {str(out)!r} exists. Continue that run with --resume, replace it with --overwrite, or give another --out."
        )


def open_run(out: Path, recipe: Recipe, *, resume: bool, overwrite: bool, extend: bool = False) -> None:
    """Make `out` ready for `recipe`: new, the continuation of the same job, or (`extend`) a job that adds to it.

    The recipe that extends a run is not kept here, but by `keep_recipe` when the set has turned out to take it.

    Raises:
        OutputExistsError: it exists and neither was said.
        UsageError: resume was said, but the run was started with other settings (names them).
        DistillError: not enough free space to begin.
    """
    values = recipe.model_dump(mode="json")
    if extend and (resume or overwrite):
        raise UsageError("Say one of --extend, --resume and --overwrite.")
    refuse_existing(out, resume=resume or extend, overwrite=overwrite)
    if out.is_dir() and overwrite:
        shutil.rmtree(out)
    elif (out / RESOLVED).exists() and not extend:
        before = atomic.read_json(out / RESOLVED)["recipe"]
        keys = differing_keys(before, values)
        if keys:
            raise UsageError(
                f"{str(out)!r} was started with other settings: {', '.join(keys)}. Resume with the same ones "
                f"(see {RESOLVED}), or give another --out.{_extend_hint(keys)}"
            )
    out.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out).free
    if free < MINIMUM_FREE_BYTES:
        raise DistillError(
            f"Only {free / 1e6:.0f} MB are free where {str(out)!r} lies; a run needs at least {MINIMUM_FREE_BYTES / 1e6:.0f} MB. "
            "Free some space or give another --out."
        )
    if not (out / RESOLVED).exists():
        keep_recipe(out, recipe)


@contextlib.contextmanager
def discard_unless(out: Path, begun: Path, *, first: bool = True) -> Iterator[None]:
    """When the work inside fails before the file `begun` was there, forget the run in `out`: the call may be mended and
    repeated without --overwrite. Only the first process does so."""
    try:
        yield
    except DistillError:
        if first and not begun.exists():
            for name in ("recipe.toml", RESOLVED, "log.txt"):
                (out / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # it holds something else
                out.rmdir()
        raise


def _extend_hint(keys: list[str]) -> str:
    grows = set(keys) <= {"teachers", "captioners", "reinforce.views_per_image"}
    return " To add teachers, captioners or views to a finished set: distill reinforce --extend." if grows else ""


def keep_recipe(out: Path, recipe: Recipe) -> None:
    """Write recipe.toml and resolved.json: what the run in `out` is made by, which a resume reads."""
    import tomli_w

    values = recipe.model_dump(mode="json")
    atomic.write_text(out / "recipe.toml", tomli_w.dumps(_without_none(values)))
    atomic.write_json(out / RESOLVED, {"recipe": values, "versions": versions(), "commit": git_commit()})


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value
