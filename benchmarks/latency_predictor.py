"""How good latency predictions are for families that the predictor has not seen, and the fitted parameters that ship.

    python -m benchmarks.latency_predictor [--store]

Each family of models is left out of everything in turn: of the common fit of its kind of NPU, of each device's own, and of the
corrections; what is then predicted for it is compared with what was published. Intervals for a family are the quantiles of the
other families' errors. Lines in MACs, in weights and in both with a constant are fitted beside it in the same way, robustly and
non-negatively. --store writes export/latency/data/fitted.json: the fit to all rows, and intervals from the errors above.
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import nnls
from scipy.stats import spearmanr

from distill.core import atomic
from export.latency.fit.families import family_of
from export.latency.fit.learn import Kind, learn, typical
from export.latency.graph.features import pack, published_features, totals
from export.latency.lints import surcharge
from export.latency.predictor import FITTED
from export.latency.rows import Group, Row, fitting_rows, published_rows
from export.latency.transfer import Measured, table_of, transfer

KINDS = (
    ("ANE", "fp16"), ("ANE", "w8a16"), ("ANE", "w8a8"), ("HTP", "fp16"), ("HTP", "w8a8"), ("HTP", "w8a16"),
    ("CPU", "fp32"), ("CPU", "w8a8"), ("CPU", "w8a16"),
)  # fmt: skip
LINES = {"macs": ("gmacs",), "weights": ("mweights",), "three": ("gmacs", "mweights")}
ENDS = (0.05, 0.95)
FEW = 4.0  # what an interval from so many errors is widened by, over their number
ENOUGH = 20  # rows of its own from which a device and runtime gets an interval of its own
FEATURES = published_features()


def line(names: Sequence[str], keys: list[str], ms: np.ndarray) -> np.ndarray:
    """Coefficients of a robust non-negative line with a constant, by relative error."""
    inputs, weight = terms(names, keys), np.ones(len(ms))
    for _ in range(9):
        coefficients = nnls(inputs / ms[:, None] * weight[:, None], weight)[0]
        weight = 1 / np.sqrt(1 + ((inputs @ coefficients / ms - 1) / 0.12) ** 2 / 4)
    return coefficients


def terms(names: Sequence[str], keys: list[str]) -> np.ndarray:
    sums = [totals(FEATURES[key]) for key in keys]
    return np.array([[1.0, *(each[name] for name in names)] for each in sums])


class Judged:
    """What was predicted for held-out models of one device, runtime and precision."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.ms: list[float] = []
        self.said: dict[str, list[float]] = defaultdict(list)

    def error(self, name: str) -> float:
        return 100 * float(np.mean(np.abs(np.array(self.said[name]) / self.ms - 1)))

    def residuals(self) -> np.ndarray:
        return np.log(np.array(self.ms) / self.said["predicted"])

    def coverage(self) -> float:
        """Share of models inside the interval that the other families' errors give, in percent."""
        families, residuals = np.array([family_of(key) for key in self.keys]), self.residuals()
        inside = [ends(residuals[families != family]) for family in families]
        return 100 * float(
            np.mean([low <= value <= high for (low, high), value in zip(inside, residuals, strict=True)])
        )


def ends(residuals: np.ndarray) -> tuple[float, float]:
    """Ends of the interval that nine in ten errors lie in. The quantiles of few lie too near each other: they are widened."""
    low, high = np.quantile(residuals, ENDS[0], method="lower"), np.quantile(residuals, ENDS[1], method="higher")
    wider = 1 + FEW / len(residuals)
    return float(low) * wider, float(high) * wider


def judged(rows: dict[tuple[str, str], list[Row]]) -> dict[tuple[str, str, Group], Judged]:
    found: dict[tuple[str, str, Group], Judged] = defaultdict(Judged)
    for family in sorted({family_of(row.key) for group in rows.values() for row in group}):
        bases: dict[str, Kind] = {}
        for unit, precision in KINDS:
            seen = [row for row in rows[unit, precision] if family_of(row.key) != family]
            held = [row for row in rows[unit, precision] if family_of(row.key) == family]
            kind = learn(seen, FEATURES, unit, precision, base=bases.get(unit))
            bases.setdefault(unit, kind)
            by_group: dict[Group, dict[str, float]] = defaultdict(dict)
            for (group, key), ms in typical(seen, FEATURES).items():
                by_group[group][key] = ms
            for (group, key), ms in typical(held, FEATURES).items():
                entry = found[unit, precision, group]
                entry.keys.append(key)
                entry.ms.append(ms)
                models = pack([FEATURES[key]])
                alone = float(kind.predict(kind.own.get(group, kind.common), models)[0])
                entry.said["predicted"].append(alone * surcharge(FEATURES[key], unit))
                others = by_group[group]
                for name, parts in LINES.items():
                    few = len(others) < 4
                    fitted = None if few else line(parts, list(others), np.array(list(others.values())))
                    entry.said[name].append(ms if few else max(1e-3, float((terms(parts, [key]) @ fitted)[0])))
    return found


def transfers(rows: Sequence[Row]) -> dict[str, tuple[int, float, float, float]]:
    """Chip -> rows, mean and median error in percent and coverage in percent of taking a model over from its relatives, its own row unseen."""
    table = table_of(rows)
    found: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for group, (unit, models) in table.items():
        for model, ms in models.items():
            others = dict(table)
            others[group] = Measured(unit, {name: value for name, value in models.items() if name != model})
            if moved := transfer(others, group, model):
                found[group.chip].append((abs(moved.ms / ms - 1), abs(np.log(ms / moved.ms)) <= 1.645 * moved.spread))
    return {
        chip: (
            len(pairs),
            100 * float(np.mean([e for e, _ in pairs])),
            100 * float(np.median([e for e, _ in pairs])),
            100 * float(np.mean([c for _, c in pairs])),
        )
        for chip, pairs in sorted(found.items())
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", action="store_true", help="write the fit to all rows")
    store = parser.parse_args().store
    torch.set_num_threads(1)
    rows: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in fitting_rows(published_rows()):
        rows[row.unit, row.group.precision].append(row)
    found = judged(rows)
    print(
        "| device, runtime, precision | models | families | predicted | median | Spearman | in 90 % | MACs | weights | three terms |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for (unit, _, group), entry in sorted(found.items(), key=lambda item: (*item[0][:2], str(item[0][2]))):
        if len(entry.ms) < 12:
            continue
        median = 100 * float(np.median(np.abs(np.array(entry.said["predicted"]) / entry.ms - 1)))
        rho = float(spearmanr(entry.said["predicted"], entry.ms)[0])
        lines = " | ".join(f"{entry.error(name):.1f}" for name in LINES)
        families = len({family_of(key) for key in entry.keys})
        print(
            f"| {unit} {group} | {len(entry.ms)} | {families} | {entry.error('predicted'):.1f} | {median:.1f} | {rho:.3f} | "
            f"{entry.coverage():.0f} | {lines} |"
        )
    print("\n| chip | rows | taken over from a relative: mean error | median | in 90 % |\n|---|---|---|---|---|")
    for chip, (count, error, middle, inside) in transfers(published_rows()).items():
        print(f"| {chip} | {count} | {error:.1f} | {middle:.1f} | {inside:.0f} |")
    if store:
        write(rows, found)


def write(rows: dict[tuple[str, str], list[Row]], found: dict[tuple[str, str, Group], Judged]) -> None:
    """Store the fit to all rows and the factors to the ends of the intervals."""
    bases: dict[str, Kind] = {}
    kinds, bounds = [], {}
    for unit, precision in KINDS:
        kind = learn(rows[unit, precision], FEATURES, unit, precision, base=bases.get(unit))
        bases.setdefault(unit, kind)
        kinds.append(kind.to_json())
        own = {group: entry.residuals() for (u, p, group), entry in found.items() if (u, p) == (unit, precision)}
        every = np.concatenate(list(own.values())) if own else np.zeros(0)
        if len(every) >= ENOUGH:
            bounds[f"{unit}/{precision}"] = [round(float(np.exp(end)), 4) for end in ends(every)]
        bounds |= {
            str(group): [round(float(np.exp(end)), 4) for end in ends(residuals)]
            for group, residuals in own.items()
            if len(residuals) >= ENOUGH
        }
    atomic.write_json(FITTED, {"kinds": kinds, "bounds": bounds})
    print("wrote", FITTED)


if __name__ == "__main__":
    main()
