"""Exported folders on disk: hashes, artifact.json in and out, and whether a folder is whole. No torch."""

import hashlib
from pathlib import Path

from distill.core import atomic
from distill.core.errors import UsageError
from export.artifact import ExportArtifact

ARTIFACT_FILE = "artifact.json"


def hash_path(path: Path) -> str:
    """Hex SHA-256 of a file; of a package folder, over its sorted relative paths and their contents' hashes."""
    if path.is_file():
        return atomic.sha256_file(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{atomic.sha256_file(file)}\n".encode())
    return digest.hexdigest()


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a package folder."""
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def write_artifacts(folder: Path, artifacts: list[ExportArtifact]) -> None:
    """Write artifact.json, which makes the folder whole."""
    atomic.write_json(folder / ARTIFACT_FILE, [artifact.to_json() for artifact in artifacts])


def read_artifacts(folder: Path) -> list[ExportArtifact]:
    """Both towers' artifacts in an exported folder. Raises UsageError when it is none or is damaged."""
    try:
        return [ExportArtifact.from_json(value) for value in atomic.read_json(folder / ARTIFACT_FILE)]
    except FileNotFoundError:
        raise UsageError(
            f"{str(folder)!r} is not an exported folder: {ARTIFACT_FILE} is missing. Give export/<target>-<precision>, "
            "or export again."
        ) from None
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{str(folder / ARTIFACT_FILE)!r} cannot be read ({error}). Export again.") from None


def whole(folder: Path, request: str) -> list[ExportArtifact] | None:
    """The artifacts of a folder that answers the same request with unchanged files, else None.

    Args:
        request: hash of everything the export depends on, as stored in each artifact's provenance.
    """
    if not (folder / ARTIFACT_FILE).is_file():
        return None
    try:
        artifacts = read_artifacts(folder)
    except UsageError:
        return None
    for artifact in artifacts:
        file = folder / artifact.file
        if artifact.provenance.get("export_request") != request or not file.exists():
            return None
        if hash_path(file) != artifact.sha256:
            return None
    return artifacts if {artifact.tower for artifact in artifacts} == {"image", "text"} else None
