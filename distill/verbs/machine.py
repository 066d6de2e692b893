"""`distill doctor` and `distill devices`: what works on this machine, and what is attached."""

from dataclasses import asdict

from distill.verbs.results import Rows


def doctor() -> Rows:
    """One row per check: name, ok, detail, and what to do where it is not ok."""
    from distill.core.siblings import intruders
    from export.doctor import Check
    from export.doctor import doctor as checks

    found = intruders()
    detail = found or "teachers, students, reinforced_data and export are this package's own"
    fix = "Rename that folder or work elsewhere, or uninstall that package." if found else ""
    return Rows([asdict(check) for check in [*checks(), Check("import names", not found, detail, fix)]])


def devices() -> Rows:
    """One row per device: this host, attached phones; and what is missing to use a kind."""
    from export.device import list_devices

    return Rows([asdict(device) for device in list_devices()])
