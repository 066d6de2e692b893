"""hashes.json: what a run made, by content. Two runs of one recipe on one machine have equal ones, killed or not."""

from pathlib import Path

from distill.core import atomic


def artifact_hashes(out: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of the reinforced shards, trained weights, evaluation figures and exported files."""
    result = {}
    for pattern in ("reinforced/*.arrow", "**/student/model.safetensors", "eval/*.json"):
        for path in sorted(out.glob(pattern)):
            result[path.relative_to(out).as_posix()] = atomic.sha256_file(path)
    for path in sorted((out / "export").glob("*/artifact.json")):
        for artifact in atomic.read_json(path):
            result[f"{path.parent.relative_to(out).as_posix()}/{artifact['file']}"] = artifact["sha256"]
    return result


def write_hashes(out: Path) -> None:
    """Write out/hashes.json."""
    atomic.write_json(out / "hashes.json", artifact_hashes(out))
