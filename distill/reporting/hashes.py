"""hashes.json: what a run made, by content. Two runs of one recipe on one machine have equal ones, killed or not."""

from distill.core import atomic
from distill.core.clip.folder import WEIGHTS_FILE
from distill.run_folder import RunFolder
from export.artifacts.folder import read_artifacts


def artifact_hashes(run: RunFolder) -> dict[str, str]:
    """Relative path -> SHA-256 of the reinforced shards, trained weights, evaluation figures and exported files."""
    result = {}
    for pattern in (
        "reinforced/*.arrow",
        "texts.arrow",
        f"**/student/{WEIGHTS_FILE}",
        f"averaged/{WEIGHTS_FILE}",
        "eval/*.json",
        "classes/embeddings.safetensors",
    ):
        for path in sorted(run.path.glob(pattern)):
            result[path.relative_to(run.path).as_posix()] = atomic.sha256_file(path)
    for folder in run.exported():
        for artifact in read_artifacts(folder):
            result[f"{folder.relative_to(run.path).as_posix()}/{artifact.file}"] = artifact.sha256
    return result


def write_hashes(run: RunFolder) -> None:
    """Write hashes.json."""
    atomic.write_json(run.hashes, artifact_hashes(run))
