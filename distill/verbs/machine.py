"""`distill doctor` and `distill devices`: what works on this machine, and what is attached."""

import os
from collections.abc import Sequence
from dataclasses import asdict

from distill.console import Console
from distill.core.errors import UsageError
from distill.verbs.flags import AnyPath, OneOrMore
from distill.verbs.results import Rows


def doctor(*, install: OneOrMore = (), console: Console | None = None) -> Rows:
    """One row per check: name, ok, detail, and what to do where it is not ok.

    Args:
        install: targets whose environments are made first, in the user's cache; the checks then show what is there.

    Raises:
        UsageError: no such target, or one that needs no environment of its own.
        DistillError: an environment could not be made.
    """
    from distill.core.packages.siblings import intruders
    from export.targets.parts.doctor import Check
    from export.targets.parts.doctor import doctor as checks

    _install([install] if isinstance(install, str | os.PathLike) else list(install), console or Console())
    found = intruders()
    detail = found or "teachers, students, reinforced_data and export are this package's own"
    fix = "Rename that folder or work elsewhere, or uninstall that package." if found else ""
    return Rows([asdict(check) for check in [*checks(), Check("import names", not found, detail, fix)]])


def _install(names: Sequence[AnyPath], console: Console) -> None:
    from distill.core.packages.install import install
    from export.target import TARGETS, get_target

    wanted = []
    for name in map(str, names):  # all names first: the first environment takes minutes
        environment = get_target(name).environment
        if environment is None:
            own = ", ".join(other for other, target in TARGETS.items() if target.environment is not None)
            raise UsageError(f"The target {name!r} needs no environment of its own; those that do: {own}.")
        wanted.append(environment)
    for environment in wanted:
        install(environment, console.say)


def devices() -> Rows:
    """One row per device: this host, attached phones; and what is missing to use a kind."""
    from export.device import list_devices

    return Rows([asdict(device) for device in list_devices()])
