"""The house has floors: imports go down only, never in a circle, and no folder is a crowd. The plan is data.

Four rules, each a function from files to complaints, so that each can be shown to fail on a planted fault.
"""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "distill": {"distill", "export", "students", "reinforced_data", "teachers"},
    "export": {"export", "students", "distill.core"},
    "students": {"students", "distill.core"},
    "reinforced_data": {"reinforced_data", "teachers", "distill.core"},
    "teachers": {"teachers", "distill.core"},
    "distill.core": {"distill.core"},
}
# Rooms of each folder, from the ground up. A room imports rooms of lower floors, and itself.
FLOORS = {
    "distill": ["core", "processes learning evaluation", "console recipe", "models rehearsal run_folder", "reporting",
                "stages", "verbs", "cli", "__main__"],
    "export": ["app artifacts settings", "device target", "mil", "devices", "targets towers", "children", "run", "latency", "predict_rows"],
    "students": ["spec tokenizer folding", "vocabularies", "student zoo reparameterize", "inherit checkpoints"],
    "reinforced_data": ["sample sentences read_as captions_look", "source pixels rendered", "sources", "store", "labelling", "training published",
                        "curation"],
    "teachers": ["spec", "teacher captioner zoo", "open_clip", "towers captioners", "loaders", "load load_captioner"],
}  # fmt: skip
MOST_NAMES = 13  # at the top of a folder: a dozen or so can be taken in at a glance
# Each file of these registers things of one kind, and there may be any number of them.
EXTENSIONS = {
    "distill/verbs", "distill/learning/losses", "export/targets", "export/devices", "students/inherit/strategies",
    "students/zoo", "teachers/zoo", "teachers/captioners", "teachers/loaders", "reinforced_data/sources",
    "reinforced_data/curation/filters", "export/towers/lints/rules",
}  # fmt: skip
# Importing these modules must stay quick, so that `distill --help` and `distill list` answer at once.
HEAVY = {
    "torch", "timm", "open_clip", "coremltools", "executorch", "onnx", "onnxruntime", "datasets", "accelerate", "matplotlib",
}  # fmt: skip
LIGHT = ("distill/cli", "distill/recipe", "distill/verbs", "teachers/zoo", "teachers/spec.py",
         "teachers/load.py", "teachers/loaders", "teachers/teacher.py", "students/zoo", "students/spec.py",
         "reinforced_data/sources", "reinforced_data/source.py", "reinforced_data/sample.py",
         "reinforced_data/labelling/settings.py", "reinforced_data/store/names.py", "reinforced_data/store/dtypes.py",
         "export/targets", "export/devices", "export/towers/lints/rules", "export/towers/lints/rule.py", "export/artifacts", "export/settings.py", "distill/core")  # fmt: skip

# Of these, a class of torch's is the whole content; only what builds one imports them.
CLASSES = ("distill.core.clip.mixed_text",)


@functools.cache
def modules(root: Path = ROOT) -> dict[str, ast.Module]:
    """Dotted name -> syntax tree of every module of the five folders; parsed once, not to be changed."""
    found = {}
    for folder in FLOORS:
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imports(tree: ast.AST, known: "set[str] | dict[str, ast.Module]") -> Iterator[str]:
    """Every module that a tree imports, wherever in it; `from a import b` is a.b when that is a module of ours."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else str(node.module)


def between_folders(trees: dict[str, ast.Module]) -> list[str]:
    """Imports from a folder that the importing one may not know."""
    wrong = []
    for name, tree in trees.items():
        allowed = MAY_IMPORT["distill.core" if f"{name}.".startswith("distill.core.") else name.split(".")[0]]
        for other in imports(tree, trees):
            if other.split(".")[0] in FLOORS and not any(f"{other}.".startswith(f"{place}.") for place in allowed):
                wrong.append(f"{name} imports {other}")
    return wrong


def upward(trees: dict[str, ast.Module]) -> list[str]:
    """Imports from a room to one on the same floor or above; rooms that no floor has."""
    wrong = []
    for folder, floors in FLOORS.items():
        floor = {room: number for number, rooms in enumerate(floors) for room in rooms.split()}
        for name, tree in trees.items():
            own = name.split(".")
            if own[0] != folder or len(own) == 1:
                continue
            if own[1] not in floor:
                wrong.append(f"{name} lies in no room of FLOORS")
                continue
            for other in imports(tree, trees):
                place = other.split(".")
                if place[0] != folder or len(place) == 1 or place[1] == own[1]:
                    continue
                if floor.get(place[1], len(floors)) >= floor[own[1]]:
                    wrong.append(f"{name} imports {other}")
    return wrong


def circles(trees: dict[str, ast.Module]) -> list[str]:
    """Modules that import each other, through however many others."""
    arrows = {
        name: {other for other in imports(tree, trees) if other in trees} - {name} for name, tree in trees.items()
    }
    while True:  # take away what imports nothing that is left; what stays goes round
        free = {name for name, others in arrows.items() if not others}
        if not free:
            return sorted(arrows)
        arrows = {name: others - free for name, others in arrows.items() if name not in free}


def crowded(root: Path = ROOT) -> list[str]:
    """Folders with more than MOST_NAMES modules and rooms at their top, those apart whose files are all of a kind."""
    found = []
    for folder in FLOORS:
        for place in [root / folder, *(path for path in (root / folder).rglob("*") if path.is_dir())]:
            where = place.relative_to(root).as_posix()
            names = {path.name for path in place.glob("*.py")} - {"__init__.py", "__main__.py"}
            names |= {path.parent.name for path in place.glob("*/__init__.py")}
            if len(names) > MOST_NAMES and where not in EXTENSIONS:
                found.append(f"{where}: {len(names)}")
    return found


def test_folders_import_the_folders_below():
    assert between_folders(modules()) == []


def test_rooms_import_the_rooms_below():
    assert upward(modules()) == []


def test_nothing_goes_in_circles():
    assert circles(modules()) == []


def test_no_folder_is_a_crowd():
    assert crowded() == []


def test_planted_faults_are_found(tmp_path):
    trees = dict(modules())
    planted = {
        "students.planted": "import teachers.spec",
        "reinforced_data.sample": "def f():\n    from reinforced_data.store import reader",
        "teachers.spec": "from teachers.teacher import Teacher",
        "distill.attic": "",
    }
    trees |= {name: ast.parse(text) for name, text in planted.items()}
    assert between_folders(trees) == ["students.planted imports teachers.spec"]
    assert {
        "reinforced_data.sample imports reinforced_data.store.reader",
        "distill.attic lies in no room of FLOORS",
    } < set(upward(trees))
    assert {"teachers.spec", "teachers.teacher"} <= set(circles(trees))
    for number in range(MOST_NAMES + 1):
        (tmp_path / "students" / "attic").mkdir(parents=True, exist_ok=True)
        (tmp_path / "students" / "attic" / f"box_{number}.py").touch()
    assert crowded(tmp_path) == [f"students/attic: {MOST_NAMES + 1}"]


def top_imports(tree: ast.Module) -> set[str]:
    """What importing the module itself imports."""
    top = ast.Module([node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))], [])
    return set(imports(top, modules()))


def test_light_modules_import_nothing_heavy_at_the_top():
    light = {
        name: tree
        for name, tree in modules().items()
        if f"{name.replace('.', '/')}.py".startswith(LIGHT) and name not in CLASSES
    }  # fmt: skip
    assert not [name for name, tree in light.items() if any(other in CLASSES for other in top_imports(tree))]
    assert len(light) > 30
    for name, tree in light.items():
        assert not {other.split(".")[0] for other in top_imports(tree)} & HEAVY, name
