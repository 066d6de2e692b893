"""What state a phone is in when it is timed: heat, throttling, battery, screen; and the gate that waits for a cool one.

Android's own reports are read (`dumpsys`); what one phone does not tell is None, and said. Left out: setting anything on the
phone: clocks are not pinned, so the state before and after stands beside each latency.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from distill.core.errors import DistillError
from export.devices.parts.adb import Phone
from export.settings import ProfileSettings

# Temperature.java of Android: THROTTLING_NONE 0, LIGHT 1 (the user sees nothing), MODERATE 2 (clocks go down), SEVERE 3 and worse.
MODERATE = 2
LOOK_S = 5.0
# One call, whose answers stand behind these titles.
REPORTS = {
    "battery": "dumpsys battery",
    "thermal": "dumpsys thermalservice",
    "power": "dumpsys power",
    "saver": "settings get global low_power",
    "focus": "dumpsys window displays",
    "clocks": "cat /sys/devices/system/cpu/cpu*/cpufreq/scaling_cur_freq",
}
TITLE = "distill-report "


@dataclass(frozen=True)
class Conditions:
    """The state of a phone at one moment; None where the phone does not tell.

    Attributes:
        battery_celsius: of the battery, which stands for the whole phone.
        throttling: Android's thermal status: 0 none, 1 light, 2 moderate (clocks go down), 3 severe, up to 6.
        battery_percent, charging: a phone on a charger is warmer, one that is nearly empty slower.
        power_saving: whether the battery saver, which lowers clocks, is on.
        screen_on: whether the display is lit.
        foreground: the app in front.
        cpu_mhz: the fastest core's clock.
    """

    battery_celsius: float | None = None
    throttling: int | None = None
    battery_percent: int | None = None
    charging: bool | None = None
    power_saving: bool | None = None
    screen_on: bool | None = None
    foreground: str | None = None
    cpu_mhz: int | None = None


def read_conditions(phone: Phone) -> Conditions:
    """The phone's state now. Raises what `Phone.shell` raises."""
    asked = "; ".join(f"echo {TITLE}{name}; {command} 2>/dev/null" for name, command in REPORTS.items())
    return parse_conditions(phone.shell(asked).out)


def parse_conditions(printed: str) -> Conditions:
    """Conditions from the reports of `REPORTS`, each behind its title. Unknown words are passed over."""
    parts = dict(part.partition("\n")[::2] for part in printed.split(TITLE)[1:])
    parts = {name.strip(): text for name, text in parts.items()}
    battery, thermal, power = (parts.get(name, "") for name in ("battery", "thermal", "power"))

    def number(pattern: str, text: str) -> int | None:
        found = re.search(pattern, text, re.MULTILINE)
        return int(found[1]) if found else None

    def yes(pattern: str, text: str) -> bool | None:
        found = re.findall(pattern, text, re.MULTILINE)
        return any(word in ("true", "Awake", "ON") for word in found) if found else None

    tenths = number(r"^\s*temperature: (\d+)", battery)
    clocks = [int(line) for line in parts.get("clocks", "").split() if line.isdigit()]
    focus = re.search(r"mCurrentFocus=Window\{\S+ \S+ ([^\s}/]+)", parts.get("focus", ""))
    return Conditions(
        battery_celsius=None if tenths is None else tenths / 10,
        throttling=number(r"^\s*Thermal Status: (\d+)", thermal),
        battery_percent=number(r"^\s*level: (\d+)", battery),
        charging=yes(r"^\s*(?:AC|USB|Wireless|Dock) powered: (\w+)", battery),
        power_saving={"1": True, "0": False}.get(parts.get("saver", "").strip()),
        screen_on=yes(r"^\s*mWakefulness=(\w+)", power),
        foreground=focus[1] if focus else None,
        cpu_mhz=max(clocks) // 1000 if clocks else None,
    )


def unfit(now: Conditions, settings: ProfileSettings) -> str:
    """Why the phone cannot be timed fairly now; "" when it can, or does not tell."""
    if now.throttling is not None and now.throttling >= MODERATE:
        return f"it slows itself down (Android's thermal status {now.throttling})"
    if now.battery_celsius is not None and now.battery_celsius > settings.max_celsius:
        return f"its battery has {now.battery_celsius:.1f} °C, above profile.max_celsius = {settings.max_celsius:g}"
    if now.power_saving:
        return "its battery saver, which lowers clocks, is on"
    return ""


def wait_until_fit(
    look: Callable[[], Conditions],
    settings: ProfileSettings,
    say: Callable[[str], None],
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Conditions:
    """Wait until the phone may be timed, at most `profile.cool_seconds`; the conditions then.

    Args:
        look: the conditions now.
        say: told once why it waits.

    Raises DistillError when it is still too hot then.
    """
    end, told = clock() + settings.cool_seconds, False
    while reason := unfit(now := look(), settings):
        if clock() >= end:
            raise DistillError(
                f"The phone is not timed: {reason}, and {settings.cool_seconds:.0f} s of waiting did not change that. Take it off "
                "its charger and out of the sun, close its apps, and call again with --resume; a larger profile.cool_seconds "
                "waits longer."
            )
        if not told:
            say(f"waiting for the phone to cool down: {reason}")
            told = True
        sleep(min(LOOK_S, max(0.0, end - clock())))
    return now
