"""Every rule finds its planted violation, and the mend that it names silences it; the graphs that students have keep all errors out."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from export.settings import ChipSettings, ExportSettings
from export.target import TARGETS
from export.towers.lints.graph import graph_of, trace_tower, with_peaks
from export.towers.lints.lint import lint, mended, rules_for, towers_of
from export.towers.lints.rule import RULES, UNITS, Subject
from students.spec import STUDENTS
from students.student import build_student


class Made(nn.Module):
    """A tower of one function; its layers are arguments."""

    def __init__(self, run, **layers):
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.run(self, x)


def scores(tokens, heads=1, width=3):
    """Attention over so many tokens, by two products and a softmax."""

    def run(self, x):
        q = x.flatten(2)[:, :width, :tokens].transpose(1, 2).reshape(1, heads, tokens, width)
        return (q @ q.transpose(2, 3)).softmax(-1) @ q

    return Made(run)


def windows(rank):
    """A partition into windows, with its axes folded to so many."""
    shape = (1, 3, 4, 4, 4, 4) if rank == 6 else (3, 4, 4, 16)
    return lambda self, x: x.reshape(shape).transpose(-2, -1)


def with_attention(run):
    inner = scores(16)
    return Made(lambda self, x: (run(self, x), self.inner(x)), inner=inner)


def norm(eps):
    return Made(lambda self, x: self.norm(x.flatten(2)), norm=nn.LayerNorm(256, eps=eps))


class Masked(nn.Module):
    def __init__(self, fill):
        super().__init__()
        self.register_buffer("mask", torch.full((16, 16), fill).triu(1))

    def forward(self, x):
        return (x + self.mask).softmax(-1)


def conv(*args, **kwargs):
    return Made(lambda self, x: self.conv(x), conv=nn.Conv2d(*args, **kwargs))


def separable(self, x):
    """MobileViTv2's: a softmax over places weighs them, and no product of activations."""
    weights = x.flatten(2)[:, :1].softmax(-1)
    return (x.flatten(2) * weights).sum(-1)


def linear_attention(self, x):
    q = x.flatten(2)
    return (q @ q.transpose(1, 2)) @ q


def shuffle(self, x):
    return torch.cat([x, x[:, :1]], 1).reshape(1, 2, 2, 16, 16).transpose(1, 2).reshape(1, 4, 16, 16)


def lookup(self, tokens):
    return self.table(tokens.long())


def by_argmax(self, tokens):
    x = lookup(self, tokens)
    return x[torch.arange(1), tokens.argmax(-1)]


TABLE = {"table": nn.Embedding(8, 4)}
PIXELS, TOKENS = torch.rand(1, 3, 16, 16), torch.tensor([[1, 2, 7, 0]], dtype=torch.int32)
BATCHES = {0: torch.export.Dim("b", min=1, max=4)}
OLD, NEW = ChipSettings(qualcomm="SM8350"), ChipSettings()
U55 = ChipSettings(ethos_u="ethos-u55-128")
# Rule -> (violation, the same after the mend), each a tower, or (tower, settings of the case).
CASES = {
    "GRAPH-SHAPE": ((conv(3, 4, 1), {"target": "onnx", "open": True}), (conv(3, 4, 1), {"target": "onnx"})),
    "GRAPH-TRAINED": (
        (Made(lambda self, x: self.norm(x), norm=nn.BatchNorm2d(3)), {"target": "onnx"}),
        (Made(lambda self, x: x * 2 + 1), {"target": "onnx"}),
    ),
    "GRAPH-SEARCH": (
        (Made(lambda self, x: torch.nonzero(x)), {"target": "onnx"}), (Made(lambda self, x: (x > 0) * x), {"target": "onnx"}),
    ),
    "ANE-SHAPE": ((conv(3, 4, 1), {"open": True}), conv(3, 4, 1)),
    "ANE-RANK": (Made(windows(6)), Made(windows(4))),
    "ANE-ATTN": ((scores(512), {"given": torch.rand(1, 4, 32, 32)}), (scores(256), {"given": torch.rand(1, 4, 32, 32)})),
    "ANE-EINSUM": (
        Made(lambda self, x: torch.einsum("bchw,bkhw->bck", x, x)), Made(lambda self, x: x.flatten(2) @ x.flatten(2).mT.softmax(-1)),
    ),
    "ANE-UNFOLD": (Made(lambda self, x: F.unfold(x, 2)), conv(3, 12, 2)),
    "ANE-EOT": (
        (Made(by_argmax, **TABLE), {"given": TOKENS, "tower": "text"}),
        (Made(lambda self, t: ((t == 7).float().unsqueeze(1) @ lookup(self, t)), **TABLE), {"given": TOKENS, "tower": "text"}),
    ),
    "ANE-EMB": (
        (Made(lookup, **TABLE), {"given": TOKENS, "tower": "text"}),
        (Made(lambda self, t: t.float() * 2), {"given": TOKENS, "tower": "text"}),
    ),
    "ANE-MASK": (Masked(-math.inf), Masked(-1e4)),
    "ANE-FP16": ((Made(lambda self, x: x * 1e6), {"peaks": True}), (Made(lambda self, x: x * 1e3), {"peaks": True})),
    "ANE-LN": (norm(1e-12), norm(1e-5)),
    "ANE-SDPA": (
        Made(lambda self, x: F.scaled_dot_product_attention(x, x, x)), Made(lambda self, x: (x @ x.mT).softmax(-1) @ x),
    ),
    "ANE-CONV": (conv(3, 4, 3, dilation=2), conv(3, 4, 3)),
    "ANE-TOK": (scores(17), scores(16)),
    "ANE-SPLIT": (Made(lambda self, x: torch.cat([x, x], 1)), Made(lambda self, x: torch.cat([x, x], 2))),
    "ANE-SMALL": (conv(3, 4, 1), (conv(3, 128, 7), {"given": torch.rand(1, 3, 16, 16)})),
    "HTP-CH": (conv(3, 30, 1), conv(3, 32, 1)),
    "HTP-LAYOUT": (
        Made(lambda self, x: self.conv(x).mT.flatten(2).mT.unsqueeze(0).transpose(0, 1).reshape(-1), conv=nn.Conv2d(3, 4, 1)),
        conv(3, 4, 1),
    ),
    "HTP-ACT": (
        Made(lambda self, x: F.gelu(self.conv(x)), conv=nn.Conv2d(3, 4, 1)),
        Made(lambda self, x: F.hardswish(self.conv(x)), conv=nn.Conv2d(3, 4, 1)),
    ),
    "HTP-PC": (
        Made(lambda self, x: self.conv(x.flatten(2)), conv=nn.Conv1d(3, 4, 3)),
        Made(lambda self, x: self.conv(x.flatten(2).unsqueeze(2)), conv=nn.Conv2d(3, 4, (1, 3))),
    ),
    "HTP-MASK": (Masked(-math.inf), Masked(-255.0)),
    "HTP-ARCH": (
        (conv(3, 4, 1), {"target": "executorch-qnn", "chips": OLD}), (conv(3, 4, 1), {"target": "executorch-qnn", "chips": NEW}),
    ),
    "HTP-WIN": ((with_attention(windows(6)), {"precision": "w8a8"}), (with_attention(windows(6)), {"precision": "fp16"})),
    "HTP-QVIT": ((scores(16), {"precision": "w8a8"}), (scores(16), {"precision": "w8a16"})),
    "HTP-FASTVIT": (
        (conv(3, 4, 1), {"precision": "w8a8", "net": "fastvit_mci0"}), (conv(3, 4, 1), {"precision": "fp16", "net": "fastvit_mci0"}),
    ),
    "HTP-SOC": ((conv(3, 4, 1), {"target": "executorch-qnn"}), (conv(3, 4, 1), {"target": "onnx-qnn"})),
    "HTP-SPEED": ((scores(16), {"precision": "w8a8"}), (scores(16), {"precision": "fp16"})),
    "ETHOS-AXES": (
        (Made(lambda self, x: x.mT), {"chips": U55, "given": torch.rand(1, 3, 160, 160)}),
        (Made(lambda self, x: x.mT), {"chips": U55, "given": torch.rand(1, 3, 128, 128)}),
    ),
    "ETHOS-OPS": (Made(lambda self, x: self.act(x), act=nn.PReLU()), Made(lambda self, x: x.relu())),
    "ETHOS-RANK": (
        Made(lambda self, x: x.reshape(1, 3, 4, 4, 16).permute(0, 2, 1, 3, 4)), Made(lambda self, x: x.permute(0, 2, 3, 1)),
    ),
    "ETHOS-SOFTMAX": (Made(lambda self, x: x.softmax(-1)), Made(lambda self, x: x.relu())),
    "VK-RANK": (Made(lambda self, x: x.reshape(1, 3, 4, 4, 16) * 2), Made(lambda self, x: x * 2)),
    "VK-HARDSWISH": (Made(lambda self, x: F.hardswish(x)), Made(lambda self, x: x.relu())),
    "XNN-BMM": (scores(16), conv(3, 4, 1)),
}  # fmt: skip
USUAL = {
    "ANE": "coreml",
    "HTP": "onnx-qnn",
    "Ethos-U": "executorch-ethos-u",
    "Vulkan": "executorch-vulkan",
    "XNNPACK": "executorch-xnnpack",
}


def found(name, case):
    """The places where a rule holds of a case."""
    module, settings = case if isinstance(case, tuple) else (case, {})
    rule, tower = RULES.get(name), settings.get("tower", "image")
    given = settings.get("given", PIXELS)
    graph = trace_tower(module.eval(), given.repeat(2, 1, 1, 1) if settings.get("open") else given, tower,
                        [BATCHES] if settings.get("open") else None)  # fmt: skip
    if settings.get("peaks"):
        graph = with_peaks(graph, [given])
    target = settings.get("target", USUAL.get(rule.unit))
    cfg = {"vision_cfg": {"timm_model_name": settings.get("net")}}
    subject = Subject(target, settings.get("precision", "fp16"), settings.get("chips", NEW), cfg)
    assert name in dict(rules_for(target))
    return list(rule.find(graph, subject))


def test_every_rule_has_a_case():
    assert set(RULES) == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_the_planted_violation_is_found_and_the_mend_silences_it(name):
    bad, good = CASES[name]
    places = found(name, bad)
    assert places
    assert all(place.what for place in places)
    assert found(name, good) == []


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("ANE-UNFOLD", Made(shuffle)),
        ("ANE-UNFOLD", Made(linear_attention)),
        ("ANE-UNFOLD", Made(separable)),
        ("ANE-EINSUM", Made(lambda self, x: x.roll(2, 2))),
        ("ANE-MASK", Masked(torch.finfo(torch.float32).min)),
        ("ANE-MASK", Made(lambda self, x: x.masked_fill(x > 0.5, -1e9))),
        ("ANE-CONV", conv(3, 4, 15, padding=7)),
        ("ANE-CONV", Made(lambda self, x: F.max_pool2d(x, 3, 3))),
        ("ANE-CONV", Made(lambda self, x: F.interpolate(x, scale_factor=4))),
        ("ANE-FP16", Made(lambda self, x: F.softplus(x))),
        ("ANE-LN", Made(lambda self, x: F.rms_norm(x, (16,)))),
    ],
)
def test_other_forms_of_a_violation_are_found_too(name, bad):
    assert found(name, bad)


def test_what_looks_alike_is_left_alone():
    assert found("ANE-UNFOLD", Made(lambda self, x: x.mean((2, 3)).softmax(-1))) == []  # a classifier's probabilities
    assert found("ANE-CONV", (conv(3, 8, 16, stride=16), {})) == []  # a patch is one product
    assert (
        found("ANE-UNFOLD", Made(lambda self, x: x.reshape(1, 3, 4, 4, 16).transpose(2, 3))) == []
    )  # no groups of channels
    assert (
        found("ANE-EOT", (Made(lookup, **TABLE), {"given": TOKENS, "tower": "text"})) == []
    )  # a table is no activation
    assert found("ANE-FP16", (Made(lambda self, x: x * 1e6), {"peaks": True, "precision": "fp32"})) == []


def test_operations_inside_a_region_of_casts_are_seen():
    def inside(self, x):
        with torch.autocast("cpu", enabled=False):
            return x.float().roll(1, 2)

    assert found("ANE-EINSUM", Made(inside))


def test_numbers_are_those_that_the_tower_reaches():
    graph = with_peaks(trace_tower(Made(lambda self, x: (x * 100).relu() - 7), PIXELS, "image"), [PIXELS, PIXELS * 3])
    peaks = {operation.op: graph.peaks[operation.node.name] for operation in graph.operations}
    assert peaks["mul"] == pytest.approx(float(PIXELS.max()) * 300)
    assert peaks["sub"] == pytest.approx(float(PIXELS.max()) * 300 - 7)


@pytest.fixture(scope="module")
def nano():
    return build_student(STUDENTS.get("nano"), 0)


def test_what_export_mends_is_not_found_but_said(nano):
    """nano's own modules have a mask of -inf, fused attention and an argmax; the graph that is lowered has none of them."""
    assert bool(torch.isinf(nano.clip.attn_mask).any())
    graphs = towers_of(nano)
    every = [TARGETS.get(name).at(one) for name in TARGETS for one in TARGETS.get(name).precisions]
    findings = lint(graphs, every, ExportSettings(), nano.spec.model_cfg)
    assert [one for one in findings if one.severity == "E"] == []
    assert {one.rule for one in findings} >= {"ANE-TOK", "ANE-EMB"}  # 65 tokens; a table
    told = "; ".join(mended(nano))
    assert "attn_mask: -inf became -1e4" in told
    assert "fused attentions written out" in told
    assert "argmax" in told
    raw = torch.export.export(
        Made(lambda self, t: self.clip.encode_text(t), clip=nano.clip), (torch.zeros(1, 32, dtype=torch.int32),)
    )
    kinds = {
        name for name, rule in RULES.items() if list(rule.find(graph_of(raw, "text"), Subject("coreml", "fp16", NEW)))
    }
    assert {"ANE-MASK", "ANE-EOT", "ANE-SDPA"} <= kinds


def test_findings_are_gathered_by_target_with_the_errors_first():
    bad = trace_tower(Made(lambda self, x: windows(6)(self, torch.cat([x, x], 1)[:, :3])), PIXELS, "image")
    targets = [
        TARGETS.get("coreml").at("fp16"),
        TARGETS.get("coreml").at("w8"),
        TARGETS.get("executorch-vulkan"),
        TARGETS.get("ort"),
    ]
    findings = lint({"image": bad}, targets, ExportSettings(), {})
    assert findings[0].rule == "ANE-RANK"
    assert findings[0].targets == ("coreml-fp16", "coreml-w8")
    assert [one.severity for one in findings] == sorted((one.severity for one in findings), key="EWI".index)
    assert next(one for one in findings if one.rule == "VK-RANK").targets == ("executorch-vulkan-fp16",)
    assert "five axes" in findings[0].sentence()
    assert set(UNITS) <= set(TARGETS)
