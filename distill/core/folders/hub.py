"""Where weights come from: folders the user names, then the Hugging Face cache, then (and only then) the network.

Offline is normal: the refusal comes within 30 s, says which file is wanted, every place looked at and the ways to
supply it, and leaves nothing half-written. Left out: what is inside the files (each loader checks its own), and mirrors
other than the one that `HF_ENDPOINT` names (huggingface_hub honours it).
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill.core.errors import DistillError

WEIGHTS_VARIABLE = "DISTILL_WEIGHTS"
_REQUEST_SECONDS = 8.0  # one HEAD request: connect and read, each
_PROBE_SECONDS = 20.0  # all first contacts of one call together, name resolution and redirects included


def find_weights(repo: str, file: str, *, what: str, alternatives: tuple[str, ...] = ()) -> Path:
    """The local path of `file` of the Hugging Face repository `repo`, downloaded when it has to be.

    Looked at in order: each folder of $DISTILL_WEIGHTS (`os.pathsep` between them) as
    `<folder>/<repo with / as -->/<file>`, `<folder>/<repo>/<file>` and `<folder>/<file>`; the Hugging Face cache
    (honours HF_HOME); the network, unless HF_HUB_OFFLINE is set.

    Args:
        repo: "organisation/name".
        file: path inside the repository.
        what: what the file is for, for the message: "the weights of teacher 'dfn-vitl14'".
        alternatives: other names of the same content (the safetensors beside a .bin), tried after `file` at each place.

    Raises:
        DistillError: it is nowhere and cannot be had. Offline or unreachable, this takes at most 30 s.
    """
    names = (file, *alternatives)
    looked: list[str] = []
    found = _in_folders(repo, names, looked) or _in_cache(repo, names, looked)
    if found is not None:
        return found
    if _offline():
        reason = "HF_HUB_OFFLINE is set, so the network was not asked"
    else:
        path, reason = _from_network(repo, names)
        if path is not None:
            return path
    raise DistillError(_refusal(repo, names, what, looked, reason))


def here_already(repo: str, *names: str) -> Path | None:
    """The local path of the first of these files of a repository that is on this machine, where `find_weights` looks for it."""
    return _in_folders(repo, names, []) or _in_cache(repo, names, [])


def weight_folders() -> list[Path]:
    """The folders of $DISTILL_WEIGHTS, in order; empty when it is not set."""
    return [Path(part).expanduser() for part in os.environ.get(WEIGHTS_VARIABLE, "").split(os.pathsep) if part]


def _in_folders(repo: str, names: tuple[str, ...], looked: list[str]) -> Path | None:
    for folder in weight_folders():
        places = [folder / repo.replace("/", "--"), folder / repo, folder]
        looked += [str(place / names[0]) for place in places]
        for place in places:
            for name in names:
                if (place / name).is_file():
                    return place / name
    return None


def _in_cache(repo: str, names: tuple[str, ...], looked: list[str]) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    looked.append(f"the Hugging Face cache {_cache_folder(repo)}")
    for name in names:
        cached = try_to_load_from_cache(repo, name)
        if isinstance(cached, str):
            return Path(cached)
    return None


def _cache_folder(repo: str) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"


def _offline() -> bool:
    from huggingface_hub import constants

    # The constant is read once at import; the variable may have been set since.
    now = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    return now or bool(constants.HF_HUB_OFFLINE)


def _from_network(repo: str, names: tuple[str, ...]) -> tuple[Path | None, str]:
    """(path, "") or (None, why not)."""
    from huggingface_hub import errors

    deadline = time.monotonic() + _PROBE_SECONDS
    for name in names:
        failure = _first_contact(repo, name, max(deadline - time.monotonic(), 0.1))
        if isinstance(failure, errors.EntryNotFoundError):
            continue
        if isinstance(failure, errors.GatedRepoError):
            return None, (
                f"the repository is gated: accept its terms at https://huggingface.co/{repo} and log in with "
                "`hf auth login`"
            )
        if isinstance(failure, errors.RepositoryNotFoundError):
            return None, "the Hugging Face Hub knows no such repository, or it is private and nobody is logged in"
        if failure is not None:
            return None, f"the Hugging Face Hub cannot be reached ({_one_line(failure)})"
        try:
            return _download(repo, name), ""
        except Exception as error:  # whatever the transport raises, the person needs the same paragraph
            return None, f"the download broke off ({_one_line(error)})"
    return None, f"the repository holds no file called {' or '.join(names)}"


def _first_contact(repo: str, name: str, seconds: float) -> Exception | None:
    """One HEAD request without retries, in a thread, because name resolution obeys no timeout. None when it answers."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    outcome: list[Exception | None] = []

    def ask() -> None:
        try:
            get_hf_file_metadata(hf_hub_url(repo, name), timeout=_REQUEST_SECONDS)
            outcome.append(None)
        except Exception as error:
            outcome.append(error)

    asker = threading.Thread(target=ask, daemon=True, name="distill-hub-contact")
    asker.start()
    asker.join(seconds)
    return outcome[0] if outcome else TimeoutError(f"no answer within {seconds:.0f} s")


def _download(repo: str, name: str) -> Path:
    from huggingface_hub import hf_hub_download

    with _no_leftovers(_cache_folder(repo)):
        return Path(hf_hub_download(repo, name, etag_timeout=_REQUEST_SECONDS))


@contextlib.contextmanager
def _no_leftovers(folder: Path) -> Iterator[None]:
    """Remove the `.incomplete` files that appear inside, also after Ctrl-C; those that were there belong to others."""
    before = set(folder.rglob("*.incomplete"))
    try:
        yield
    finally:
        for leftover in set(folder.rglob("*.incomplete")) - before:
            leftover.unlink(missing_ok=True)


def _one_line(error: Any) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."


def _refusal(repo: str, names: tuple[str, ...], what: str, looked: list[str], reason: str) -> str:
    folders = "" if weight_folders() else f" ({WEIGHTS_VARIABLE} is not set)"
    other = f" (or {', '.join(names[1:])})" if names[1:] else ""
    place = f"FOLDER/{repo.replace('/', '--')}"
    return (
        f"Cannot find {what}: the file {names[0]}{other} of {repo} is not on this machine, and {reason}. "
        f"Looked at: {'; '.join(looked)}{folders}. Two ways to supply it: (1) with a network, call again, or on "
        f"another machine run `hf download {repo} {names[0]} --local-dir {place}` and copy FOLDER here; "
        f"(2) put the file into {place}/ and set {WEIGHTS_VARIABLE}=FOLDER. "
        "A model that you already have is named by its path: --teacher PATH."
    )
