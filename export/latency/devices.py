"""Phones and their chips by name: which latency profile a device's predictions come from, and how far it is calibrated.

Left out: attached devices (`export.device`), and what is learned of a chip (`export.latency.fit`).
"""

import difflib
import functools
import re
from dataclasses import dataclass

from distill.core.errors import UsageError


@dataclass(frozen=True)
class Chip:
    """One system on a chip.

    Attributes:
        name: what `--device` takes, beside the phones' names.
        unit: "ANE", "HTP", or another NPU of which no latencies are published.
        phones: that have it.
        says: how tables write the chip, beside its name.
        gb_s: DRAM bandwidth in GB/s; None = not published.
        of: the chip that its uncalibrated profile is scaled from, by DRAM bandwidth or `speed`; "" = it has rows of its own.
        speed: how much faster than `of`; None = by bandwidth.
        note: where that is from, or what the reader must know.
        fp16: whether the NPU computes in fp16.
    """

    name: str
    unit: str
    phones: tuple[str, ...] = ()
    says: tuple[str, ...] = ()
    gb_s: float | None = None
    of: str = ""
    speed: float | None = None
    note: str = ""
    fp16: bool = True


def _iphones(*models: str) -> tuple[str, ...]:
    return tuple(f"iphone-{model}" for model in models)


BY_MEMORY = "scaled by memory bandwidth"
NO_ROWS = "no latency of this chip's NPU is published"
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("a14", "ANE", _iphones("12", "12-mini", "12-pro", "12-pro-max"), ("A14 Bionic",), 34.1),
        Chip("a15", "ANE", _iphones("13", "13-mini", "13-pro", "13-pro-max", "14", "14-plus", "se-3"), ("A15 Bionic",), 34.1),
        Chip("a16", "ANE", _iphones("14-pro", "14-pro-max", "15", "15-plus"), ("A16 Bionic",), 51.2),
        Chip("a17-pro", "ANE", _iphones("15-pro", "15-pro-max"), (), 51.2),
        Chip("a18", "ANE", _iphones("16", "16-plus", "16e"), (), 60, "a17-pro", note=BY_MEMORY),
        Chip("a18-pro", "ANE", _iphones("16-pro", "16-pro-max"), (), 60, "a17-pro", note=BY_MEMORY),
        Chip("a19", "ANE", _iphones("17"), (), 68, "a17-pro", note="scaled from the A17 Pro by an unverified memory bandwidth"),
        Chip("a19-pro", "ANE", _iphones("17-pro", "17-pro-max", "air"), (), 76.8, "a17-pro",
             note="scaled from the A17 Pro by an unverified memory bandwidth"),
        Chip("m1", "ANE", ("mac-m1", "macbook-pro-m1"), ("M1 Pro", "M1 Max", "M1 Ultra"), 68.25, "a14", 1.0,
             note="taken for the A14, beside which two published models take 0.91 and 1.05 of the time"),
        Chip("m2", "ANE", ("mac-m2",), ("M2 Pro", "M2 Max", "M2 Ultra"), 100, "m1", 1.05,
             note="scaled from the M1 by published weight streaming, 60-62 against 55-61 GB/s"),
        Chip("m3", "ANE", ("mac-m3", "macbook-pro-m3-max"), ("M3 Pro", "M3 Max"), 100),
        Chip("m4", "ANE", ("mac-m4",), ("M4 Pro", "M4 Max"), 120, "m3", 1.02,
             note="scaled from the M3 by published weight streaming, 64 against 63 GB/s"),
        Chip("m5", "ANE", ("mac-m5",), (), 153, "m3", 1.11,
             note="scaled from the M3 by published weight streaming, 70 against 63 GB/s"),
        Chip("snapdragon-8-gen-1", "HTP", ("galaxy-s22", "qcs8450"),
             ("QCS8450 (8 Gen 1 class)", "QCS8450 Proxy", "SM8450", "SM8475", "8+ Gen 1"), 51.2,
             note="measured on the QCS8450, a chip of its class"),
        Chip("snapdragon-8-gen-2", "HTP", ("galaxy-s23", "galaxy-s23-ultra", "qcs8550"),
             ("QCS8550 (8 Gen 2 class)", "QCS8550 Proxy", "SM8550"), 67.2, note="measured on the QCS8550, a chip of its class"),
        Chip("snapdragon-8-gen-3", "HTP", ("galaxy-s24", "galaxy-s24-ultra", "oneplus-12", "vivo-iqoo-12"), ("SM8650",), 76.8),
        Chip("snapdragon-8-elite", "HTP", ("galaxy-s25", "galaxy-s25-ultra", "snapdragon-8-elite-qrd"), ("SM8750",), 84.8),
        Chip("snapdragon-8-elite-gen-5", "HTP", ("galaxy-s26", "snapdragon-8-elite-gen-5-qrd"), ("SM8850",)),
        Chip("snapdragon-x-elite", "HTP", ("snapdragon-x-elite-crd",), ("SC8380XP",), 135),
        Chip("snapdragon-x2-elite", "HTP", ("snapdragon-x2-elite-crd",)),
        Chip("snapdragon-7-gen-4", "HTP", ("snapdragon-7-gen-4-qrd",), ("SM7750",), note="published in int8 alone"),
        Chip("qcs6490", "HTP", ("rb3-gen-2", "dragonwing-rb3-gen-2-vision-kit", "rubik-pi-3"), ("QCM6490", "V68"),
             note="its NPU has no fp16", fp16=False),
        Chip("snapdragon-8s-gen-3", "HTP", ("8s-gen-3-qrd",), ("SM8635",), 67.2, "snapdragon-8-gen-3", note=BY_MEMORY),
        Chip("snapdragon-7-gen-3", "HTP", ("honor-100",), ("SM7550",), 51.2, "snapdragon-8-gen-1", note=BY_MEMORY),
        Chip("snapdragon-7-plus-gen-2", "HTP", ("sd7-g2",), ("Snapdragon 7+ Gen 2", "SM7475"), 25.6, "snapdragon-8-gen-1",
             note=BY_MEMORY),
        Chip("snapdragon-4-gen-2", "HTP", ("sd4g2",), ("SM4450",), 25.6, "qcs6490", note="scaled from the QCS6490", speed=0.7),
        Chip("dimensity-9300", "APU", (), ("MT6989",), 76.8, "snapdragon-8-gen-3", note=NO_ROWS),
        Chip("dimensity-9400", "APU", (), ("MT6991",), 85, "snapdragon-8-gen-3", note=NO_ROWS),
        Chip("dimensity-1300", "APU", (), ("MT6893",), 34.1, "snapdragon-8-gen-1", note=NO_ROWS),
        Chip("exynos-2400", "NPU", ("exynos-2400-erd",), (), 68, "snapdragon-8-gen-3", note="five MLPerf figures are all"),
        Chip("exynos-2500", "NPU", (), (), 76.8, "snapdragon-8-gen-3", note=NO_ROWS),
        Chip("tensor-g2", "EdgeTPU", ("pixel-7", "pixel-7-pro"), (), 51.2, "snapdragon-8-gen-1", note=NO_ROWS),
        Chip("tensor-g3", "EdgeTPU", ("pixel-8", "pixel-8-pro"), (), 51.2, "snapdragon-8-gen-1", note="ten int8 CNNs are all"),
        Chip("tensor-g4", "EdgeTPU", ("pixel-9", "pixel-9-pro"), (), 64, "snapdragon-8-gen-1", note=NO_ROWS),
        Chip("tensor-g5", "EdgeTPU", ("pixel-10", "google-pixel-10", "pixel-10-pro"), (), 68.2, "snapdragon-8-gen-1", note=NO_ROWS),
        Chip("ethos-u85", "Ethos-U", ("alif-e8",), ("Ethos-U85-256",), None, "qcs6490", 0.05, note=NO_ROWS, fp16=False),
        Chip("ethos-u65", "Ethos-U", (), ("Ethos-U65-256",), None, "qcs6490", 0.02, note=NO_ROWS, fp16=False),
        Chip("tensor-g1", "CPU", ("pixel-6", "pixel-6-pro"), (), 51.2, note="measured on its CPU alone"),
        Chip("snapdragon-855", "Hexagon DSP", ("pixel-4",), (), 34.1, "qcs6490", 0.5, note="nine int8 CNNs are all"),
    )
}  # fmt: skip
# Six current phones that a report shows, whoever makes them.
REPORTED = ("iphone-15", "iphone-16-pro", "iphone-17", "galaxy-s24", "galaxy-s25", "galaxy-s26")


@functools.cache  # a report asks for each phone many times, and every chip has several names
def _squash(name: str) -> str:
    low = re.sub(
        r"(?i)\b(galaxy|apple|samsung|qualcomm|google|oneplus|mediatek|arm|bionic|proxy|qrd|crd|soc|mobile|phone)\b",
        " ",
        name,
    )
    return re.sub(r"[^a-z0-9+]", "", low.lower()).replace("7+", "7plus")


def _spellings() -> dict[str, tuple[str, str]]:
    """Squashed spelling -> (chip, the name to show)."""
    known: dict[str, tuple[str, str]] = {}
    for chip in CHIPS.values():
        for name in (chip.name, *chip.phones, *chip.says):
            known.setdefault(_squash(name), (chip.name, name))
            known.setdefault(_squash(name.replace("snapdragon-", "")), (chip.name, name))
    return known


def find_chip(device: str) -> Chip:
    """The chip of a phone, board or chip as people and tables write it: "iPhone 12 Pro Max", "Samsung Galaxy S24", "SM8650".

    Raises:
        UsageError: none is known by that name, with the near ones.
    """
    known, wanted = _spellings(), _squash(device)
    if wanted in known:
        return CHIPS[known[wanted][0]]
    inside = [
        spelled for spelled in known if len(spelled) > 3 and spelled in wanted
    ]  # "QCS8550 (Proxy)", "iPhone 15 Pro, A17 Pro"
    if inside:
        return CHIPS[known[max(inside, key=len)][0]]
    shown = {name.lower(): name for _, name in known.values()}
    near = difflib.get_close_matches(wanted, known, 3, 0.6)
    written = difflib.get_close_matches(re.sub(r"[^a-z0-9]+", "-", device.lower()), shown, 4, 0.7)
    names = list(dict.fromkeys([shown[name] for name in written] + [known[spelled][1] for spelled in near]))[:5]
    hint = f" Near: {', '.join(names)}." if names else ""
    raise UsageError(f"No device {device!r} is known.{hint} `distill list devices` lists them all.")
