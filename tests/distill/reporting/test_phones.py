"""The table of phones that were not at hand: interval and source beside every figure."""

from distill.reporting import phones


def item(device, tower, ms, source="predicted", note="roofline", precision="fp16"):
    return {
        "device": device, "tower": tower, "precision": precision, "source": source, "note": note, "predicted_ms": ms,
        "low_ms": None if ms is None else ms * 0.8, "high_ms": None if ms is None else ms * 1.3,
    }  # fmt: skip


def test_both_towers_stand_in_one_row_with_interval_and_source():
    given = [
        item("iphone-15", "image", 2.0),
        item("iphone-15", "text", 1.0, "transferred"),
        item("galaxy-s24", "image", 3.0),
    ]
    assert phones.rows(given) == [
        ["iphone-15", "fp16", "image predicted, text transferred", "2 (1.6 to 2.6)", "1 (0.8 to 1.3)"],
        ["galaxy-s24", "fp16", "predicted", "3 (2.4 to 3.9)", "-"],
    ]
    assert phones.notes(given) == ["iphone-15: roofline", "galaxy-s24: roofline"]


def test_a_lower_bound_and_a_missing_figure_are_said():
    given = [
        item("iphone-15", "image", 2.0, note="roofline; at least, since shuffles"),
        item("iphone-15", "text", None, "not measured"),
    ]
    row = phones.rows(given)[0]
    assert row[3].startswith(">= 2")
    assert row[4] == "-"
