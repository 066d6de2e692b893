"""`python -m export.predict_rows IN.csv OUT.csv`: a predicted latency, its interval and its source beside each row.

IN.csv has columns device, runtime, precision, model and input size, in any order and with others beside them. A row that
cannot be predicted keeps its line, with the reason in `source`. Left out: towers that are no published architecture (profile
an export instead).
"""

import argparse
import csv
import io
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from distill.core import atomic
from distill.core.errors import DistillError, UsageError
from export.latency.graph.features import Operations, known_as, published_features
from export.latency.graph.names import ModelKey, resolve
from export.latency.predictor import Prediction, identity_of, published_predictor

ADDED = ("predicted", "low", "high", "source")
# Columns, and what else tables call them; squashed to letters.
COLUMNS = {
    "device": ("device", "phone", "devicename", "soc", "chip", "chipset", "board"),
    "runtime": ("runtime", "engine", "backend", "framework", "delegate", "target"),
    "precision": ("precision", "dtype", "quantization", "quantisation", "bits", "weights"),
    "model": ("model", "timmoropenclipname", "name", "modelname", "architecture", "network", "tower"),
    "size": ("inputsize", "size", "input", "resolution", "imagesize", "contextlength", "shape", "inputshape"),
}
NEEDED = ("device", "model")


def predict_rows(source: Path, target: Path) -> tuple[int, int]:
    """Read `source`, write `target`; return how many rows there are and how many were predicted.

    Raises:
        UsageError: no such file, or a column that is needed is missing.
    """
    try:
        table = list(csv.reader(io.StringIO(source.read_text(encoding="utf-8-sig"))))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{str(source)!r} cannot be read: {error}") from None
    if not table:
        raise UsageError(
            f"{str(source)!r} is empty. Its first line names the columns: device, runtime, precision, model, input size."
        )
    header, *lines = table
    places = _places(header, source)
    kept = [index for index, name in enumerate(header) if name.strip().lower() not in ADDED]
    out, done = [[*(header[index] for index in kept), *ADDED]], 0
    known: dict[str, Operations] = {}
    for line in lines:
        if not any(cell.strip() for cell in line):
            continue
        cells = line + [""] * (len(header) - len(line))
        answer = _answer({name: cells[place].strip() for name, place in places.items()}, known)
        done += bool(answer[0])
        out.append([*(cells[index] for index in kept), *answer])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(out)
    atomic.write_text(target, text.getvalue())
    return len(out) - 1, done


def _places(header: Sequence[str], source: Path) -> dict[str, int]:
    squashed = [re.sub(r"[^a-z]", "", name.lower()) for name in header]
    places: dict[str, int] = {}
    for name, others in COLUMNS.items():
        for other in others:
            if other in squashed and name not in places:
                places[name] = squashed.index(other)
    missing = [name for name in NEEDED if name not in places]
    if missing:
        raise UsageError(
            f"{str(source)!r} has no column {' and no column '.join(missing)}. Its columns: {', '.join(header)}."
        )
    return places


def _answer(row: dict[str, str], known: dict[str, Operations]) -> list[str]:
    try:
        said = _predict(row, known)
    except DistillError as error:
        return ["", "", "", f"not predicted: {error}"]
    except Exception as error:  # one row must not stop the file
        return ["", "", "", f"not predicted: {type(error).__name__}: {' '.join(str(error).split())[:200]}"]
    bound = "lower bound, " if said.at_least else ""
    return [f"{said.ms:.4g}", f"{said.low:.4g}", f"{said.high:.4g}", f"{said.source}: {bound}{said.note}"]


def _predict(row: dict[str, str], known: dict[str, Operations]) -> Prediction:
    model, size, device = row["model"], row.get("size", ""), row["device"]
    identity = identity_of(model, size, device)
    words = {"runtime": row.get("runtime", ""), "precision": row.get("precision", "")}
    if identity:

        def published() -> Operations:
            return published_features().get(identity) or _operations(resolve(model, size), known)

        return published_predictor().predict(device, identity, published, **words)
    operations = _operations(resolve(model, size), known)
    return published_predictor().predict(device, known_as(operations), operations, **words)


def _operations(key: ModelKey, known: dict[str, Operations]) -> Operations:
    if str(key) not in known:
        from export.latency.graph.build import operations as build

        known[str(key)] = published_features().get(str(key)) or build(key)
    return known[str(key)]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status: 2 where the call was wrong."""
    parser = argparse.ArgumentParser(prog="python -m export.predict_rows", description=__doc__)
    parser.add_argument("source", type=Path, metavar="IN.csv")
    parser.add_argument("target", type=Path, metavar="OUT.csv")
    given = parser.parse_args(arguments)
    try:
        rows, done = predict_rows(given.source, given.target)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{done} of {rows} rows are predicted in {given.target}.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
