"""Make the published rows and features that come with the package from a table of published latencies.

    python -m benchmarks.latency_rows TABLE.csv

Writes export/latency/data/published.csv (the table, each row with the key of its model's operations) and features.json.gz
(the operations of every model that can be built here, so that an installed package builds none of them).
"""

import argparse
import csv
import io
from pathlib import Path

from distill.core import atomic
from distill.core.errors import UsageError
from export.latency.graph.build import operations
from export.latency.graph.features import PUBLISHED as FEATURES
from export.latency.graph.features import write_features
from export.latency.graph.names import resolve
from export.latency.rows import COLUMNS
from export.latency.rows import PUBLISHED as ROWS

# AI Hub's classifiers all take 224 pixels (qai_hub_models/models/_shared/imagenet_classifier/model.py, IMAGENET_DIM), whatever
# the architecture's own size is that the table gives.
AI_HUB_SIZES = {("efficientnet_v2_s", "384"): "224"}
# Published for another graph than the library builds: windowed attention at 512 pixels.
OTHERS = {("iformer", "512")}


def key_of(row: dict[str, str], built: dict[str, dict], made: dict[str, str]) -> str:
    """The key of the first model of the same operations: weights and names do not matter for time."""
    name = row["timm_or_openclip_name"] or row["model"]
    tower = " text" if row["model"].lower().endswith((" text", "textencoder")) else ""
    tower = " image" if row["model"].lower().endswith((" image", "imageencoder")) else tower
    size = AI_HUB_SIZES.get((row["model"], row["input_size"]), row["input_size"])
    if any(squashed in row["model"].lower() and size == at for squashed, at in OTHERS):
        return ""
    try:
        key = resolve(name if name.lower().endswith(tower) else name + tower, size)
        if str(key) not in made:
            found = operations(key)
            made[str(key)] = next((name for name, known in built.items() if known == found), str(key))
            built.setdefault(made[str(key)], found)
        return made[str(key)]
    except UsageError as error:
        print("left without operations:", row["model"], row["input_size"], "-", error)
        return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    table = list(csv.DictReader(io.StringIO(parser.parse_args().table.read_text(encoding="utf-8"))))
    built: dict[str, dict] = {}
    made: dict[str, str] = {}
    keys: dict[tuple[str, ...], str] = {}
    for row in table:
        named = (row["timm_or_openclip_name"], row["model"], row["input_size"])
        row["key"] = keys[named] if named in keys else keys.setdefault(named, key_of(row, built, made))
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    ROWS.parent.mkdir(exist_ok=True)
    atomic.write_text(ROWS, out.getvalue())
    write_features(FEATURES, built)
    print(f"{len(table)} rows, {sum(bool(row['key']) for row in table)} with operations; {len(built)} models")


if __name__ == "__main__":
    main()
