"""Operations and their sizes, against torch's own counter; and names, against what the libraries build."""

import pytest
import torch
from torch import nn

from distill.core.errors import UsageError
from export.latency.graph.build import operations
from export.latency.graph.features import PRODUCTS, known_as, pack, published_features, totals
from export.latency.graph.names import resolve
from export.latency.graph.trace import Op, compact, trace
from export.latency.lints import placement_lints


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Conv2d(8, 16, 1, groups=2))
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.deep(self.stem(x)).flatten(2).transpose(1, 2)
        x = x + self.attention(x, x, x, need_weights=True)[0]
        return self.head(x.mean(1))


def test_products_are_those_that_torch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    model, x = Mixed().eval(), torch.randn(1, 3, 16, 16)
    ops = trace(model, x)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            model(x)
        finally:
            torch.backends.mha.set_fastpath_enabled(True)
    assert 2 * sum(op.macs for op in ops) == counter.get_total_flops()
    assert {"conv", "dw", "grp", "lin", "bmm", "softmax", "io"} <= {op.kind for op in ops}


def test_attention_as_one_call_is_its_parts():
    class Fused(nn.Module):
        def forward(self, q, k):
            return nn.functional.scaled_dot_product_attention(q, k, k)

    ops = trace(Fused(), torch.randn(1, 2, 5, 8), torch.randn(1, 2, 7, 8))
    assert sum(op.macs for op in ops) == 2 * (2 * 5 * 7 * 8)
    assert [op.writes for op in ops if op.kind == "softmax"] == [2 * 5 * 7]


def test_what_follows_a_product_is_fused_into_it():
    ops = trace(Mixed().eval(), torch.randn(1, 3, 16, 16))
    assert [op.fused for op in ops if op.kind in ("bn", "act")] == [True, True]
    assert [op.fused for op in ops if op.name == "add"][-1]
    alone = trace(nn.Sequential(nn.ReLU(), nn.Conv2d(3, 3, 1)), torch.randn(1, 3, 4, 4))
    assert [op.fused for op in alone if op.kind == "act"] == [False]


def test_weights_are_the_models_parameters():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1, bias=False))
    assert sum(op.weights for op in trace(model, torch.randn(1, 3, 8, 8))) == sum(p.numel() for p in model.parameters())


def test_permutations_count_and_copies_and_layouts_do_not():
    class Moves(nn.Module):
        def forward(self, x):
            tokens = x.permute(0, 2, 3, 1)  # a layout
            return tokens.reshape(1, 4, 4, 2, 4).permute(3, 0, 1, 2, 4).contiguous()

    moves = [op for op in trace(Moves(), torch.randn(1, 8, 4, 4)) if op.kind == "move"]
    assert [(op.name, op.reads) for op in moves] == [("permute", 128)]


def test_a_product_of_activations_is_padded_to_tiles():
    thin = pack([{Op("bmm", "bmm", macs=16 * 196 * 17, rows=16, inner=196, outer=17): 1}])
    assert thin.flops.tolist() == [2 * 64 * 256 * 64]
    assert PRODUCTS[int(thin.kind[0])] == "bmm"


@pytest.mark.parametrize(
    ("name", "size", "key"),
    [
        ("MobileCLIP-S1 image", "256", "clip:MobileCLIP-S1:image@256"),
        ("MobileCLIP-S1 text", "77", "clip:MobileCLIP-S1:text@77"),
        ("MobileCLIP-S0 image", "256", "timm:fastvit_mci0@256"),
        ("RepViT-M1.5", "224x224", "timm:repvit_m1_5@224"),
        ("EfficientFormer-L3", 224, "timm:efficientformer_l3@224"),
        ("MobileNetV3-Large 1.0x", "224", "timm:mobilenetv3_large_100@224"),
        ("ShuffleNetV2 1.5x", "224", "tv:shufflenet_v2_x1_5@224"),
        ("MNv4-Conv-M backbone", "512", "timm:mobilenetv4_conv_medium@512"),
        ("LAION-B/16 image", "224", "clip:ViT-B-16:image@224"),
        ("SigLIP-B/16 text", "64", "clip:ViT-B-16-SigLIP:text@64"),
        ("ViT-B-32", "77", "clip:ViT-B-32:text@77"),
        ("ViT-S/16", "224", "clip:ViT-S-16:image@224"),
        ("deit-tiny/16", "224", "timm:deit_tiny_patch16_224@224"),
        ("TinyCLIP-ViT-40M-32-Text-19M", "224", "clip:TinyCLIP-ViT-40M-32-Text-19M:image@224"),
        ("text 6x384@77", "", "text:6x384:49408:last@77"),
        ("12x512", "32", "text:12x512:49408:last@32"),
        ("tv:squeezenet1_1", None, "tv:squeezenet1_1@224"),
    ],
)
def test_names_as_tables_write_them(name, size, key):
    assert str(resolve(name, size)) == key


def test_an_unknown_name_is_said_and_not_guessed():
    with pytest.raises(UsageError, match="repvit_m0_9"):
        resolve("RepViT-M0.6", "224")
    with pytest.raises(UsageError, match="not one number"):
        resolve("resnet50", "224x160")


def test_published_sizes_come_out():
    """MACs and parameters that the papers give: ResNet-50, MobileNetV2, CLIP's text tower without its table."""
    known = published_features()
    resnet, mobilenet = totals(known["timm:resnet50@224"]), totals(known["timm:mobilenetv2_100@224"])
    assert resnet["gmacs"] == pytest.approx(4.09, rel=0.02)
    assert resnet["mweights"] == pytest.approx(25.56, rel=0.01)
    assert mobilenet["gmacs"] == pytest.approx(0.30, rel=0.02)
    text = totals(operations(resolve("ViT-B-32 text", 77)))
    assert text["mweights"] == pytest.approx(37.8, rel=0.02)


def test_stored_operations_are_those_that_are_built_now():
    """One key stands for all models of the same operations, such as CLIP's text tower of 12 x 512."""
    assert operations(resolve("tv:squeezenet1_1", 224)) == published_features()["tv:squeezenet1_1@224"]
    assert known_as(operations(resolve("ViT-B-32 text", 77))) == known_as(operations(resolve("12x512", 77))) != ""
    assert known_as(operations(resolve("12x512", 76))) == ""


def test_what_npus_do_not_take_is_found():
    known = published_features()
    rules = {
        key: {lint.rule for lint in placement_lints(known[key], "ANE")}
        for key in ("tv:shufflenet_v2_x1_0@224", "timm:efficientvit_b1@224", "timm:mobilevitv2_050@256", "timm:resnet50@224",
                    "timm:fastvit_mci2@256", "clip:ViT-B-16:image@224", "text:12x512:49408:last@77", "clip:ViT-B-16-SigLIP:image@224",
                    "timm:efficientformerv2_s0@224", "timm:levit_128s@224", "timm:mobilevit_s@256")
    }  # fmt: skip
    assert rules["tv:shufflenet_v2_x1_0@224"] == {"ANE-SHUFFLE"}
    assert rules["timm:efficientvit_b1@224"] == {"NPU-LINEAR-ATTENTION"}
    assert rules["timm:mobilevitv2_050@256"] == {"ANE-SEPARABLE-ATTENTION", "ANE-RANK"}
    assert not any(rules[key] for key in list(rules)[3:])

    class Windows(nn.Module):
        def forward(self, x):
            return x.reshape(1, 2, 2, 2, 2, 3).permute(0, 1, 3, 2, 4, 5)

    assert [lint.rule for lint in placement_lints(compact(trace(Windows(), torch.randn(1, 4, 4, 3))), "ANE")] == [
        "ANE-RANK"
    ]
    assert placement_lints(compact(trace(Windows(), torch.randn(1, 4, 4, 3))), "HTP") == []
