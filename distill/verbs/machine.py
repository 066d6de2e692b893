"""`distill doctor` and `distill devices`: what works on this machine, and what is attached."""

from dataclasses import asdict
from typing import Any


def doctor() -> list[dict[str, Any]]:
    """One row per check: name, ok, detail, and what to do where it is not ok."""
    from export.doctor import doctor as checks

    return [asdict(check) for check in checks()]


def devices() -> list[dict[str, Any]]:
    """One row per device: this host, attached phones; and what is missing to use a kind."""
    from export.device import list_devices

    return [asdict(device) for device in list_devices()]
