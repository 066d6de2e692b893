"""What phone students inherit from published teachers, by their configurations alone."""

import pytest

from benchmarks.inheritance_table import source_of
from distill.core.clip.folder import vocabulary_id
from students.inherit.planning import make_plan
from students.spec import STUDENTS


@pytest.mark.parametrize(
    ("teacher", "facts"),
    [
        ("openai-vitb32", ["activation", "causal"]),
        ("datacomp-vitl14", ["causal"]),
        ("siglip-b16", ["context_length", "pooling", "vocabulary"]),
        ("mobileclip2-s4", []),
    ],
)
def test_the_text_tower_of_a_phone_student_comes_from_the_teacher_s(teacher, facts):
    plan = make_plan(source_of(teacher), STUDENTS.get("mci0").model_cfg, "uniform", vocabulary_id(None))
    text = plan.towers["text"]
    assert (len(text.layers), len(text.hidden), len(text.heads[0]), len(text.embed)) == (12, 512, 8, 512)
    assert sorted(plan.across.get("text", {})) == facts


def test_an_image_transformer_comes_from_larger_ones_with_other_patches_and_heads():
    cfg = STUDENTS.get("tinyclip-vit8m16").model_cfg
    image = make_plan(source_of("laion-vith14"), cfg, "uniform", vocabulary_id(None)).towers["visual"]
    assert (image.patch, image.positions, image.head_width) == ([14, 16], "interpolate", 64)
    assert {len(channels) for layer in image.channels for channels in layer} == {64}  # of 80
