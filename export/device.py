"""Devices to measure on: their registry, and what is known of each. Left out: measuring (export.profile)."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from distill.core.registry import Registry


@dataclass(frozen=True)
class DeviceInfo:
    """One device, or a kind of device of which none is there.

    Attributes:
        name: what `--device` takes.
        kind: "host", "android" or "apple".
        model: processor or phone model, "" when none is attached.
        os: its operating system and version, "" when none is attached.
        runtimes: runtime -> version that can be measured there.
        ready: whether a latency can be measured now.
        missing: what is in the way and what to do about it; "" when ready.
    """

    name: str
    kind: str
    model: str = ""
    os: str = ""
    runtimes: dict[str, str] = field(default_factory=dict)
    ready: bool = False
    missing: str = ""


class DeviceKind(ABC):
    """Finds the devices of one kind. Must answer in a second and never raise because something is absent."""

    kind: ClassVar[str]

    @abstractmethod
    def find(self) -> list[DeviceInfo]:
        """What is attached; at least one entry, which says what is missing when nothing is."""


DEVICES: Registry[DeviceKind] = Registry("device", ("export.devices",))


def list_devices() -> list[DeviceInfo]:
    """Every device of every kind, the host first."""
    found = [info for _, kind in DEVICES.items() for info in kind.find()]
    return sorted(found, key=lambda info: info.kind != "host")
