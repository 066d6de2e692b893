"""`distill push`: a run's student with its card and exported files, to a Hugging Face repository or into a folder."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from distill.console import Console
from distill.core import atomic
from distill.core.clip.folder import call_text_tower
from distill.core.errors import DistillError, OutputExistsError, UsageError
from distill.run_folder import RunFolder
from distill.verbs.endings import ending_well
from distill.verbs.flags import AnyPath
from distill.verbs.results import PushResult

HUB = "hf:"
CARD = "README.md"
UNCHANGED = "Nothing was changed here; call again."
CLIENTS = (
    "httpx",
    "httpx2",
    "requests",
)  # whichever the hub's library speaks through; their errors have no common base


def push(
    run: AnyPath,
    to: AnyPath,
    *,
    public: bool = False,
    exports: bool = True,
    overwrite: bool = False,
    console: Console | None = None,
) -> PushResult:
    """Write the student, its model card, its report and its exported files.

    Args:
        run: a finished run folder.
        to: "hf:ORG/NAME", a repository of the hub, which is made where it is missing; or a folder.
        public: of a repository that is made; else it is private.
        exports: whether exported files go along; those that failed parity never do.
        overwrite: of a folder that exists.

    Raises:
        UsageError: no run is there, the folder exists, or the hub knows nobody here (log in by `hf auth login`).
        DistillError: the run is not finished, or the hub does not answer.
    """
    from distill.reporting.card import model_card
    from distill.reporting.facts import read_run

    folder, console = RunFolder(run), console or Console()
    facts = read_run(folder)
    place = str(to)
    with ending_well(place=place), console.stage("push"):
        if not place.startswith(HUB):
            target = Path(to).expanduser()
            if target.is_file():
                raise UsageError(f"{place!r} is a file. Name a folder, or hf:ORG/NAME.")
            if target.exists() and any(target.iterdir()) and not overwrite:
                raise OutputExistsError(f"{place!r} exists and holds files. Name another folder, or say --overwrite.")
            with atomic.staged_dir(target) as made:
                where = str(target.resolve())
                names = _gather(folder, facts, made, where, exports=exports, card=model_card(folder, facts))
            return PushResult(str(target), names)
        with tempfile.TemporaryDirectory(prefix="distill-push-") as scratch:
            repo = place.removeprefix(HUB)
            names = _gather(folder, facts, Path(scratch), repo, exports=exports, card=model_card(folder, facts))
            return PushResult(_upload(Path(scratch), repo, public, console), names)


def _gather(run: RunFolder, facts: dict[str, Any], out: Path, place: str, *, exports: bool, card: str) -> list[str]:
    """Everything that is pushed to `place`, in `out`; the names of the files."""
    shutil.copytree(run.student, out, dirs_exist_ok=True)
    call_text_tower(out, place)
    (out / CARD).write_text(card, encoding="utf-8")
    if run.report_html.exists():
        shutil.copy(run.report_html, out / run.report_html.name)
    if run.classes.is_dir():
        shutil.copytree(run.classes, out / run.classes.name, dirs_exist_ok=True)
    if exports:
        for folder in run.exported():
            shutil.copytree(
                folder,
                out / "export" / folder.name,
                ignore=shutil.ignore_patterns("profile-*.json", "asked-*.json", ".lock"),
            )
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


def _upload(folder: Path, repo: str, public: bool, console: Console) -> str:
    """Send a folder; the address of the repository."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    if repo.count("/") != 1:
        raise UsageError(f"{HUB}{repo} names no repository. Give organisation and name: {HUB}ORG/NAME.")
    api = HfApi()
    try:
        address = api.create_repo(repo, private=not public, exist_ok=True, repo_type="model")
        console.say(f"sending to {address}")
        api.upload_folder(
            repo_id=repo, folder_path=str(folder), repo_type="model", commit_message="Student distilled by Distill"
        )
    except HFValidationError as error:
        raise UsageError(f"The hub takes no such name: {error}") from None
    except LocalTokenNotFoundError:
        raise UsageError("The hub knows nobody here. Log in by `hf auth login`, or set HF_TOKEN.") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no status"
        if status in (401, 403):
            advice = "Log in by `hf auth login` with a token that may write there."
            raise UsageError(f"The hub does not let you write to {repo!r} ({status}). {advice}") from None
        raise DistillError(f"The hub refused {repo!r} ({status}): {error}. {UNCHANGED}") from None
    except Exception as error:
        if not isinstance(error, OSError | ValueError) and type(error).__module__.partition(".")[0] not in CLIENTS:
            raise
        raise DistillError(f"The hub does not answer: {type(error).__name__}: {error}. {UNCHANGED}") from None
    return str(address)
