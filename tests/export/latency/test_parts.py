"""Where a predicted latency goes: shares that add up, places that are known, and the same totals as the prediction's own."""

import pytest

from export.latency.graph.features import published_features
from export.latency.parts import parts
from export.latency.predictor import published_predictor

MCI, TEXT = "timm:fastvit_mci0@256", "text:12x512:49408:last@77"


@pytest.mark.parametrize("device", ["iphone-12-pro-max", "galaxy-s24"])
@pytest.mark.parametrize("model", [MCI, TEXT])
def test_the_parts_are_the_whole_and_the_largest_is_what_the_tower_is_made_of(device, model):
    rows = parts(published_predictor(), device, published_features()[model], "fp16", 2.0)
    assert 1.9 < sum(row["ms"] for row in rows) <= 2.001  # what is under half a percent is not told
    assert [row["ms"] for row in rows] == sorted((row["ms"] for row in rows), reverse=True)
    assert rows[0]["name"] == {MCI: "1 x 1 convolutions", TEXT: "linear layers"}[model]
    assert {row["place"] for row in rows} <= {"ANE", "HTP", "CPU"}
    linear = next(row for row in rows if row["name"] == "linear layers")
    assert linear["count"] == {MCI: 5, TEXT: 49}[model]  # as many as the graph has; 12 layers of 4, and the projection


def test_what_is_known_to_leave_the_npu_is_marked():
    rows = parts(published_predictor(), "iphone-15", published_features()["timm:mobilevitv2_050@256"], "fp16", 1.0)
    assert {row["name"]: row["place"] for row in rows}["softmaxes"] == "may leave the NPU"
