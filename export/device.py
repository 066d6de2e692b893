"""Devices to measure on: their registry, and what is known of each. Left out: the order of measuring (`export.latency.measure`)."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from distill.core.errors import DistillError
from distill.core.progress import Progress
from distill.core.registry import Registry

if TYPE_CHECKING:
    from export.artifacts.record import ExportArtifact, LatencyProfile
    from export.settings import ProfileSettings


@dataclass(frozen=True)
class DeviceInfo:
    """One device, or a kind of device of which none is there.

    Attributes:
        name: what `--device` takes.
        kind: "host", "android", "apple" or "web".
        model: processor or phone model, "" when none is attached.
        os: its operating system and version, "" when none is attached.
        runtimes: runtime -> version that can be measured there.
        ready: whether a latency can be measured now.
        missing: what is in the way and what to do about it; "" when ready.
        abi: what programs must be built for ("arm64-v8a"); "" where it is not asked.
        attended: whether somebody must open a page there, so that it is timed only where it is named.
        emulated: whether it is no phone but runs on this computer, so that its times are this computer's.
    """

    name: str
    kind: str
    model: str = ""
    os: str = ""
    runtimes: dict[str, str] = field(default_factory=dict)
    ready: bool = False
    missing: str = ""
    abi: str = ""
    attended: bool = False
    emulated: bool = False


class DeviceKind(ABC):
    """Finds the devices of one kind. Must answer in a second and never raise because something is absent."""

    kind: ClassVar[str]

    @abstractmethod
    def find(self, settings: "ProfileSettings | None" = None) -> list[DeviceInfo]:
        """What is attached; at least one entry, which says what is missing when nothing is.

        Args:
            settings: where vendors' programs lie, besides the places where they are looked for anyway.
        """

    def measure(
        self,
        info: DeviceInfo,
        artifacts: "dict[Path, list[ExportArtifact]]",
        settings: "ProfileSettings",
        *,
        resume: bool,
        progress: Progress,
    ) -> "dict[Path, list[LatencyProfile]]":
        """Time every exported folder on a device that is ready. Raises DistillError where it cannot be done to the end."""
        raise DistillError(f"Devices of the kind {self.kind!r} are not timed by themselves.")


DEVICES: Registry[DeviceKind] = Registry("device", ("export.devices",))


def list_devices(settings: "ProfileSettings | None" = None) -> list[DeviceInfo]:
    """Every device of every kind, the host first. `settings`: as of `DeviceKind.find`."""
    found = [info for _, kind in DEVICES.items() for info in kind.find(settings)]
    return sorted(found, key=lambda info: info.kind != "host")
