"""The folder of an exported student on the disk: its names, what writes and reads it, and whether it is whole. Imports no torch.

The one writer and reader of exported folders, and the one place for the names in them.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from distill.core import atomic
from distill.core.clip.folder import CONFIG_FILE, MERGES_FILE, TOKENIZER_FILE, WEIGHTS_FILE
from distill.core.errors import UsageError
from export.artifacts.record import ExportArtifact, Tower

# Names in an export: <target>-<precision>/ for each target, with its towers' files and, last, the artifact's; logs/.
ARTIFACT_FILE = "artifact.json"
LOGS = "logs"
FAILED_PARITY = ".failed-parity"  # appended to the folder's name
STUDENT_KEY = "student_sha256"  # of an artifact's provenance, see `student_digest`
IMAGE_MODEL_FILE = "config.json"  # of a timm model alone, in place of CONFIG_FILE
# What decides a student's embeddings.
STUDENT_FILES = (WEIGHTS_FILE, CONFIG_FILE, IMAGE_MODEL_FILE, MERGES_FILE, TOKENIZER_FILE)


def tower_file(tower: Tower, suffix: str) -> str:
    """Name of a tower's file or package in its folder; `suffix` with the dot."""
    return f"{tower}{suffix}"


def profile_file(device: str) -> str:
    """Name of the file in an exported folder that holds its latencies on a device."""
    return f"profile-{''.join(c if c.isalnum() or c in '._-' else '-' for c in device)}.json"


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


@dataclass(frozen=True)
class Examined:
    """An exported folder and what is wrong with it: "" when its files are whole, passed, and are the student's."""

    folder: Path
    artifacts: list[ExportArtifact]
    wrong: str


def student_digest(student_dir: Path) -> str:
    """Hex SHA-256 over the files that decide what a student computes. Raises UsageError without weights."""
    if not (student_dir / WEIGHTS_FILE).is_file():
        raise UsageError(
            f"{str(student_dir)!r} is not a student folder: {WEIGHTS_FILE} is missing. Give the student/ of a run."
        )
    present = [name for name in STUDENT_FILES if (student_dir / name).is_file()]
    return atomic.sha256_json({name: atomic.sha256_file(student_dir / name) for name in present})


def examine(export: Path, student_dir: Path) -> list[Examined]:
    """Every exported folder in `export`, sorted by name, read and checked against its own record and the student.

    A file is taken for good only when its hash is the recorded one and its record names the student in `student_dir`: it
    may have been edited, copied from elsewhere, or made before the student was trained again.
    """
    student = student_digest(student_dir) if (student_dir / WEIGHTS_FILE).is_file() else ""
    folders = sorted(file.parent for file in export.glob(f"*/{ARTIFACT_FILE}"))
    return [_examine(folder, student) for folder in folders if not folder.name.startswith(atomic.PARTIAL)]


def examine_alone(folder: Path) -> Examined:
    """One exported folder checked against its own record, wherever it lies; whose student it is of nobody asks."""
    return _examine(folder, None)


def student_of(artifacts: list[ExportArtifact], student_dir: Path) -> bool:
    """Whether the student in `student_dir` is there and is the one that the files were made from."""
    if not (student_dir / WEIGHTS_FILE).is_file():
        return False
    student = student_digest(student_dir)
    return all(artifact.provenance.get(STUDENT_KEY) == student for artifact in artifacts)


def _examine(folder: Path, student: str | None) -> Examined:
    try:
        artifacts = read_artifacts(folder)
    except UsageError:
        return Examined(folder, [], f"its {ARTIFACT_FILE} cannot be read: export again")
    if folder.name.endswith(FAILED_PARITY):
        return Examined(
            folder, artifacts, "failed parity: it does not say what the student says, and is kept to look at"
        )
    if not _all_there(artifacts):
        return Examined(folder, artifacts, "a tower is missing: export again")
    changed = changed_files(folder, artifacts)
    if changed:
        return Examined(folder, artifacts, f"{changed[0]} is missing or not the file that was checked: export again")
    if student is not None and any(artifact.provenance.get(STUDENT_KEY) != student for artifact in artifacts):
        return Examined(folder, artifacts, "it is of another student than the one in this run: export again")
    return Examined(folder, artifacts, "")


def changed_files(folder: Path, artifacts: list[ExportArtifact]) -> list[str]:
    """Names of the files that are missing or are not what their records say, the towers' first."""
    recorded = {artifact.file: artifact.sha256 for artifact in artifacts}
    for artifact in artifacts:
        recorded |= artifact.beside
    return [
        name for name, digest in recorded.items() if not (folder / name).exists() or hash_path(folder / name) != digest
    ]


def read_artifacts(folder: Path) -> list[ExportArtifact]:
    """The artifacts of all towers in an exported folder. Raises UsageError when it is none or is damaged."""
    try:
        return [ExportArtifact.from_json(value) for value in atomic.read_json(folder / ARTIFACT_FILE)]
    except FileNotFoundError:
        raise UsageError(
            f"{str(folder)!r} is not an exported folder: {ARTIFACT_FILE} is missing. Give export/<target>-<precision>, "
            "or export again."
        ) from None
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{str(folder / ARTIFACT_FILE)!r} cannot be read ({error}). Export again.") from None


def read_if_whole(folder: Path, request: str) -> list[ExportArtifact] | None:
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
    if any(artifact.provenance.get("export_request") != request for artifact in artifacts):
        return None
    if changed_files(folder, artifacts):
        return None
    return artifacts if _all_there(artifacts) else None


def _all_there(artifacts: list[ExportArtifact]) -> bool:
    """Whether the record has every tower that it says its folder holds."""
    return bool(artifacts) and [artifact.tower for artifact in artifacts] == list(artifacts[0].towers)
