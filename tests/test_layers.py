"""Imports go down only. The table is data; the test reads every file with `ast`."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "distill": {"distill", "export", "students", "reinforced_data", "teachers"},
    "export": {"export", "students", "distill.core"},
    "students": {"students", "distill.core"},
    "reinforced_data": {"reinforced_data", "teachers", "distill.core"},
    "teachers": {"teachers", "distill.core"},
    "distill/core": {"distill.core"},
}
OURS = ("distill", "export", "students", "reinforced_data", "teachers")
# Importing these modules must stay quick, so that `distill --help` and `distill list` answer at once.
HEAVY = {
    "torch",
    "timm",
    "open_clip",
    "coremltools",
    "executorch",
    "onnx",
    "onnxruntime",
    "datasets",
    "accelerate",
    "matplotlib",
}
LIGHT = ("distill/cli.py", "distill/recipe.py", "distill/verbs", "teachers/zoo", "teachers/spec.py",
         "teachers/load.py", "students/zoo", "students/spec.py", "reinforced_data/sources", "reinforced_data/source.py",
         "reinforced_data/sample.py", "export/targets", "export/devices", "export/artifact.py", "distill/core")  # fmt: skip


def folder_of(path: Path) -> str:
    relative = path.relative_to(ROOT)
    return "distill/core" if relative.parts[:2] == ("distill", "core") else relative.parts[0]


def imports(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute here"
            found.append(node.module)
    return found


def files() -> list[Path]:
    return [path for folder in OURS for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_only(path):
    allowed = MAY_IMPORT[folder_of(path)]
    for name in imports(ast.parse(path.read_text(encoding="utf-8"))):
        if name.split(".")[0] in OURS:
            assert any(name == a or name.startswith(a + ".") for a in allowed), f"{path} imports {name}"


def test_light_modules_import_nothing_heavy_at_the_top():
    light = [p for p in files() if any(str(p.relative_to(ROOT)).startswith(prefix) for prefix in LIGHT)]
    assert len(light) > 30
    for path in light:
        top = [
            node
            for node in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(node, (ast.Import, ast.ImportFrom))
        ]
        for node in top:
            for name in imports(node):
                assert name.split(".")[0] not in HEAVY, f"{path} imports {name} at the top"
